"""Which verses each task puts together."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from genesis_ds.corpus.verses import CrossReferences
from genesis_ds.tasks.base import Unavailable
from genesis_ds.tasks.coherence import Coherence
from genesis_ds.tasks.contrast import Contrast
from genesis_ds.tasks.cross_reference import CrossReference
from genesis_ds.tasks.paraphrase import Paraphrase
from genesis_ds.tasks.verse_task import apportion, choose

SHAPE = 256, 4, 0
N = 3000


def draw(task):
    """(ids of the verses, their languages, name of the kind) of N examples."""
    verses, kinds = task.draw("test", N)
    table = task.verses
    names = [task.kinds[kind] for kind in kinds]
    return list(zip(table.verse_ids[verses].tolist(), table.languages[verses].tolist(), names, strict=True))


def chapters(*sizes, book=1):
    """Verses of chapters of these sizes: {verse_id: text}."""
    return {
        book * 1_000_000 + chapter * 1000 + verse: f"{book}:{chapter}:{verse}"
        for chapter, size in enumerate(sizes, 1)
        for verse in range(1, size + 1)
    }


def linked(*pairs):
    return CrossReferences.from_pairs(pairs, "test")


def test_kinds_have_their_shares():
    bits = np.random.Philox(key=1).random_raw(1000)
    counts = np.bincount(apportion(bits, [1, 0.4, 0, 0.6]), minlength=4)
    assert abs(counts - [500, 200, 0, 300]).max() <= 1
    assert len({tuple(apportion(bits[i : i + 10], [1, 1])) for i in range(20)}) > 10


def test_columns_are_chosen_by_weight():
    bits = np.random.Philox(key=1).random_raw(6000)
    chosen = choose(bits, np.tile([[0, 3, 0, 1], [5, 0, 0, 0]], (3000, 1)))
    assert np.bincount(chosen[::2], minlength=4) == pytest.approx([0, 2250, 0, 750], abs=80)
    assert not chosen[1::2].any()


class TestCoherence:
    def test_every_kind_is_what_its_name_says(self, train_verses):
        known = set(zip(train_verses.languages.tolist(), train_verses.verse_ids.tolist(), strict=True))
        chapters_of = defaultdict(set)
        for language, identifier in known:
            if (language, identifier - 1) in known:
                chapters_of[language, identifier // 1_000_000].add(identifier // 1000)
        for (first, second), (language, other), kind in draw(Coherence(train_verses, *SHAPE)):
            assert language == other
            assert {(language, first + 1), (language, second - 1)} <= known
            assert first % 1000
            if kind == "consecutive":
                assert second == first + 1
            elif kind == "swapped":
                assert second == first - 1
            elif kind == "same_chapter":
                assert first // 1000 == second // 1000
                assert abs(first - second) >= 3
            elif kind == "near_chapter":
                between = sorted(chapters_of[language, first // 1_000_000])
                steps = between.index(second // 1000) - between.index(first // 1000)
                assert 1 <= abs(steps) <= 2
            else:
                assert kind == "other_book"
                assert first // 1_000_000 != second // 1_000_000

    def test_the_kinds_have_their_shares_and_reach_every_verse(self, train_verses):
        task = Coherence(train_verses, *SHAPE)
        counts = Counter(kind for *_, kind in draw(task))
        shares = {"consecutive": 0.5, "same_chapter": 0.2, "near_chapter": 0.15, "swapped": 0.075, "other_book": 0.075}
        assert {kind: counts[kind] / N for kind in task.kinds} == pytest.approx(shares, abs=1 / N)
        verses, kinds = task.draw("all", 60 * len(train_verses))
        for side in (0, 1):
            positive, negative = (set(verses[mask, side]) for mask in (kinds == 0, kinds > 0))
            assert positive == negative

    def test_one_verse_alone_hardly_tells_the_label(self, train_verses):
        """The best guess from the place of a verse in its chapter is right in about half of the cases."""
        verses, kinds = Coherence(train_verses, *SHAPE).draw("places", 50_000)
        for side in (0, 1):
            place = train_verses.verse_ids[verses[:, side]] % 1000
            counts = np.zeros((place.max() + 1, 2))
            np.add.at(counts, (place, (kinds == 0).astype(int)), 1)
            assert counts.max(1).sum() / len(kinds) < 0.55

    def test_negatives_share_what_impossible_kinds_leave(self, table_of):
        task = Coherence(table_of({"en": chapters(5)}), *SHAPE)
        counts = Counter(kind for *_, kind in draw(task))
        assert counts == pytest.approx(
            {"consecutive": N / 2, "same_chapter": N / 2 * 8 / 11, "swapped": N / 2 * 3 / 11}, abs=1
        )
        pairs = {(ids[0], ids[1]) for ids, _, kind in draw(task) if kind == "same_chapter"}
        assert pairs == {(1001001, 1001004), (1001001, 1001005), (1001002, 1001005)}

    @pytest.mark.parametrize(
        ("verses", "reason"),
        [
            ({1001000: "chapter", 1002000: "chapter"}, "the corpus holds whole chapters and no verses"),
            ({1001001: "a", 1001003: "b"}, "no two train verses are consecutive"),
            ({1001001: "a", 1001002: "b"}, "no two train verses make a negative pair"),
        ],
    )
    def test_it_says_what_it_lacks(self, table_of, verses, reason):
        with pytest.raises(Unavailable, match=reason):
            Coherence(table_of({"en": verses}), *SHAPE)

    def test_a_chapter_row_is_no_verse(self, table_of):
        verses = {1001000: "title", **chapters(6), 1002000: "title"}
        ids = {identifier for pair, *_ in draw(Coherence(table_of({"en": verses}), *SHAPE)) for identifier in pair}
        assert ids == {1001001, 1001002, 1001003, 1001004, 1001005, 1001006}


class TestCrossReference:
    def test_negatives_are_near_the_positive_and_unrelated_to_the_anchor(self, synthetic, train_verses):
        links = synthetic.cross_references
        neighbours = defaultdict(set)
        for a, b in zip(links.from_ids.tolist(), links.to_ids.tolist(), strict=True):
            neighbours[a].add(b)
            neighbours[b].add(a)
        places = {
            language: train_verses.verse_ids[train_verses.languages == language].tolist() for language in range(3)
        }
        seen = set()
        for (anchor, positive, negative), (language, *others), _ in draw(
            CrossReference(train_verses, *SHAPE, links=links, contrast=Contrast())
        ):
            assert others == [language] * 2
            assert positive in neighbours[anchor]
            two_hops = {anchor, *neighbours[anchor]}.union(*(neighbours[verse] for verse in neighbours[anchor]))
            assert negative not in two_hops
            assert negative // 1_000_000 == positive // 1_000_000
            order = places[language]
            assert 1 <= abs(order.index(negative) - order.index(positive)) <= 10
            seen.add((anchor < positive, negative < positive, language))
        assert len(seen) == 12, "either end is the anchor, on either side stands the negative, in every language"

    def test_links_of_other_tiers_and_chapters_count_for_hops_but_not_as_pairs(self, table_of):
        verses = table_of({"en": {40001000: "chapter", **chapters(3), **chapters(8, book=40)}})
        links = linked(
            (1001001, 40001004), (1001001, 8001001), (8001001, 40001003), (1001002, 40001000), (1001003, 1001003)
        )
        task = CrossReference(verses, *SHAPE, links=links, contrast=Contrast())
        triplets = [ids for ids, *_ in draw(task)]
        negatives = {negative for anchor, _, negative in triplets if anchor == 1001001}
        assert {(anchor, positive) for anchor, positive, _ in triplets} == {(1001001, 40001004), (40001004, 1001001)}
        assert negatives == {40001000 + verse for verse in (1, 2, 5, 6, 7, 8)}

    def test_negatives_are_linked_as_often_as_they_are_drawn(self, table_of):
        """Otherwise the verse that is linked more often would be the positive."""
        verses = table_of({"en": {**chapters(20), **chapters(9, book=40)}})
        links = linked(
            (1001001, 40001001), (1001010, 40001005), (1001011, 40001005), (1001012, 40001005), (1001015, 40001009)
        )
        task = CrossReference(verses, *SHAPE, links=links, contrast=Contrast())
        drawn = Counter(ids[2] for ids, *_ in draw(task) if ids[0] == 1001001)
        total = sum(drawn.values())
        assert {verse: count / total for verse, count in drawn.items()} == pytest.approx(
            {40001005: 3 / 4, 40001009: 1 / 4}, abs=0.08
        )

    def test_the_language_is_one_of_those_that_hold_both_verses(self, table_of):
        verses = table_of(
            {"en": {**chapters(4), **chapters(4, book=40)}, "es": chapters(4), "ko": chapters(4, book=40)}
        )
        task = CrossReference(
            verses, *SHAPE, links=linked((1001001, 40001001), (1001002, 1001004)), contrast=Contrast()
        )
        languages = Counter((frozenset(ids[:2]), language) for ids, (language, *_), _ in draw(task))
        assert set(languages) == {
            (frozenset({1001001, 40001001}), 0),
            (frozenset({1001002, 1001004}), 0),
            (frozenset({1001002, 1001004}), 1),
        }

    def test_it_says_what_it_lacks(self, table_of):
        verses = table_of({"en": {1001000: "chapter", **chapters(4)}, "es": chapters(2, book=2)})
        for links in (linked(), linked((1001001, 2001001), (1001000, 1001001), (1001001, 8001001))):
            with pytest.raises(Unavailable, match="no cross-references between train verses; give"):
                CrossReference(verses, *SHAPE, links=links, contrast=Contrast())
        everything = linked(*((1001001, 1001000 + verse) for verse in (2, 3, 4)))
        with pytest.raises(Unavailable, match="no example can be made of the train verses"):
            CrossReference(verses, *SHAPE, links=everything, contrast=Contrast())


class TestParaphrase:
    def test_the_positive_is_the_same_verse_and_the_negative_its_neighbour(self, train_verses):
        task = Paraphrase(train_verses, *SHAPE, contrast=Contrast())
        order = {b: train_verses.verse_ids[train_verses.languages == b].tolist() for b in range(3)}
        seen = Counter()
        for (anchor, positive, negative), (a, b, c), kind in draw(task):
            assert anchor == positive
            assert a != b == c
            assert negative // 1_000_000 == positive // 1_000_000
            distance = order[b].index(negative) - order[b].index(positive)
            assert kind == f"distance_{abs(distance)}"
            seen[kind] += 1
            seen[a, b] += 1
            seen[distance > 0] += 1
        kinds = [seen.pop(f"distance_{distance}") for distance in (1, 2, 3)]
        assert max(kinds) - min(kinds) <= 1
        assert [seen[after] / N for after in (False, True)] == pytest.approx([0.5, 0.5], abs=0.05)
        assert [seen[a, b] / N for a in range(3) for b in range(3) if a != b] == pytest.approx([1 / 6] * 6, abs=0.03)

    def test_languages_may_hold_different_verses(self, table_of):
        """es and ko share no verse; the neighbours of a verse are those of the positive's language."""
        verses = {"en": chapters(4, 4), "es": chapters(4), "ko": {1002001: "a", 1002004: "b"}}
        task = Paraphrase(table_of(verses), *SHAPE, contrast=Contrast())
        drawn = {(a, b, ids[1], ids[2], kind) for ids, (a, b, _), kind in draw(task)}
        assert {row[:2] for row in drawn} == {(0, 1), (1, 0), (0, 2), (2, 0)}
        assert {row for row in drawn if row[1] == 2} == {
            (0, 2, 1002001, 1002004, "distance_1"),
            (0, 2, 1002004, 1002001, "distance_1"),
        }
        assert {row[3] for row in drawn if row[1:3] == (1, 1001002)} == {1001001, 1001003, 1001004}

    def test_chapter_rows_serve(self, table_of):
        verses = {1001000: "a", 1002000: "b", 1003000: "c"}
        task = Paraphrase(table_of({"en": verses, "es": verses}), *SHAPE, contrast=Contrast())
        assert Counter(kind for *_, kind in draw(task)) == {"distance_1": N / 2, "distance_2": N / 2}

    @pytest.mark.parametrize(
        ("languages", "reason"),
        [
            ({"en": chapters(3)}, "the only language is en; give data.languages two or more"),
            (
                {"en": chapters(3), "es": chapters(3, book=2)},
                "no two languages share train verses that have neighbours; import texts that have verses in common",
            ),
            ({"en": chapters(1), "es": chapters(1)}, "no two languages share train verses that have neighbours"),
            (
                {language: dict.fromkeys(chapters(3), "a" * 300) for language in ("en", "es")},
                "neighbours; 6 verses are longer than 256 tokens; raise batch.seq_len",
            ),
        ],
    )
    def test_it_says_what_it_lacks(self, table_of, languages, reason):
        with pytest.raises(Unavailable, match=reason):
            Paraphrase(table_of(languages), *SHAPE, contrast=Contrast())
