import itertools

import numpy as np
import pytest

from genesis_ds.data.packing import AHEAD, pack

SHAPES = [(4, 512), (2, 1024), (1, 2048)]


def lengths_like_real_verses(n, k, seed=0):
    """As in bytes of the King James Version: mean 133, half within 89 and 167, 1 % above 295."""
    return np.random.default_rng(seed).gamma(5.3, 25, (n, k)).astype(int).clip(12, 450)


def used(packs):
    return [placed.example for placed in itertools.chain(*packs)]


@pytest.mark.parametrize(("n_rows", "seq_len"), [(1, 300), (2, 150), (3, 128), (8, 100)])
def test_every_example_that_fits_is_packed_once_and_no_row_is_overfull(n_rows, seq_len):
    lengths = np.random.default_rng(1).integers(1, seq_len + 20, (300, 3)).tolist()
    packs = list(pack(lengths, n_rows, seq_len))
    for placed in packs:
        filled = np.zeros(n_rows, int)
        for number, rows in placed:
            np.add.at(filled, rows, lengths[number])
        assert filled.max() <= seq_len

    def fits(verses):
        shares = itertools.product(range(n_rows), repeat=3)
        return any(np.bincount(rows, verses).max() <= seq_len for rows in shares)

    assert sorted(used(packs)) == [i for i, verses in enumerate(lengths) if fits(verses)]


@pytest.mark.parametrize("k", [2, 3])
@pytest.mark.parametrize(("n_rows", "seq_len"), SHAPES)
def test_padding_is_below_four_percent_on_lengths_like_real_verses(k, n_rows, seq_len):
    lengths = lengths_like_real_verses(2500, k)
    packs = list(itertools.islice(pack(lengths.tolist(), n_rows, seq_len), 200))
    assert len(packs) == 200
    assert lengths[used(packs)].sum() > 0.96 * 200 * n_rows * seq_len


@pytest.mark.parametrize("k", [2, 3])
def test_examples_are_used_whatever_their_length_and_none_waits_long(k):
    lengths = lengths_like_real_verses(5000, k)
    packs = list(itertools.islice(pack(lengths.tolist(), 4, 512), 300))
    order = used(packs)
    totals = lengths[: max(order) + 1].sum(1)
    assert totals[order].mean() == pytest.approx(totals.mean(), rel=0.01)
    long = totals > np.quantile(totals, 0.95)
    assert long[order].mean() == pytest.approx(long.mean(), rel=0.1)
    per_pack = len(order) / len(packs)
    waits = [number - placed.example / per_pack for number, pack in enumerate(packs) for placed in pack]
    assert max(waits) < 3 * AHEAD


def test_endless_examples_are_taken_as_they_are_needed():
    taken = []

    def endless():
        for number in itertools.count():
            taken.append(number)
            yield [40, 40]

    packs = pack(endless(), 2, 100)
    assert [placed.example for placed in next(packs)] == [0, 1]
    assert len(taken) <= 2 * (AHEAD + 1)
