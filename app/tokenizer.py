"""Text to token ids, with the artifact's own tokenizer.json."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer as FastTokenizer

from app.artifact import TokenizerSettings
from app.errors import ArtifactError

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Encoded:
    """One text as the engine sees it. Shape of `input_ids`: (T,), special tokens included."""

    input_ids: Ids
    truncated: bool

    @property
    def tokens(self) -> int:
        """How many the engine reads."""
        return len(self.input_ids)


class Tokenizer:
    """Encodes text as the model was trained to read it."""

    def __init__(self, path: Path, settings: TokenizerSettings) -> None:
        """Load `tokenizer.json`.

        Raises:
            ArtifactError: the file is not a tokenizer.
        """
        try:
            self._tokenizer = FastTokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises bare Exception
            raise ArtifactError(f"{path} is not a tokenizer.json: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.settings = settings

    def encode(self, text: str) -> Encoded:
        """Encode one text, cut to the model's length."""
        return self._cut(self._tokenizer.encode(text).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[Encoded]:
        """Encode several texts, in order."""
        return [self._cut(encoding.ids) for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def _cut(self, ids: list[int]) -> Encoded:
        kept = truncate(ids, self.settings)
        return Encoded(np.asarray(kept, dtype=np.int64), truncated=len(kept) < len(ids))


def truncate(ids: list[int], settings: TokenizerSettings) -> list[int]:
    """Keep at most `max_tokens` ids: `head_tokens` from the start, the rest from the end."""
    if len(ids) <= settings.max_tokens:
        return ids
    tail = settings.max_tokens - settings.head_tokens
    return ids[: settings.head_tokens] + ids[-tail:]


def pad(rows: Sequence[Ids], pad_token_id: int, length: int | None = None) -> tuple[Ids, Ids]:
    """Stack rows of different lengths. Returns input_ids and attention_mask, both (B, T) int64.

    T is the longest row's length, unless a `length` above that is given.
    """
    length = length or max(len(row) for row in rows)
    input_ids = np.full((len(rows), length), pad_token_id, dtype=np.int64)
    attention_mask = np.zeros((len(rows), length), dtype=np.int64)
    for index, row in enumerate(rows):
        input_ids[index, : len(row)] = row
        attention_mask[index, : len(row)] = 1
    return input_ids, attention_mask
