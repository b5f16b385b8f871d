import numpy as np
import pytest

from genesis_ds.corpus.splits import split_verses
from genesis_ds.data.token_set import KEPT_TIERS
from genesis_ds.data.verse_table import VerseTable
from genesis_ds.tasks.cross_reference import cross_reference_retrieval, trained_links
from genesis_ds.tasks.paraphrase import paraphrase_retrievals
from genesis_ds.tasks.retrieval import POOL, Retrieval, equal_pools

BOOK = 1_000_000


def test_a_rank_counts_the_closer_candidates_and_halves_ties():
    embeddings = np.eye(3, dtype=np.float32)[[0, 1, 0, 2, 1]]  # of verses 10, 20, 30, 40, 50
    retrieval = Retrieval(
        np.array([10, 10, 20]),
        np.array([30, 40, 50]),
        [np.array([20, 30, 40]), np.array([30, 40, 50]), np.array([10, 50])],
    )
    assert retrieval.ranks(embeddings).tolist() == [1, 2.5, 1]
    scores = np.zeros(60)
    scores[[20, 30]] = 2, 1
    assert retrieval.ranks_of(scores).tolist() == [2, 2.5, 1.5]
    assert [ranks.tolist() for ranks in retrieval.chance_ranks()] == [[1, 2, 3], [1, 2, 3], [1, 2]]


@pytest.fixture(scope="module")
def whole(synthetic_set):
    return VerseTable(synthetic_set, KEPT_TIERS, 256)


@pytest.mark.parametrize("tier", ["val_chapter", "val_book"])
def test_cross_references_are_asked_from_the_tier_among_64_verses_of_the_book_before_others(
    synthetic, synthetic_set, whole, tier
):
    in_tier = VerseTable(synthetic_set, [tier], 256).verse_ids
    links = synthetic.cross_references
    retrieval = cross_reference_retrieval(whole, in_tier, links, max_verses=0)
    linked = {tuple(sorted(pair)) for pair in zip(links.from_ids.tolist(), links.to_ids.tolist(), strict=True)}
    ids, split = whole.verse_ids, split_verses(synthetic)
    assert set(ids[retrieval.queries].tolist()) <= set(in_tier.tolist())
    n_of_book = []
    for query, target, others in zip(retrieval.queries, retrieval.targets, retrieval.candidates, strict=True):
        assert tuple(sorted((ids[query], ids[target]))) in linked
        in_book = whole.find(0, split.verse_ids[split.verse_ids // BOOK == ids[target] // BOOK])
        related = {other for other in in_book.tolist() if tuple(sorted((ids[query], ids[other]))) in linked}
        possible = set(in_book[in_book >= 0].tolist()) - related - {int(query)} | {int(target)}
        of_book = possible & set(others.tolist())
        assert others[0] == target
        assert len(set(others.tolist()) - {int(query)}) == POOL
        assert len(of_book) == min(len(possible), POOL)
        n_of_book.append(len(of_book))
    assert min(n_of_book) < POOL
    expected = [pair for link in linked for pair in (link, link[::-1]) if whole.find(0, pair).min() >= 0]
    assert len(retrieval.queries) == sum(first in set(in_tier.tolist()) for first, _ in expected)


def test_pools_are_as_large_as_the_smallest_of_the_same_languages_and_nothing_is_asked_among_too_few():
    def search(*sizes):
        return Retrieval(np.zeros(len(sizes), int), np.ones(len(sizes), int), [np.arange(1, n + 1) for n in sizes])

    searches = {
        ("val_book", "en-es"): search(64, 30),
        ("val_book", "en-ko"): search(16),
        ("val_book", "en-de"): search(),
        ("train_subset", "en-es"): search(64),
        ("train_subset", "en-ko"): search(15, 64),
    }
    pools = {key: [others.tolist() for others in each.candidates] for key, each in equal_pools(searches).items()}
    assert pools == {
        ("val_book", "en-es"): [[*range(1, 31)]] * 2,
        ("val_book", "en-ko"): [[*range(1, 17)]],
        ("train_subset", "en-es"): [[*range(1, 31)]],
    }


def test_a_limit_keeps_the_verses_that_need_an_embedding_below_it(synthetic, synthetic_set, whole):
    in_tier = VerseTable(synthetic_set, ["val_chapter"], 256).verse_ids
    retrieval = cross_reference_retrieval(whole, in_tier, synthetic.cross_references, max_verses=200)
    assert 150 < len(retrieval.verses) <= 200
    few = cross_reference_retrieval(whole, in_tier, synthetic.cross_references, max_verses=32)
    assert len(few.queries)
    assert len(few.verses) <= 32
    assert {len(others) for others in few.candidates} == {16}
    pairs = paraphrase_retrievals(VerseTable(synthetic_set, ["val_chapter"], 256), max_verses=60)
    assert len(np.unique(np.concatenate([retrieval.verses for retrieval in pairs.values()]))) == 60


def test_paraphrases_are_the_same_verse_in_another_language(synthetic_set):
    verses = VerseTable(synthetic_set, ["val_book"], 256)
    retrievals = paraphrase_retrievals(verses, max_verses=0)
    assert list(retrievals) == ["qaa-qab", "qab-qaa", "qaa-qac", "qac-qaa"]
    for name, retrieval in retrievals.items():
        source, target = name.split("-")
        assert {verses.labels[i] for i in verses.languages[retrieval.queries]} == {source}
        assert {verses.labels[i] for i in verses.languages[retrieval.targets]} == {target}
        assert (verses.verse_ids[retrieval.queries] == verses.verse_ids[retrieval.targets]).all()
        assert len(retrieval.queries) == len(verses) // 3
        for target, others in zip(retrieval.targets.tolist(), retrieval.candidates, strict=True):
            assert others[0] == target
            assert set(others.tolist()) <= set(retrieval.targets.tolist())
            assert len(set(others.tolist())) == POOL


def test_trained_links_count_the_ends_of_links_within_train(synthetic, whole, train_verses):
    counts = trained_links(whole, train_verses.verse_ids, synthetic.cross_references)
    links, train = synthetic.cross_references, set(train_verses.verse_ids.tolist())
    linked = {frozenset(pair) for pair in zip(links.from_ids.tolist(), links.to_ids.tolist(), strict=True)}
    assert counts[whole.languages == 0].sum() == 2 * sum(pair <= train for pair in linked)
    assert counts[~np.isin(whole.verse_ids, train_verses.verse_ids)].max() == 0
