from collections import Counter
from itertools import combinations

import pytest

from genesis_ds.corpus.synthetic import CAST, ROLES, event, lexicon, other_half, synthetic_corpus
from genesis_ds.errors import UserError


@pytest.fixture(scope="module")
def corpus():
    return synthetic_corpus()


def test_the_default_is_small_parallel_and_complete(corpus):
    assert corpus.languages == ["qaa", "qab", "qac"]
    assert 1800 < len(corpus.verse_ids) <= 66 * 4 * 8
    assert all(t.present.all() and len(t) == len(corpus.verse_ids) for t in corpus.translations)
    assert len({i // 1_000_000 for i in corpus.verse_ids.tolist()}) == 66


def test_languages_differ_in_words_order_and_script(corpus):
    lexicons = [set(lexicon(0, language)) for language in corpus.languages]
    assert all(len(words) == 60 for words in lexicons)
    assert not any(a & b for a, b in combinations(lexicons, 2))
    georgian = corpus.translation("qac").texts[0].split()[0]
    assert len(georgian.encode()) >= 3 * (len(georgian) - 1)


def test_one_id_means_the_same_in_every_language(corpus):
    for position in (0, 500, 1000):
        meaning = event(0, int(corpus.verse_ids[position]))
        for translation in corpus.translations:
            words = lexicon(0, translation.language)
            said = Counter(words.index(word) for word in translation.texts[position].rstrip(".").split())
            assert said == Counter([40 + meaning["verb"], *(meaning[role] for role in ROLES)])


def test_neighbours_chain_by_role_while_every_pair_shares_one_actor():
    verses = [event(3, 43003000 + v) for v in range(1, CAST + 1)]
    for i, j in combinations(range(CAST), 2):
        shared = {verses[i][role] for role in ROLES} & {verses[j][role] for role in ROLES}
        assert len(shared) == 1
        assert (verses[i]["object"] == verses[j]["subject"]) == (j == i + 1)


def test_cross_references_join_other_books_by_couples_of_verbs_and_objects(corpus):
    links = corpus.cross_references
    assert 0.8 < len(links) / len(corpus.verse_ids) <= 1
    for a, b in zip(links.from_ids.tolist(), links.to_ids.tolist(), strict=True):
        assert a // 1_000_000 != b // 1_000_000
        assert all(event(0, a)[part] == other_half(event(0, b)[part]) for part in ("verb", "object"))


def test_the_corpus_is_a_function_of_the_seed(corpus):
    assert corpus.fingerprint == "cf9a3a04ec6923592d639e8eb2c6dcb911a9d4f55cbcfeba7aafee6e699342ff"
    assert synthetic_corpus(seed=1).fingerprint != corpus.fingerprint


def test_verses_do_not_change_with_the_size_of_the_corpus(corpus):
    small = synthetic_corpus(chapters_per_book=1, verses_per_chapter=2)
    large = dict(zip(corpus.verse_ids.tolist(), corpus.translation("qab").texts, strict=True))
    assert [large[i] for i in small.verse_ids.tolist()] == small.translation("qab").texts


def test_sizes_beyond_the_rule_are_refused():
    with pytest.raises(UserError, match="1 to 13 verses"):
        synthetic_corpus(verses_per_chapter=14)


def test_more_languages_have_words_of_their_own_and_leave_the_first_as_they_are(corpus):
    many = synthetic_corpus(n_languages=33)
    assert [each.texts for each in many.translations[:3]] == [each.texts for each in corpus.translations]
    assert len({tuple(each.texts) for each in many.translations}) == 33
    assert many.translations[-1].language == "qbg"
