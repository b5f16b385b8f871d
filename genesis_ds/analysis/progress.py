"""Progress measures of modular addition and subtraction: how much of the answer comes from a few frequencies.

Nanda et al., arXiv 2301.05217, section 5: a network that has found the rule computes the logits of (a + b) mod p by
cos and sin of 2 pi k (a + b) / p, for a few key frequencies k. These functions of the pair are functions of its
answer alone, so that a pair's part in them is found by the mean logits of each answer.

Shapes: p modulus, n = p^2 pairs, D width.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

KEY_POWER = 0.95
"""Share of the power of all frequencies that the key frequencies have at least."""
Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Progress:
    """What the key frequencies do for the loss."""

    restricted_loss: float
    """Cross-entropy in nats of the validation pairs by the key frequencies and each class's mean logit alone."""
    excluded_loss: float
    """Cross-entropy in nats of the training pairs by what is left of the logits without the key frequencies."""
    key_frequencies: tuple[int, ...]
    """The fewest with KEY_POWER of the power, the strongest first; numbers from 1 to p / 2."""


def progress(logits: Floats, answers: NDArray[np.int64], is_train: NDArray[np.bool_]) -> Progress:
    """Compute the progress measures of the logits [n, p] of all pairs.

    answers: [n], every residue of p pairs. is_train: bool [n], some pairs of either kind. The key frequencies are those
    of the logits given; the paper takes those of the network at the end of training.
    """
    p = logits.shape[1]
    if not (np.bincount(answers, minlength=p) == p).all():
        raise ValueError(f"each of {p} answers must have {p} pairs")
    logits = np.asarray(logits, np.float64)
    mean = logits.mean(0)
    by_answer = np.zeros((p, p))
    np.add.at(by_answer, answers, logits - mean)
    spectrum = np.fft.rfft(by_answer / p, axis=0)
    key = key_frequencies(spectrum, p)
    kept = np.zeros_like(spectrum)
    kept[key] = spectrum[key]
    projected = np.fft.irfft(kept, n=p, axis=0)[answers]
    return Progress(
        _cross_entropy(projected + mean, answers)[~is_train].mean(),
        _cross_entropy(logits - projected, answers)[is_train].mean(),
        tuple(map(int, key)),
    )


def key_frequencies(spectrum: NDArray[np.complexfloating[Any, Any]], p: int) -> NDArray[np.intp]:
    """Return the fewest frequencies that have KEY_POWER of the power of a real spectrum [p // 2 + 1, any], by power.

    Frequency 0 is none of them; no frequency is where all others are 0.
    """
    power = (np.abs(spectrum) ** 2).sum(1)
    power[1 : (p + 1) // 2] *= 2  # stand for their negatives as well
    power[0] = 0
    if not power.any():
        return np.zeros(0, np.intp)
    order = np.argsort(-power, kind="stable")
    n = int(np.searchsorted(np.cumsum(power[order]), KEY_POWER * power.sum())) + 1
    return order[:n]


def fourier_norms(embedding: Floats) -> Floats:
    """Return the norms [p] of the Fourier components of an embedding [p, D] of the residues.

    They are of the orthonormal basis: the constant, then cos of every frequency, then sin. Their squares add up to
    those of the embedding.
    """
    p = len(embedding)
    spectrum = np.fft.rfft(np.asarray(embedding, np.float64), axis=0, norm="ortho")
    spectrum[1 : (p + 1) // 2] *= 2**0.5
    norms: Floats = np.linalg.norm(np.concatenate([spectrum.real, spectrum.imag[1 : (p + 1) // 2]]), axis=1)
    return norms


def gini(values: Floats) -> float:
    """Return the Gini coefficient of n values of 0 or more: 0 where all are equal, 1 - 1/n where one alone is not 0.

    Hurley & Rickard, IEEE Transactions on Information Theory 2009. 0 where all are 0.
    """
    ordered, n = np.sort(values), len(values)
    total = ordered.sum()
    return float(1 - 2 * (ordered / total) @ (n - np.arange(1, n + 1) + 0.5) / n) if total else 0.0


def _cross_entropy(logits: Floats, answers: NDArray[np.int64]) -> Floats:
    losses: Floats = logsumexp(logits, axis=1) - logits[np.arange(len(answers)), answers]
    return losses
