"""Which table row an n-gram of token ids has.

A single id has its own row. Two and three ids are hashed into as many buckets as a table has rows; the number
of buckets is a prime, and every product stays below 2^63, so that NumPy, PyTorch and ONNX Runtime compute the
same in plain int64. Source: Weinberger et al. 2009, Feature Hashing for Large Scale Multitask Learning.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch

# Primes below 2^31, to spread neighbouring ids.
FIRST, SECOND, PAIR, THIRD = 1_000_003, 982_451_653, 1_299_709, 1_610_612_741

Array = TypeVar("Array", npt.NDArray[np.int64], torch.Tensor)


def buckets_within(rows: int) -> int:
    """The largest prime that is not above `rows`."""
    candidate = rows
    while any(candidate % divisor == 0 for divisor in range(2, math.isqrt(candidate) + 1)):
        candidate -= 1
    return candidate


def pair_buckets(first: Array, second: Array, buckets: int) -> Array:
    """Bucket of each pair of neighbouring ids. Shapes: all equal."""
    return (first * FIRST + second * SECOND) % buckets


def triple_buckets(pair: Array, third: Array, buckets: int) -> Array:
    """Bucket of each pair's bucket and the id that follows."""
    return (pair * PAIR + third * THIRD) % buckets
