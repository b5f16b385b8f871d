"""The number of directions that a set of vectors, or a matrix of weights, fills."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]


def effective_rank(states: Floats) -> float:
    """Return the effective rank of states [n, D]: 1 to min(n, D); 0 where all are 0. They are not centred.

    The exponential of the entropy of the singular values as shares of their sum (Roy & Vetterli, EUSIPCO 2007).
    """
    return _effective_rank(np.linalg.svd(np.asarray(states, np.float64), compute_uv=False))


def matrix_ranks(matrix: Floats) -> dict[str, float]:
    """Return the stable and the effective rank of a matrix [n, m], each 1 to min(n, m); 0 where all of it is 0.

    The stable rank is the squared Frobenius norm over the squared largest singular value (Rudelson & Vershynin, JACM
    2007), the effective rank as in `effective_rank`. Singular values are roots of the Gram matrix's eigenvalues, which
    in fp64 are exact to 1e-8 of the largest and several times as fast.
    """
    matrix = np.asarray(matrix, np.float64)
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    squares = np.clip(np.linalg.eigvalsh(gram), 0, None)
    largest = squares.max()
    stable = float(squares.sum() / largest) if largest else 0.0
    return {"stable_rank": stable, "effective_rank": _effective_rank(np.sqrt(squares))}


def _effective_rank(singular_values: Floats) -> float:
    total = max(singular_values.sum(), np.finfo(np.float64).tiny)
    shares = singular_values[singular_values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0
