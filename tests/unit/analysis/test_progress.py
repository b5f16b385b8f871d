import numpy as np
import pytest
from scipy.special import log_softmax

from genesis_ds.analysis.progress import fourier_norms, gini, progress

P = 11
A, B = np.divmod(np.arange(P * P), P)
ANSWERS = (A + B) % P
IS_TRAIN = np.random.default_rng(0).permutation(P * P) < 50


def waves(p, answers, amplitudes):
    """Logits that are sums of cos(2 pi k (a + b - c) / p): what a network has that has found the rule."""
    difference = answers[:, None] - np.arange(p)
    return sum(amplitude * np.cos(2 * np.pi * k * difference / p) for k, amplitude in amplitudes.items())


def loss(logits, answers, of):
    return -log_softmax(logits, axis=1)[np.arange(len(answers)), answers][of].mean()


def test_the_rule_alone_is_all_of_the_loss_and_without_it_nothing_is_known():
    logits = waves(P, ANSWERS, {2: 3.0, 4: 5.0})
    found = progress(logits, ANSWERS, IS_TRAIN)
    assert found.key_frequencies == (4, 2)
    assert found.restricted_loss == pytest.approx(loss(logits, ANSWERS, ~IS_TRAIN))
    assert found.excluded_loss == pytest.approx(np.log(P))


def test_pairs_known_by_heart_have_no_loss_without_the_rule_and_take_all_frequencies():
    """Their mean over the pairs of an answer is the rule as well: restricted loss alone does not tell them apart."""
    by_heart = np.where(IS_TRAIN[:, None] & (np.arange(P) == ANSWERS[:, None]), 20.0, 0.0)
    found = progress(by_heart, ANSWERS, IS_TRAIN)
    assert found.excluded_loss < 1e-3
    assert len(found.key_frequencies) == P // 2
    both = progress(by_heart + waves(P, ANSWERS, {3: 20.0}), ANSWERS, IS_TRAIN)
    assert both.key_frequencies == (3,)
    assert both.excluded_loss < 1e-3


def test_a_mean_of_the_classes_is_kept_and_is_no_frequency():
    logits, bias = waves(P, ANSWERS, {1: 4.0}), np.linspace(-3, 3, P)
    found = progress(logits + bias, ANSWERS, IS_TRAIN)
    assert found.key_frequencies == (1,)
    assert found.restricted_loss == pytest.approx(loss(logits + bias, ANSWERS, ~IS_TRAIN))
    nothing = progress(np.zeros((P * P, P)), ANSWERS, IS_TRAIN)
    assert (nothing.key_frequencies, nothing.restricted_loss) == ((), pytest.approx(np.log(P)))


@pytest.mark.parametrize("p", [7, 8])
def test_it_is_the_projection_that_the_paper_defines(p):
    """Of logits without structure, by the definition: P = sum over the key k of b_k b_k^T Z * 2 / p^2."""
    a, b = np.divmod(np.arange(p * p), p)
    answers, is_train = (a - b) % p, np.arange(p * p) % 3 > 0
    logits = np.random.default_rng(p).normal(size=(p * p, p))
    found = progress(logits, answers, is_train)
    projected = np.zeros_like(logits)
    for k in found.key_frequencies:
        for wave in (np.cos, np.sin):
            direction = wave(2 * np.pi * k * (a - b) / p)
            if (length := direction @ direction) > 1e-9:  # sin of p / 2 is 0
                projected += np.outer(direction, direction @ (logits - logits.mean(0))) / length
    assert found.restricted_loss == pytest.approx(loss(projected + logits.mean(0), answers, ~is_train))
    assert found.excluded_loss == pytest.approx(loss(logits - projected, answers, is_train))


def test_other_functions_of_the_pair_have_no_part_in_it():
    """cos(2 pi k (a - b) / p), as large as the rule: its mean over the pairs of an answer is 0."""
    other = 9 * np.cos(2 * np.pi * 2 * (A - B) / P)[:, None] * np.arange(P)
    found = progress(waves(P, ANSWERS, {3: 4.0}) + other, ANSWERS, IS_TRAIN)
    assert found.key_frequencies == (3,)


def test_logits_of_other_than_all_pairs_are_an_error():
    with pytest.raises(ValueError, match="each of 11 answers must have 11 pairs"):
        progress(np.zeros((P * P - 1, P)), ANSWERS[1:], IS_TRAIN[1:])


@pytest.mark.parametrize("p", [11, 12])
def test_the_fourier_norms_are_those_of_an_orthonormal_basis(p):
    residues = np.arange(p)
    embedding = np.random.default_rng(0).normal(size=(p, 5))
    assert (fourier_norms(embedding) ** 2).sum() == pytest.approx((embedding**2).sum())
    assert len(fourier_norms(embedding)) == p
    wave = np.outer(np.sin(2 * np.pi * 3 * residues / p), [3.0, 4.0])
    norms = fourier_norms(wave)
    assert norms.max() == pytest.approx(5 * (p / 2) ** 0.5)
    assert (norms > 1e-9).sum() == 1


def test_the_gini_coefficient_of_equal_values_is_0_and_of_a_single_one_nearly_1():
    assert gini(np.ones(9)) == pytest.approx(0)
    assert gini(np.eye(8)[3]) == pytest.approx(1 - 1 / 8)
    assert gini(np.array([4.0, 1.0, 3.0, 2.0])) == pytest.approx(0.25)
    assert gini(np.zeros(4)) == 0
