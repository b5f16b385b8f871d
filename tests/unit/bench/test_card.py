"""A smaller card, with a driver that is made up: no GPU is needed."""

import pytest
import torch

from genesis_ds.bench import card
from genesis_ds.bench.card import Card
from genesis_ds.errors import UserError

GIB = 2**30


@pytest.fixture
def driver(monkeypatch):
    """An 80 GiB card of which 79.5 GiB are free once this process has its context; what is asked of it is kept."""
    asked = {"free": 79.5 * GIB}

    def allocate(nbytes):
        asked["ballast"] = nbytes
        asked["free"] -= nbytes

    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (int(asked["free"]), 80 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share: asked.update(share=share))
    monkeypatch.setattr(card, "_allocate_outside_torch", allocate)
    return asked


def test_a_larger_card_is_filled_up_to_the_size_it_stands_for(driver):
    shrunk = Card()
    shrunk.shrink(11 * GIB, GIB // 2)
    assert driver["share"] * 80 * GIB == 10.5 * GIB
    assert driver["free"] == 10.5 * GIB, "the context has its half GiB already"
    assert shrunk.used() == GIB // 2, "the ballast is not counted"


def test_a_card_with_no_more_than_that_free_gets_no_ballast(driver):
    driver["free"] = 10 * GIB
    shrunk = Card()
    shrunk.shrink(11 * GIB, GIB // 2)
    assert shrunk.ballast == 0
    assert "ballast" not in driver


def test_a_card_cannot_stand_for_a_larger_one(driver):
    with pytest.raises(UserError, match=r"--vram_cap: the card has 80.00 GiB; give less"):
        Card().shrink(96 * GIB, GIB // 2)


def test_without_a_gpu_nothing_is_used_and_nothing_can_be_shrunk(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert Card().used() == 0
    with pytest.raises(UserError, match="there is no GPU here"):
        Card().shrink(11 * GIB, GIB // 2)
