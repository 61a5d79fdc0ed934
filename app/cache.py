"""Answers kept for the next time the same text comes: bounded in bytes, least recently used goes first.

Lives on the event loop. A text itself is not kept, only its digest.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict

from app.answer import Prediction

_Key = tuple[int, bytes]
# A digest, its key, the prediction and the dictionary's own entry, as the interpreter stores them (measured).
_ENTRY_BYTES = 370
_CLASS_BYTES = 64
_HEAD_BYTES = 170


class AnswerCache:
    """Predictions by loaded variant (its serial number) and text."""

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` of 0 keeps nothing."""
        self._max_bytes = max_bytes
        self._entries: OrderedDict[_Key, Prediction] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def enabled(self) -> bool:
        """Whether anything is ever kept."""
        return self._max_bytes > 0

    def get(self, variant: int, text: str) -> Prediction | None:
        """The answer given before, if it is still there."""
        key = (variant, _digest(text))
        prediction = self._entries.get(key)
        if prediction is not None:
            self._entries.move_to_end(key)
        return prediction

    def put(self, variant: int, text: str, prediction: Prediction) -> None:
        """Keep an answer; the ones unused for longest make room."""
        key = (variant, _digest(text))
        if key in self._entries:
            return
        self._entries[key] = prediction
        self.bytes += _size(prediction)
        while self.bytes > self._max_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.bytes -= _size(oldest)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _size(prediction: Prediction) -> int:
    further = sum(_HEAD_BYTES + _CLASS_BYTES * len(head.probabilities) for head in prediction.further)
    return _ENTRY_BYTES + _CLASS_BYTES * len(prediction.probabilities) + further
