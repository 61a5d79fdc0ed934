"""A split as token ids, computed once and memory-mapped ever after.

The cache is keyed by the texts and the tokenizer, and holds whole texts: truncation is applied when rows
are read, so one cache serves every length.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.artifact import TokenizerSettings, sha256
from app.tokenizer import Tokenizer, truncate
from compression.data import Split
from compression.locks import exclusive

_CHUNK = 1024
# Both ends of a text, so that every head and every tail of up to 4096 ids can be cut from what is kept.
_UNTRUNCATED = TokenizerSettings(max_tokens=8192, truncation="head+tail", head_tokens=4096, pad_token_id=0)


@dataclass(frozen=True)
class Corpus:
    """Token ids of a split: row i is `ids[offsets[i]:offsets[i + 1]]`, cut to `settings` when read.

    Shapes: labels (N,); further (N, K), the labels of further heads, -1 where a row has none. `name` is the
    data set's; `texts` are what was tokenized, for a teacher that reads words; `columns` as in `Split`.
    """

    ids: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64] | None
    settings: TokenizerSettings
    fingerprint: str
    further: npt.NDArray[np.int64]
    texts: tuple[str, ...]
    name: str = ""
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> npt.NDArray[np.int64]:
        """Ids of one row as the model reads them. Shape: (T,), T <= max_tokens."""
        start, stop = self.offsets[index], self.offsets[index + 1]
        return np.asarray(truncate(self.ids[start:stop].tolist(), self.settings), dtype=np.int64)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of every row after truncation. Shape: (N,)."""
        return np.minimum(np.diff(self.offsets), self.settings.max_tokens)

    def first(self, count: int) -> Corpus:
        """The first `count` rows as a corpus of their own."""
        count = min(count, len(self))
        labels = None if self.labels is None else self.labels[:count]
        return replace(
            self,
            offsets=self.offsets[: count + 1],
            labels=labels,
            further=self.further[:count],
            texts=self.texts[:count],
            columns={name: values[:count] for name, values in self.columns.items()},
            fingerprint=f"{self.fingerprint}[:{count}]",
        )

    def sample(self, count: int) -> Corpus:
        """The rows that `take` names as a corpus of their own."""
        chosen = self.take(count)
        parts = [self.ids[self.offsets[row] : self.offsets[row + 1]] for row in chosen]
        return replace(
            self,
            ids=np.concatenate(parts),
            offsets=np.cumsum([0, *map(len, parts)]),
            labels=None if self.labels is None else self.labels[chosen],
            further=self.further[chosen],
            texts=tuple(self.texts[row] for row in chosen),
            columns={name: tuple(values[row] for row in chosen) for name, values in self.columns.items()},
            fingerprint=f"{self.fingerprint}[{len(chosen)} drawn]",
        )

    def take(self, count: int, seed: int = 0) -> list[int]:
        """Row numbers of a seeded sample, ascending; all rows where there are no more."""
        if count >= len(self):
            return list(range(len(self)))
        chosen = np.random.default_rng(seed).choice(len(self), count, replace=False)
        return sorted(int(row) for row in chosen)


def build(
    split: Split, tokenizer_file: Path, settings: TokenizerSettings, cache: Path, name: str = ""
) -> Corpus:
    """Tokenize a split, or map what an earlier run tokenized."""
    key = hashlib.sha256(f"{split.fingerprint} {sha256(tokenizer_file)}".encode()).hexdigest()
    folder = cache / key[:24]
    if not (folder / "offsets.npy").is_file():
        with exclusive(cache / f"{folder.name}.lock"):
            if not (folder / "offsets.npy").is_file():
                _tokenize(split.texts, tokenizer_file, folder)
    labels = None if split.labels is None else np.asarray(split.labels, dtype=np.int64)
    further = np.asarray(split.further, dtype=np.int64).reshape(len(split.further), len(split)).T
    ids = np.load(folder / "ids.npy", mmap_mode="r")
    offsets = np.load(folder / "offsets.npy")
    return Corpus(ids, offsets, labels, settings, key, further, split.texts, name, split.columns)


def _tokenize(texts: Sequence[str], tokenizer_file: Path, folder: Path) -> None:
    """Write ids and, last, offsets: where offsets stand the cache is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = list(_encoded(texts, Tokenizer(tokenizer_file, _UNTRUNCATED)))
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
    ids = np.concatenate(rows).astype(np.int32)
    for name, array in (("ids.npy", ids), ("offsets.npy", offsets)):
        partial = folder / f".{name}.partial.npy"
        np.save(partial, array)
        partial.replace(folder / name)


def _encoded(texts: Sequence[str], tokenizer: Tokenizer) -> Iterator[npt.NDArray[np.int64]]:
    for start in range(0, len(texts), _CHUNK):
        for encoded in tokenizer.encode_batch(texts[start : start + _CHUNK]):
            yield encoded.input_ids
