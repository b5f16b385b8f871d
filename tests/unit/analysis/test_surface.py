import numpy as np
import pytest

from genesis_ds.analysis.surface import length_states, ngram_states, surfaces_of_pairs


def cosine(a, b):
    return a @ b / np.sqrt(a @ a * (b @ b))


def test_texts_are_as_near_as_their_runs_of_characters():
    texts = ["jerusalem the holy city", "jerusalen la ciudad santa", "a vine and its branches", "", "xyz"]
    states = ngram_states(texts)
    assert len(states) == 5
    assert cosine(states[0], states[1]) > cosine(states[0], states[2]) + 0.1, "a name that both languages share"
    assert not states[3].any()
    assert (states == ngram_states(texts)).all()


def test_all_components_keep_the_cosines_of_the_tf_idf():
    words = ["ruth", "boaz", "naomi", "obed", "jesse", "david"]
    texts = [f"{a} and {b}" for a in words for b in words]
    from sklearn.feature_extraction.text import TfidfVectorizer

    counted = TfidfVectorizer(analyzer="char", ngram_range=(2, 4), sublinear_tf=True).fit_transform(texts)
    states = ngram_states(texts)
    assert states.shape[1] == 35
    assert states @ states.T == pytest.approx((counted @ counted.T).toarray(), abs=0.02)


def test_texts_without_any_run_of_characters_have_nothing_in_common():
    by_ngrams, *_ = surfaces_of_pairs([["a", "", "b", "a"]], [np.zeros(2, int)]).values()
    assert by_ngrams[0].tolist() == [[0], [0]]


def test_lengths_are_of_characters_and_of_words():
    assert np.expm1(length_states(["in the beginning", ""])) == pytest.approx(np.array([[16, 3], [0, 0]]))
