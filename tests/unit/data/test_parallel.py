import numpy as np
import pytest

from genesis_ds.data.aligned_verses import (
    FEWEST_OF_CONCEPT,
    choose_languages,
    halves,
    n_shared,
    of_most,
    verses_of_concepts,
)
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.errors import UserError
from genesis_ds.tasks.base import Unavailable

LANGUAGES = ["qaa", "qac"]


@pytest.fixture(scope="module")
def table(synthetic_set):
    return VerseTable(synthetic_set, ["val_chapter"], max_length=256)


def test_halves_are_the_same_verses_in_every_language_and_share_no_chapter(table):
    chosen = halves(table, LANGUAGES, 60)
    assert chosen.rows.shape == (2, 60)
    here, there = table.verse_ids[chosen.rows]
    assert (here == there).all()
    assert (table.languages[chosen.rows] == [[0], [2]]).all()
    fit, test = (set((chosen.verse_ids[chosen.groups == half] // 1000).tolist()) for half in (0, 1))
    assert fit.isdisjoint(test)
    assert len(set(chosen.verse_ids.tolist())) == 60
    assert (chosen.groups == 0).sum() == 30


def test_without_a_limit_the_halves_are_as_large_as_the_smaller_one_and_measured_are_100_at_most(table):
    chosen = halves(table, LANGUAGES, 0)
    n_fitted, n_measured = np.bincount(chosen.groups)
    assert 100 < n_fitted <= (table.languages == 0).sum() / 2
    assert n_measured == 100
    fewer = halves(table, LANGUAGES, 60)
    assert np.bincount(fewer.groups).tolist() == [30, 30]


def test_verses_that_a_language_lacks_are_left_out_and_too_few_are_a_reason(table_of):
    texts = {1000001 + 1000 * chapter + verse: "a" for chapter in range(1, 9) for verse in range(10)}
    fewer = dict(list(texts.items())[:70])
    chosen = halves(table_of({"en": texts, "es": fewer}), ["en", "es"], 0)
    assert set(chosen.verse_ids.tolist()) <= set(fewer)
    with pytest.raises(Unavailable, match=r"en and es share 20 verses of train in 2 chapters; needed are 16"):
        halves(table_of({"en": texts, "es": dict(list(texts.items())[:20])}), ["en", "es"], 0)


def test_a_language_that_shares_too_few_verses_is_left_out_and_the_others_stay_as_they_were(table_of):
    texts = {1000001 + 1000 * chapter + verse: "a" for chapter in range(1, 9) for verse in range(10)}
    table = table_of({"ko": dict(list(texts.items())[:3]), "en": texts, "es": texts, "de": dict([*texts.items()][20:])})
    chosen = of_most(table, ["ko", "en", "es", "de"], lambda kept: halves(table, kept, 0))
    assert chosen.languages == ["en", "es", "de"]
    assert (chosen.rows == halves(table, ["en", "es", "de"], 0).rows).all()
    assert n_shared(table, ["en", "ko"]) == 3
    assert n_shared(table, ["en", "ko", "de"]) == 0
    with pytest.raises(Unavailable, match="ko and en share 3 verses"):
        of_most(table, ["ko", "en"], lambda kept: halves(table, kept, 0))
    concepts = dict.fromkeys(list(texts)[:40], "first") | dict.fromkeys(list(texts)[40:], "second")
    clustered = of_most(table, ["ko", "en", "es", "de"], lambda kept: verses_of_concepts(table, kept, concepts, 0))
    assert clustered.languages == ["en", "es", "de"]
    assert np.bincount(clustered.groups).tolist() == [20, 40]


def test_concepts_share_the_limit_equally_and_small_ones_are_left_out(table):
    ids = np.unique(table.verse_ids)
    few = FEWEST_OF_CONCEPT - 1
    names = ["many"] * 40 + ["some"] * 12 + ["few"] * few
    chosen = verses_of_concepts(table, LANGUAGES, dict(zip(ids.tolist(), names, strict=False)), 32)
    assert np.bincount(chosen.groups).tolist() == [16, 12]
    many = set(ids[:40].tolist())
    assert set(chosen.verse_ids[chosen.groups == 0].tolist()) <= many
    assert (table.verse_ids[chosen.rows[0]] == table.verse_ids[chosen.rows[1]]).all()
    with pytest.raises(Unavailable, match=f"few {few}, some 12"):
        verses_of_concepts(table, LANGUAGES, dict(zip(ids.tolist(), names[40:], strict=False)), 32)


def test_languages_are_en_es_and_ko_where_the_run_has_them():
    assert choose_languages(["de", "ko", "en"], [], "key") == ["en", "ko"]
    assert choose_languages(["de", "fr", "it", "en"], [], "key") == ["de", "fr", "it"]
    assert choose_languages(["de", "en"], ["de", "en"], "key") == ["de", "en"]
    with pytest.raises(UserError, match=r"alignment.languages: the run has no language 'sp'; valid: en, es"):
        choose_languages(["en", "es"], ["en", "sp"], "alignment.languages")
