"""Random generators that depend on a seed and a purpose, never on the order of calls."""

import hashlib

import numpy as np


def derived_seed(seed: int, *labels: str | int) -> int:
    """A 63-bit seed from `seed` and what it is for."""
    text = "\x1f".join(str(part) for part in (seed, *labels))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *labels: str | int) -> np.random.Generator:
    """A numpy generator for one purpose, for example `generator(7, "patient", 12)`."""
    return np.random.default_rng(derived_seed(seed, *labels))
