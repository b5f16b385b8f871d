"""The number of directions that a set of vectors fills."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def effective_rank(states: NDArray[np.floating[Any]]) -> float:
    """Return the effective rank of states [n, D]: 1 to min(n, D); 0 where all are 0. They are not centred.

    The exponential of the entropy of the singular values as shares of their sum (Roy & Vetterli, EUSIPCO 2007).
    """
    values = np.linalg.svd(np.asarray(states, np.float64), compute_uv=False)
    shares = values[values > 0] / max(values.sum(), np.finfo(np.float64).tiny)
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0
