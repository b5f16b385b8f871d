from contextlib import nullcontext

import numpy as np
import pytest
import torch

from genesis_ds.config import SamplesConfig
from genesis_ds.data.token_set import TokenSet, TokenSetManifest
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.evaluate.samples import Samples
from genesis_ds.tokenizer import load_tokenizer

BYTES = load_tokenizer("bytes")


@pytest.fixture
def sample(tmp_path):
    """Text of a validation chapter, tokens of it that are given, a temperature, scripted tokens -> what the hook says.

    The model finds every token as likely; with a script the n-th of it at the n-th place after the opening, then "z".
    """

    def write(text, prompt_tokens, temperature, *likeliest):
        np.save(tmp_path / "xx.val_chapter.tokens.npy", np.array([BYTES.bos_id, *BYTES.encode(text)], np.uint16))
        np.savez(tmp_path / "xx.val_chapter.verses.npz", verse_ids=[], starts=[], lengths=[])

        def logits(tokens):
            found = torch.zeros(*tokens.shape, BYTES.vocab_size + 4)
            found[..., BYTES.encode("z")] = 0.5 * bool(likeliest)
            for number, token in enumerate(likeliest):
                found[:, prompt_tokens - 1 + number : prompt_tokens + number, token] = 1
            return found

        hook = Samples(
            logits=logits,
            evaluating=nullcontext,
            token_set=TokenSet(tmp_path, TokenSetManifest("", "", ["xx"], {}, {}, "")),
            tokenizer=BYTES,
            vocab_size=BYTES.vocab_size + 4,
            config=SamplesConfig(prompt_tokens=prompt_tokens, new_tokens=60, temperature=temperature),
            every=1,
            seed=0,
            device=torch.device("cpu"),
        )
        hook.on_step(record := StepRecord(1, 1))
        return record.texts["sample/xx"]

    return write


def test_a_model_that_knows_nothing_writes_whole_characters_alone_and_goes_on_with_one_that_is_cut(sample):
    given, separator, written = sample("태초에 하나님이", 6, 1.0).partition(" | ")
    assert (given, separator) == ("태", " | ")
    assert "\ucd00" <= written[0] <= "\ucd3f", "a letter whose first two bytes are those of the one that was cut"
    assert "\ufffd" not in written


def test_a_text_that_the_model_ends_is_ended_and_no_other_special_is_written(sample):
    specials = [BYTES.pad_id, BYTES.unk_id, BYTES.bos_id, BYTES.vocab_size]
    assert sample("In the beginning", 5, 0.0, *BYTES.encode("ab"), BYTES.eos_id) == "In t | ab"
    assert sample("In the beginning", 5, 0.0, *specials, BYTES.eos_id) == "In t | zzzz"
