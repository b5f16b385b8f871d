import random
from itertools import product

import numpy as np
import pytest

from genesis_ds.corpus.references import USFM_CODES, chapter_ids
from genesis_ds.corpus.splits import DROPPED, TIERS, TRAIN, VALIDATION_BOOKS, split_verses
from genesis_ds.corpus.synthetic import synthetic_corpus
from genesis_ds.corpus.verses import Corpus, Translation
from genesis_ds.errors import UserError


@pytest.fixture(scope="module")
def corpus():
    return synthetic_corpus()


def one_translation(texts, language="en"):
    return Corpus((Translation.from_rows(language, language, {i: (t, 0) for i, t in texts.items()}),))


def grams(text):
    words = text.split()
    return {tuple(words[i : i + 3]) for i in range(max(len(words) - 2, 1))}


def near(a, b):
    shared = len(a & b)
    return shared > 0 and shared >= 0.3 * (len(a) + len(b) - shared)


def test_whole_books_and_whole_chapters_are_held_out(corpus):
    split = split_verses(corpus, duplicate_threshold=2)
    books = {USFM_CODES[i // 1_000_000 - 1] for i in split.ids("val_book").tolist()}
    assert books == set(VALIDATION_BOOKS)
    chapters = split.verse_ids // 1000
    assert all(len(set(split.tiers[chapters == chapter])) == 1 for chapter in np.unique(chapters))
    assert 0.05 < len(split.ids("val_chapter")) / len(split.verse_ids) < 0.15
    assert split.counts()["dropped"] == 0


def test_the_verses_of_near_duplicates_in_train_and_validation_are_dropped_and_no_others(corpus):
    draw = random.Random(0)
    texts = {i: " ".join(draw.choices("abcdefgh", k=draw.randint(0, 9))) for i in corpus.verse_ids.tolist()}
    whole = split_verses(one_translation(texts), duplicate_threshold=2)
    train = whole.ids("train").tolist()
    validation = [i for tier in TIERS[1:3] for i in whole.ids(tier).tolist()]
    of = {i: grams(text) if text else set() for i, text in texts.items()}
    leaking = {i for pair in product(train, validation) if near(*(of[i] for i in pair)) for i in pair}
    assert leaking
    assert split_verses(one_translation(texts)).ids("dropped").tolist() == sorted(leaking)


def test_both_sides_of_a_leak_are_dropped_and_nothing_else():
    same = "the same five words here"
    corpus = one_translation({1001001: same, 8001001: same.upper(), 8001002: "quite another verse", 1001002: ""})
    split = split_verses(corpus, chapter_fraction=0)
    assert split.ids("dropped").tolist() == [1001001, 8001001]
    assert split.ids("val_book").tolist() == [8001002]


def test_a_split_repeats_and_depends_on_its_seed_only(corpus):
    assert np.array_equal(split_verses(corpus).tiers, split_verses(corpus).tiers)
    assert not np.array_equal(split_verses(corpus).tiers, split_verses(corpus, split_seed=1).tiers)


def test_ids_split_alike_whatever_else_is_loaded(corpus):
    whole = split_verses(corpus, duplicate_threshold=2)
    part = {i: (f"text {i}", 0) for i in whole.verse_ids[::5].tolist()}
    alone = split_verses(Corpus((Translation.from_rows("x", "ko", part),)), duplicate_threshold=2)
    assert np.array_equal(whole.tier_of(alone.verse_ids), alone.tiers)


def test_english_decides_on_duplicates_wherever_it_stands():
    ids = [1001001, 8001001]
    other = Translation("ko", "ko", np.array(ids), ["하나 둘 셋 넷", "하나 둘 셋 넷"])
    english = Translation("en", "en-GB", np.array(ids), ["one two three four", "five six seven eight"])
    assert split_verses(Corpus((other, english))).counts()["dropped"] == 0
    assert split_verses(Corpus((other,)), chapter_fraction=0).counts()["dropped"] == 2


def test_tiers_are_looked_up_for_any_shape_and_unknown_ids_are_dropped(corpus):
    split = split_verses(corpus)
    known = split.ids("train")[:4].reshape(2, 2)
    assert split.tier_of(known).tolist() == [[TRAIN, TRAIN], [TRAIN, TRAIN]]
    assert split.tier_of([1001999, 66022176]).tolist() == [DROPPED, DROPPED]


def test_chapter_rows_split_like_their_verses(corpus):
    whole = split_verses(corpus, duplicate_threshold=2)
    chapters = split_verses(one_translation({i: f"chapter {i}" for i in chapter_ids()}), duplicate_threshold=2)
    assert np.array_equal(chapters.tier_of(whole.verse_ids // 1000 * 1000), whole.tiers)


def test_an_impossible_fraction_is_refused(corpus):
    with pytest.raises(UserError, match="allowed are 0 to 1"):
        split_verses(corpus, chapter_fraction=10)
