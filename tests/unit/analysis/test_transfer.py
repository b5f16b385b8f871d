import numpy as np
import pytest
from helpers.known_states import CHAPTER, DIM, PER_CHAPTER, VERSE_IDS, N, noise, of_each
from scipy.stats import ortho_group
from sklearn.metrics import balanced_accuracy_score

from genesis_ds.analysis.clustering import cluster
from genesis_ds.analysis.transfer import Labels, balanced_accuracy, book_halves, predict, transfer

CONCEPTS = np.random.default_rng(0).permutation(np.arange(N) % 4)
LABELS = Labels(CONCEPTS, VERSE_IDS)
BOOK = VERSE_IDS // 1_000_000
STYLE = BOOK // 2 % 2
"""Two styles of books, each in both halves."""


def in_languages(*parts):
    """States [3, 200, 48]: in each language what a part gives it, and noise of its own."""
    return np.stack([sum(part(language) for part in parts) + noise(50 + language) for language in range(3)])


def test_concepts_that_lie_alike_in_all_languages_carry_over():
    found = transfer(in_languages(lambda language: 0.5 * of_each(CONCEPTS, 0)), LABELS, thorough=True)
    assert 0.8 < found["transfer"] < 1
    assert found["transfer/chance"] == pytest.approx(0.25, abs=0.05)
    assert found["transfer/z"] > 15
    assert found["transfer/low"] < found["transfer"] < found["transfer/high"]


def test_concepts_that_each_language_keeps_for_itself_do_not_although_clusters_show_them():
    states = in_languages(lambda language: 2 * of_each(CONCEPTS, language))
    found = transfer(states, LABELS, thorough=True)
    assert abs(found["transfer"] - found["transfer/chance"]) < 0.15
    rows = states.reshape(-1, DIM), np.tile(CONCEPTS, 3), np.repeat(np.arange(3), N), np.tile(np.arange(N), 3)
    clustered = cluster(rows[0], rows[1], languages=rows[2], verses=rows[3])
    assert clustered["v_measure"] > 5 * clustered["v_measure_permuted"]


def test_verses_that_are_known_again_are_no_concepts():
    """Aligned languages without any concept: a test on the verses of the fit would be right every time."""
    found = transfer(in_languages(lambda language: 4 * noise(9)), LABELS, thorough=True)
    assert abs(found["transfer/z"]) < 3
    assert found["transfer"] == pytest.approx(0.25, abs=0.06)


def test_the_style_of_books_is_part_of_chance():
    """Styles differ in how often they speak of a concept, and the states tell the style alone."""
    concepts = np.where(np.random.default_rng(1).random(N) < 0.8, STYLE, 1 - STYLE)
    states = in_languages(lambda language: of_each(STYLE, 3))
    found = transfer(states, Labels(concepts, VERSE_IDS), thorough=True)
    assert found["transfer"] > 0.65, "far more than one half"
    assert found["transfer"] - found["transfer/chance"] < 0.05
    assert not found["transfer/z"] > 3


def test_noise_is_at_chance_and_its_languages_are_mixed_as_noise_mixes_them():
    states = in_languages(lambda language: 0)
    found = transfer(states, LABELS, thorough=True)
    assert abs(found["transfer/z"]) < 3
    assert found["transfer/low"] < 0.25 < found["transfer/high"]
    clustered = cluster(
        states.reshape(-1, DIM),
        np.tile(CONCEPTS, 3),
        np.repeat(np.arange(3), N),
        np.tile(np.arange(N), 3),
        verse_ids=np.tile(VERSE_IDS, 3),
    )
    assert clustered["language_entropy"] == pytest.approx(clustered["language_entropy_permuted"], abs=0.02)
    assert abs(clustered["v_measure/z"]) < 3


def test_clusters_of_books_are_beyond_permutations_of_all_verses_but_not_within_books():
    concepts = np.where(np.random.default_rng(1).random(N) < 0.8, STYLE, 1 - STYLE)
    states = in_languages(lambda language: of_each(STYLE, 3)).reshape(-1, DIM)
    rows = {"languages": np.repeat(np.arange(3), N), "verses": np.tile(np.arange(N), 3)}
    found = cluster(states, np.tile(concepts, 3), **rows, verse_ids=np.tile(VERSE_IDS, 3))
    assert found["v_measure"] > 10 * found["v_measure_permuted"]
    assert not found["v_measure/z"] > 3


def test_no_verse_is_judged_by_what_was_learned_from_its_book_or_language():
    """Labels are readable from a mark of the language and the half; only the other ones' marks are of use."""
    half = book_halves(BOOK)
    states = np.zeros((2, N, 4))
    for language in range(2):
        for side in (0, 1):
            states[language, half == side, 2 * language + side] = CONCEPTS[half == side]
    predicted = predict(states, CONCEPTS, half)
    assert predicted.shape == (2, N)
    for row in predicted:
        assert all(len(np.unique(row[half == side])) == 1 for side in (0, 1)), "every verse looks the same"


def test_halves_are_of_whole_books_and_of_about_as_many_verses():
    books = np.repeat(np.arange(5), [50, 20, 20, 9, 1])
    half = book_halves(books)
    assert all(len(set(half[books == book])) == 1 for book in range(5))
    assert (half == 0).sum() == 50


def test_balanced_accuracy_is_scikit_learns():
    generator = np.random.default_rng(0)
    concepts, predicted = np.sort(generator.integers(0, 5, 100)), generator.integers(0, 5, (3, 100))
    expected = np.mean([balanced_accuracy_score(concepts, row) for row in predicted])
    counts = np.stack([np.ones(100, int), np.arange(100) % 3])
    found = balanced_accuracy(predicted, concepts, counts)
    assert found[0] == pytest.approx(expected)
    repeated = np.repeat(np.arange(100), counts[1])
    weighted = np.mean([balanced_accuracy_score(concepts[repeated], row[repeated]) for row in predicted])
    assert found[1] == pytest.approx(weighted)


def test_one_language_one_book_and_states_that_are_not_finite_have_no_transfer():
    states = in_languages(lambda language: 0)
    assert transfer(states[:1], LABELS) == {}
    assert transfer(states[:, CHAPTER < 2000], Labels(CONCEPTS[CHAPTER < 2000], VERSE_IDS[CHAPTER < 2000])) == {}
    states[0, 0, 0] = np.nan
    assert np.isnan(transfer(states, LABELS)["transfer"])


def rotated(states):
    return np.stack([of @ ortho_group.rvs(DIM, random_state=seed) for seed, of in enumerate(states)])


def shuffled_within_chapters(states):
    """Verses of every language but the first in the place of the next one of their chapter."""
    in_chapters = states.reshape(3, -1, PER_CHAPTER, DIM).copy()
    in_chapters[1:] = in_chapters[1:, :, [1, 2, 3, 0]]
    return in_chapters.reshape(states.shape)


def with_a_giant_dimension(states):
    states = states.copy()
    states[..., 7] = 300 * noise(40, 3, N)
    return states


LENGTHS = noise(5, N)
OF_CONCEPTS = in_languages(lambda language: of_each(CONCEPTS, 0))
CONSTRUCTIONS = {
    "identical": (np.repeat(OF_CONCEPTS[:1], 3, axis=0), True),
    "with a giant dimension": (with_a_giant_dimension(OF_CONCEPTS), True),
    "rotated": (rotated(OF_CONCEPTS), False),
    "shuffled within chapters": (shuffled_within_chapters(OF_CONCEPTS), False),
    "topic only": (in_languages(lambda language: 2 * of_each(CHAPTER, 1)), False),
    "length only": (in_languages(lambda language: 3 * np.outer(LENGTHS, noise(6, DIM))), False),
    "names only": (in_languages(lambda language: 2 * of_each(np.random.default_rng(7).integers(0, 40, N), 8)), False),
}


@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_concepts_carry_over_where_the_languages_share_them_and_not_by_what_else_they_share(name):
    states, carries_over = CONSTRUCTIONS[name]
    found = transfer(states, LABELS, thorough=True)
    if carries_over:
        assert found["transfer"] > 0.8
        assert found["transfer/z"] > 15
    else:
        assert found["transfer"] < 0.45
        assert found["transfer"] - found["transfer/chance"] < 0.15


def test_clusters_see_little_beside_a_giant_dimension():
    rows = {"languages": np.repeat(np.arange(3), N), "verses": np.tile(np.arange(N), 3)}
    by_name = {
        name: cluster(CONSTRUCTIONS[name][0].reshape(-1, DIM), np.tile(CONCEPTS, 3), **rows)
        for name in ("identical", "with a giant dimension")
    }
    assert by_name["identical"]["v_measure"] > 0.9
    assert by_name["with a giant dimension"]["v_measure"] < 0.05
