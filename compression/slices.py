"""Kinds of texts that a mean over all hides: by length, truncated or not, with a negation, by rating."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

# Upper ends in tokens, special ones included.
_LENGTHS = (64, 128, 256, 512)
_NEGATION = re.compile(
    r"\b(?:not|no|never|none|nobody|nothing|nowhere|neither|nor|cannot|hardly|barely|scarcely|without)\b"
    r"|n['’]t\b",
    re.IGNORECASE,
)

Rows = npt.NDArray[np.bool_]


def by_length(tokens: npt.NDArray[np.int64]) -> dict[str, Rows]:
    """Texts by their whole length in tokens, before anything is cut. Shape: (N,)."""
    edges = [0, *_LENGTHS]
    parts = {
        f"{low + 1} to {high} tokens": (tokens > low) & (tokens <= high) for low, high in pairwise(edges)
    }
    return {**parts, f"more than {_LENGTHS[-1]} tokens": tokens > _LENGTHS[-1]}


def by_truncation(tokens: npt.NDArray[np.int64], max_tokens: int) -> dict[str, Rows]:
    """Texts the model reads as a whole, and those it cuts."""
    return {"read as a whole": tokens <= max_tokens, "truncated": tokens > max_tokens}


def by_negation(texts: Sequence[str]) -> dict[str, Rows]:
    """Texts with an English word of negation, and those without."""
    found = np.asarray([_NEGATION.search(text) is not None for text in texts], dtype=bool)
    return {"with a negation": found, "without a negation": ~found}


def by_value(name: str, values: Sequence[str]) -> dict[str, Rows]:
    """Texts by what stands in a further column, a rating say; an empty value is none."""
    column = np.asarray(values, dtype=object)
    ordered = sorted(set(values) - {""}, key=lambda value: (not value.isdigit(), value.zfill(12)))
    return {f"{name} {value}": np.asarray(column == value, dtype=bool) for value in ordered}


def all_slices(
    texts: Sequence[str],
    tokens: npt.NDArray[np.int64],
    max_tokens: int,
    further: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Rows]:
    """Every slice that has a row; one that holds them all says nothing new and is left out."""
    found = {**by_length(tokens), **by_truncation(tokens, max_tokens), **by_negation(texts)}
    for name, values in (further or {}).items():
        found.update(by_value(name, values))
    return {name: rows for name, rows in found.items() if rows.any() and not rows.all()}
