import math

import pytest
import torch

from genesis_ds.config.sampling import Sampling
from genesis_ds.errors import UserError
from genesis_ds.model.sampling import draw

LOGITS = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()[None]


def drawn(sampling, logits=LOGITS, seen=None, n=400):
    generator = torch.Generator().manual_seed(0)
    tokens = draw(logits.repeat(n, 1), sampling, generator, None if seen is None else seen.repeat(n, 1))
    return torch.bincount(tokens[:, 0], minlength=logits.shape[1]) / n


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"temperature": 1.0}, [0.1, 0.2, 0.3, 0.4]),
        ({"temperature": 0.5}, [1 / 30, 4 / 30, 9 / 30, 16 / 30]),
        ({"temperature": 0.0}, [0, 0, 0, 1]),
        ({"temperature": 1e-30}, [0, 0, 0, 1]),
        ({"temperature": 1.0, "top_k": 2}, [0, 0, 3 / 7, 4 / 7]),
        ({"temperature": 1.0, "top_k": 9}, [0.1, 0.2, 0.3, 0.4]),
        ({"temperature": 1.0, "top_p": 0.65}, [0, 0, 3 / 7, 4 / 7]),
        ({"temperature": 1.0, "top_p": 0.75}, [0, 2 / 9, 3 / 9, 4 / 9]),
        ({"temperature": 1.0, "top_p": 1e-9}, [0, 0, 0, 1]),
        ({"temperature": 1.0, "top_k": 3, "top_p": 0.4}, [0, 0, 0, 1]),
    ],
    ids=str,
)
def test_tokens_are_drawn_as_often_as_the_settings_say(given, expected):
    shares = drawn(Sampling(**given))
    assert shares == pytest.approx(expected, abs=0.08)
    assert (shares > 0).tolist() == [share > 0 for share in expected]


def test_the_penalty_makes_seen_tokens_less_likely_whatever_the_sign_of_their_logits():
    seen = torch.tensor([[True, True, False, False]])
    logits = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    shares = drawn(Sampling(temperature=1.0, repetition_penalty=2.0), logits, seen, n=4000)
    expected = torch.tensor([0.5, -2.0, 1.0, -1.0]).softmax(0)
    assert shares == pytest.approx(expected.tolist(), abs=0.03)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": -1}, "temperature: -1 is not allowed; give a number from 0 to 1,000"),
        ({"temperature": math.nan}, "temperature: nan is not allowed"),
        ({"top_p": 2}, "top_p: 2 is not allowed; give a number above 0, at most 1"),
        ({"top_p": 0}, "top_p: 0 is not allowed"),
        ({"top_k": -1}, "top_k: -1 is not allowed"),
        ({"repetition_penalty": 0}, "repetition_penalty: 0 is not allowed"),
    ],
)
def test_what_is_not_allowed_is_said_in_one_line(given, message):
    with pytest.raises(UserError, match=message):
        Sampling(**given)
