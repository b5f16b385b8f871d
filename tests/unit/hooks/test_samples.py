from contextlib import nullcontext

import numpy as np
import pytest
import torch

from genesis_ds.config import SamplesConfig
from genesis_ds.data.token_set import TokenSet, TokenSetManifest
from genesis_ds.errors import UserError
from genesis_ds.hooks.base import StepRecord
from genesis_ds.hooks.evaluate.samples import Samples
from genesis_ds.tokenizer import load_tokenizer

BYTES = load_tokenizer("bytes")


@pytest.fixture
def samples(tmp_path):
    """{language: text of a validation chapter}, tokens of it that are given, scripted tokens -> what the hook says.

    The model finds every token as likely; with a script the n-th of it at the n-th place after the opening, then "z".
    """

    def write(texts, prompt_tokens, *likeliest, new_tokens=60, given=0, temperature=0.0, languages=()):
        for name, text in texts.items():
            ids = np.array([BYTES.bos_id, *BYTES.encode(text)], np.uint16)
            np.save(tmp_path / f"{name}.val_chapter.tokens.npy", ids)
            np.savez(tmp_path / f"{name}.val_chapter.verses.npz", verse_ids=[], starts=[], lengths=[])

        def logits(tokens):
            found = torch.zeros(*tokens.shape, BYTES.vocab_size + 4)
            found[..., BYTES.encode("z")] = 0.5 * bool(likeliest)
            for number, token in enumerate(likeliest):
                found[:, given - 1 + number : given + number, token] = 1
            return found

        hook = Samples(
            logits=logits,
            evaluating=nullcontext,
            token_set=TokenSet(tmp_path, TokenSetManifest("", "", [*texts], {}, {}, "")),
            tokenizer=BYTES,
            vocab_size=BYTES.vocab_size + 4,
            config=SamplesConfig(
                prompt_tokens=prompt_tokens, new_tokens=new_tokens, temperature=temperature, languages=[*languages]
            ),
            every=1,
            seed=0,
            device=torch.device("cpu"),
        )
        hook.on_step(record := StepRecord(1, 1))
        return {name.removeprefix("sample/"): text.split(" | ") for name, text in record.texts.items()}

    return write


def test_opening_and_continuation_are_whole_words_of_the_text(samples):
    text = "In the beginning was the Word, and the Word was with God"
    found = samples({"aa": text}, 24, new_tokens=20)["aa"]
    assert found[0] == "In the beginning was "
    assert found[2] == "the Word, and the"
    assert text.startswith(found[0] + found[2])


def test_openings_of_several_lengths_are_each_continued_at_their_end(samples):
    script = (*BYTES.encode("ab"), BYTES.eos_id)
    texts = {"aa": "In the beginning", "bb": "A longword is here"}
    found = samples(texts, 12, *script, given=8)
    assert {name: parts[0] for name, parts in found.items()} == {"aa": "In the ", "bb": "A longword "}
    assert found["aa"][1] == "ab"


def test_an_opening_ends_with_a_whole_character_and_no_control_character_is_shown(samples):
    opening, written, continuation = samples({"ko": "태초에 하나님이"}, 6, temperature=1.0)["ko"]
    assert (opening, continuation) == ("태", "초에 하나님이")
    assert len(written) > 10
    assert all(character.isprintable() or character == "\n" for character in written)


def test_a_text_that_the_model_ends_is_ended_and_no_other_special_is_written(samples):
    specials = [BYTES.pad_id, BYTES.unk_id, BYTES.bos_id, BYTES.vocab_size]
    opening = ({"xx": "In the beginning"}, 5)
    assert samples(*opening, *BYTES.encode("ab"), BYTES.eos_id, given=4)["xx"][:2] == ["In ", "ab"]
    assert samples(*opening, *specials, BYTES.eos_id, given=4)["xx"][:2] == ["In ", "zzzz"]


def test_only_chosen_languages_are_sampled_and_an_unknown_one_is_the_users_mistake(samples):
    texts = {"aa": "In the beginning", "bb": "And the earth"}
    assert samples(texts, 4, languages=["bb"]).keys() == {"bb"}
    with pytest.raises(UserError, match=r"samples\.languages: the run has no language 'cc'"):
        samples(texts, 4, languages=["cc"])
