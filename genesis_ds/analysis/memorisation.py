"""How well losses tell what was trained on: the area under the ROC curve of a membership attack, and exposure."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from genesis_ds.analysis.resampling import Z

STEPS = 10_000
"""Areas from 0 to 1 that are tried."""


def membership_auc(members: NDArray[np.floating[Any]], others: NDArray[np.floating[Any]]) -> float:
    """Return how likely a member's loss is lower than another's, 0.5 where losses tell nothing; ties count half.

    members: losses [m]; others: losses [n]; nan where one is not finite. The attack is that of Yeom et al. (arXiv
    1709.01604).
    """
    if not (np.isfinite(members).all() and np.isfinite(others).all()):
        return math.nan
    differences = others[None] - members[:, None]
    return float(((differences > 0) + (differences == 0) / 2).mean())


def auc_interval(auc: float, m: int, n: int) -> tuple[float, float]:
    """Return the ends of the 95 % interval of an area of m members and n others.

    They are the areas from which this one lies 1.96 standard deviations (Newcombe 2006, Stat. Med. 25:559, method 5,
    with the variance of Hanley & McNeil 1982), so that an area of 1 has an interval as well. Both are nan for nan.
    """
    if math.isnan(auc):
        return math.nan, math.nan
    area = np.linspace(0, 1, STEPS + 1)
    pairs = (m + n) / 2 - 1
    variance = area * (1 - area) / (m * n) * (1 + pairs * (1 - area) / (2 - area) + pairs * area / (1 + area))
    (near,) = np.nonzero((area - auc) ** 2 <= Z**2 * variance + 1 / STEPS**2)
    return float(area[near[0]]), float(area[near[-1]])


def exposure(canaries: NDArray[np.floating[Any]], alternatives: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the exposure of each canary in bits, [n]: log2(m + 1) less log2 of its rank by loss (arXiv 1802.08232).

    canaries: losses [n]; alternatives: losses [m] of sequences drawn in the same way and never trained on, among which
    the rank is from 1, the lowest loss, to m + 1; ties count half. nan where a loss is not finite.
    """
    if not (np.isfinite(canaries).all() and np.isfinite(alternatives).all()):
        return np.full(len(canaries), np.nan)
    above = canaries[:, None] - alternatives[None]
    ranks = 1 + (above > 0).sum(1) + (above == 0).sum(1) / 2
    return np.asarray(np.log2((len(alternatives) + 1) / ranks))


def exposure_by_chance(m: int) -> float:
    """Return the mean exposure of what was never trained on, whose rank among m alternatives is any."""
    return float(np.log2((m + 1) / np.arange(1, m + 2)).mean())


def mean_interval(values: NDArray[np.floating[Any]]) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a mean, by Student's t; nan for fewer than two values."""
    n = len(values)
    if n < 2:
        return math.nan, math.nan
    half = float(stdtrit(n - 1, 0.975)) * float(values.std(ddof=1)) / math.sqrt(n)
    return float(values.mean()) - half, float(values.mean()) + half
