"""Tables of (a op b) mod p: the data on which grokking was found (arXiv 2201.02177), as a positive control."""

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genesis_ds.config import Operation
from genesis_ds.data.keyed_random import keyed_permutation

OPERATIONS: dict[Operation, np.ufunc] = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply}


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
    """All p^2 equations, in two parts, each in random order."""

    train: Equations
    validation: Equations

    @property
    def fingerprint(self) -> str:
        """SHA-256 of both parts."""
        parts = (array for part in (self.train, self.validation) for array in (part.tokens, part.answers))
        return hashlib.sha256(b"".join(array.astype("<i8").tobytes() for array in parts)).hexdigest()


def arithmetic_table(modulus: int, operation: Operation, train_share: float, seed: int) -> ArithmeticTable:
    """Make the table of (a op b) mod p; the seed chooses train_share of the pairs, rounded down, for training."""
    a, b = np.divmod(np.arange(modulus**2), modulus)
    tokens = np.stack([a, b, np.full_like(a, modulus)], axis=1)
    answers = OPERATIONS[operation](a, b) % modulus
    order = keyed_permutation(f"arithmetic/split/{seed}", modulus**2)
    parts = np.split(order, [int(train_share * modulus**2)])
    train, validation = (Equations(tokens[part], answers[part], modulus) for part in parts)
    return ArithmeticTable(train, validation)
