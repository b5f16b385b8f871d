"""Tables of (a op b) mod p: the data on which grokking was found (arXiv 2201.02177), as a positive control."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genesis_ds.config import Operation
from genesis_ds.data.keyed_random import keyed_permutation

Residues = NDArray[np.int64]


def _divide(a: Residues, b: Residues, modulus: int) -> Residues:
    inverses: Residues = np.array([0, *(pow(n, -1, modulus) for n in range(1, modulus))])
    return a * np.take(inverses, b)


OPERATIONS: dict[Operation, Callable[[Residues, Residues, int], Residues]] = {
    "add": lambda a, b, _: a + b,
    "subtract": lambda a, b, _: a - b,
    "multiply": lambda a, b, _: a * b,
    "divide": _divide,
}
"""What a op b is for int64 [n] residues of a modulus, before the modulus is taken."""


@dataclass(frozen=True)
class Equations:
    """Some equations of a table."""

    tokens: NDArray[np.int64]
    """[n, 3]: a, b, and the sign = at which the answer is predicted. A residue is itself, the sign is p."""
    answers: NDArray[np.int64]
    """[n]: residues."""
    modulus: int

    def __len__(self) -> int:
        return len(self.answers)


@dataclass(frozen=True)
class ArithmeticTable:
    """All equations, in two parts, each in random order: p^2, or p (p - 1) of a division."""

    train: Equations
    validation: Equations

    @property
    def fingerprint(self) -> str:
        """SHA-256 of both parts."""
        parts = (array for part in (self.train, self.validation) for array in (part.tokens, part.answers))
        return hashlib.sha256(b"".join(array.astype("<i8").tobytes() for array in parts)).hexdigest()


def arithmetic_table(modulus: int, operation: Operation, train_share: float, seed: int) -> ArithmeticTable:
    """Make the table of (a op b) mod p; the seed chooses train_share of the pairs, rounded down, for training.

    A division is of a prime p, and none is by 0.
    """
    a, b = np.divmod(np.arange(modulus**2), modulus)
    if operation == "divide":
        a, b = a[b > 0], b[b > 0]
    tokens = np.stack([a, b, np.full_like(a, modulus)], axis=1)
    answers = OPERATIONS[operation](a, b, modulus) % modulus
    order = keyed_permutation(f"arithmetic/split/{seed}", len(a))
    parts = np.split(order, [int(train_share * len(a))])
    train, validation = (Equations(tokens[part], answers[part], modulus) for part in parts)
    return ArithmeticTable(train, validation)
