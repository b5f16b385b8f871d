"""Keyed random order: nothing is stored and nothing depends on how often or where it is asked for."""

import hashlib
from functools import lru_cache

import numpy as np


def keyed_bits(key: str, n: int) -> np.ndarray:
    """Return n uint64 that depend on the key alone: blake2b of it drives Philox, whose stream NumPy keeps stable."""
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    return np.random.Philox(key=np.frombuffer(digest, dtype="<u8")).random_raw(n)


@lru_cache(maxsize=4)
def keyed_permutation(key: str, n: int) -> np.ndarray:
    """Return a permutation of 0..n-1 that depends on the key alone; int64 of shape [n], read-only."""
    permutation = np.argsort(keyed_bits(key, n), kind="stable")
    permutation.flags.writeable = False
    return permutation
