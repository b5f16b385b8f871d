import numpy as np
import pytest

from genesis_ds.analysis.resampling import (
    chapter_counts,
    derangements,
    exchangeable,
    interval,
    permutations,
    z_score,
)


def ids(*sizes):
    """Verse ids of chapters: (book, chapter, verses)."""
    return np.array(
        [1_000_000 * book + 1000 * chapter + verse for book, chapter, n in sizes for verse in range(1, n + 1)]
    )


def test_counterparts_are_exchanged_in_the_chapter_then_in_the_book_then_anywhere():
    blocks = exchangeable(ids((1, 1, 3), (1, 2, 2), (1, 3, 1), (2, 1, 4), (2, 2, 1), (3, 1, 1)))
    groups = [np.flatnonzero(blocks == block).tolist() for block in np.unique(blocks)]
    assert sorted(groups) == [[0, 1, 2], [3, 4, 5], [6, 7, 8, 9], [10, 11]]


def test_a_derangement_stays_in_its_block_and_leaves_nothing_in_its_place():
    blocks = np.array([0, 0, 0, 1, 1, 2, 0])
    orders = derangements(blocks, n=200)
    assert (blocks[orders] == blocks).all()
    assert (np.sort(orders, axis=1) == np.arange(7)).all()
    several = blocks != 2
    assert (orders != np.arange(7))[:, several].all()
    assert (orders[:, 5] == 5).all(), "one alone has nowhere to go"
    assert len(np.unique(orders, axis=0)) == 9, "of four verses nine derangements, of two one"


def test_a_permutation_may_leave_a_verse_in_its_place():
    orders = permutations(np.array([0, 0, 0, 1, 1]), n=300)
    assert len(np.unique(orders, axis=0)) == 12


def test_chapters_are_drawn_whole():
    chapters = np.array([5, 5, 7, 7, 7, 9])
    counts = chapter_counts(chapters, n=500)
    assert (counts[:, 0] == counts[:, 1]).all()
    assert (counts[:, 2] == counts[:, 4]).all()
    assert (counts[:, [0, 2, 5]].sum(1) == 3).all()
    assert counts.mean(0) == pytest.approx(np.ones(6), abs=0.15)


def test_z_scores_and_intervals_are_what_they_say():
    null = np.array([1.0, 2.0, 3.0])
    assert z_score(4.0, null) == pytest.approx(2)
    assert np.isnan(z_score(1.0, np.array([0.1 + 0.2, 0.3] * 9))), "rounding is no spread"
    assert interval(np.arange(1001)) == (25, 975)


def test_the_interval_over_chapters_holds_the_mean_as_often_as_it_says_and_that_over_verses_does_not():
    """Verses of a chapter share what they measure, so that drawn one by one they look surer than they are."""
    generator, chapters = np.random.default_rng(0), np.repeat(np.arange(30), 6)
    held = {"chapters": 0, "verses": 0}
    for seed in range(200):
        values = generator.normal(size=30)[chapters] + 0.3 * generator.normal(size=180)
        for units, drawn in (("chapters", chapters), ("verses", np.arange(180))):
            counts = chapter_counts(drawn, seed=seed)
            low, high = interval(counts @ values / counts.sum(1))
            held[units] += low <= 0 <= high
    assert held["chapters"] > 170
    assert held["verses"] < 140
