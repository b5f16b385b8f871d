import codecs

import pytest
import torch

from genesis_ds.errors import UserError
from genesis_ds.inference.generation import KEPT_SHARE
from genesis_ds.model.sampling import LeftOut
from genesis_ds.tokenizer import load_tokenizer

BYTES = load_tokenizer("bytes")
NEVER = [BYTES.pad_id, BYTES.unk_id, BYTES.bos_id]


def samples(loaded, prompt="In the beginning", **given):
    return loaded.generate(prompt, **{"temperature": 0, **given})


@torch.inference_mode()
def uncached(loaded, prompt, n_tokens):
    """The likeliest tokens, one whole forward pass for each, of the newest tokens as the loop has them."""
    ids = [BYTES.bos_id, *BYTES.encode(prompt)]
    first, length = 0, len(ids)
    text, left_out = codecs.getincrementaldecoder("utf-8")(), LeftOut(BYTES, BYTES.vocab_size)
    for _ in range(n_tokens):
        if len(ids) - first > loaded.context:
            first = len(ids) - int(loaded.context * KEPT_SHARE)
        logits = loaded.model(torch.tensor([ids[first:]]))[0, -1]
        text.decode(BYTES.decode_bytes(ids[-1:]))
        logits[left_out.after(text.getstate()[0])] = -torch.inf
        ids.append(int(logits.argmax()))
    return ids[length:]


@pytest.mark.parametrize("prompt", ["In", "In the beginning God created the heaven and the earth."])
def test_the_text_is_that_of_whole_passes_also_beyond_the_context(loaded, prompt, capsys):
    (sample,) = samples(loaded, prompt, max_new_tokens=100)
    assert [choice.token for choice in sample.choices] == uncached(loaded, prompt, 100)
    warned = capsys.readouterr().err
    assert warned == "warning: the text is longer than the model's context of 32 tokens: it sees the newest 24 on\n"


def test_within_the_context_nothing_is_said(loaded, capsys):
    samples(loaded, max_new_tokens=10)
    assert capsys.readouterr().err == ""


def test_a_seed_makes_samples_reproducible_and_different_from_each_other(loaded):
    drawn = [samples(loaded, n=3, max_new_tokens=20, temperature=1, seed=seed) for seed in (1, 1, 2)]
    texts = [[sample.text for sample in each] for each in drawn]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) == 3
    assert not set(NEVER) & {choice.token for sample in drawn[0] for choice in sample.choices}


def test_probabilities_are_the_models_own(loaded):
    (sample,) = samples(loaded, max_new_tokens=1)
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([[BYTES.bos_id, *BYTES.encode("In the beginning")]]))[0, -1]
    expected = logits.softmax(-1)
    ((token, probability, likeliest),) = sample.choices
    assert probability == pytest.approx(float(expected[token]), abs=1e-6)
    assert [value for _, value in likeliest] == pytest.approx(expected.topk(3).values.tolist(), abs=1e-6)


def test_parts_make_the_text_and_a_sample_ends_before_its_stop_string_whichever_tokens_it_is_of(loaded):
    (whole,) = samples(loaded, max_new_tokens=40, temperature=1, seed=3)
    stop = whole.text[5:8]
    parts = []
    given = {"max_new_tokens": 40, "temperature": 1, "seed": 3, "stop": [stop]}
    (sample,) = samples(loaded, on_text=lambda number, text: parts.append(text), **given)
    assert sample.text == "".join(parts) == whole.text[: whole.text.index(stop)]
    assert (sample.finish, whole.finish) == ("stop", "length")


def test_a_text_that_the_model_ends_is_ended(loaded, monkeypatch):
    script = iter([*BYTES.encode("태"), BYTES.eos_id])
    monkeypatch.setattr("genesis_ds.inference.generation.draw", lambda *_: torch.tensor([[next(script)]]))
    (sample,) = samples(loaded, max_new_tokens=40)
    assert (sample.text, sample.finish, len(sample.choices)) == ("태", "end", 4)


def test_a_model_that_knows_nothing_writes_whole_characters_alone(loaded):
    for sample in samples(loaded, n=8, max_new_tokens=200, temperature=5, seed=0):
        written = BYTES.decode_bytes([choice.token for choice in sample.choices])
        text = written.decode(errors="ignore")
        assert sample.text == text
        assert len(written) - len(text.encode()) <= 3, "the character that max_new_tokens has cut"


@pytest.mark.parametrize("incomplete", [b"", b"\xe0", b"\xed", "태".encode()[:2], b"\xf0", b"\xf4", "😀".encode()[:3]])
def test_what_may_follow_is_what_a_character_can_go_on_with(incomplete):
    tails = (b"", b"\x80", b"\x80\x80", b"\x80\x80\x80", b"\xa0\x80", b"\x90\x80\x80")

    def goes_on(byte):
        return any(is_utf_8(incomplete + byte + tail) for tail in tails)

    left_out = LeftOut(BYTES, BYTES.vocab_size + 2).after(incomplete)
    assert left_out[[*NEVER, BYTES.vocab_size]].all()
    assert bool(left_out[BYTES.eos_id]) == bool(incomplete)
    for byte in (bytes([value]) for value in range(256)):
        assert bool(left_out[4 + byte[0]]) != goes_on(byte), byte


def is_utf_8(text):
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"prompt": ""}, "prompt: it is empty"),
        ({"n": 0}, "n: 0 is not allowed"),
        ({"max_new_tokens": 0}, "max_new_tokens: 0 is not allowed"),
        ({"seed": -1}, "seed: -1 is not allowed"),
        ({"stop": ["a", ""]}, "stop: .* strings that are not empty"),
        ({"prompt": "a\udcff"}, "prompt: text holds the lone surrogate"),
    ],
)
def test_what_is_not_allowed_is_said_in_one_line(loaded, given, message):
    with pytest.raises(UserError, match=message):
        samples(loaded, **given)
