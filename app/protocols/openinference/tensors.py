"""The protocol's tensors: one of texts in, four out, and how both stand in bytes. Pure."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Literal

import numpy as np

from app.answer import Prediction
from app.errors import InvalidRequestError

INPUT = "text"
_LENGTH = struct.Struct("<I")

Datatype = Literal["BYTES", "FP32"]


@dataclass(frozen=True, slots=True)
class Output:
    """How to take one output from predictions. Shape: (texts,), or (texts, labels) if `wide`."""

    datatype: Datatype
    wide: bool
    values: Callable[[Sequence[Prediction]], list[str] | list[float]]


OUTPUTS: Mapping[str, Output] = {
    "label": Output("BYTES", False, lambda predictions: [each.label for each in predictions]),
    "score": Output("FP32", False, lambda predictions: [each.score for each in predictions]),
    "probabilities": Output(
        "FP32",
        True,
        lambda predictions: list(chain.from_iterable(each.probabilities for each in predictions)),
    ),
    "logits": Output(
        "FP32", True, lambda predictions: list(chain.from_iterable(each.logits for each in predictions))
    ),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """An output with its values, flat and row by row."""

    name: str
    datatype: Datatype
    shape: list[int]
    values: list[str] | list[float]

    def raw(self) -> bytes:
        """The values as the protocol lays them out: little-endian floats, or texts behind their lengths."""
        if self.datatype == "FP32":
            return np.asarray(self.values, dtype="<f4").tobytes()
        return encode_texts([str(value) for value in self.values])


def output_tensors(
    predictions: Sequence[Prediction], labels: Sequence[str], names: Sequence[str]
) -> list[Tensor]:
    """The named outputs, in that order."""
    tensors = []
    for name in names:
        output = OUTPUTS[name]
        shape = [len(predictions), len(labels)] if output.wide else [len(predictions)]
        tensors.append(Tensor(name, output.datatype, shape, output.values(predictions)))
    return tensors


def encode_texts(texts: Sequence[str]) -> bytes:
    """Each text in UTF-8 behind its length in four bytes, little-endian."""
    parts = []
    for text in texts:
        encoded = text.encode()
        parts += [_LENGTH.pack(len(encoded)), encoded]
    return b"".join(parts)


def decode_texts(data: bytes | memoryview, count: int) -> list[str]:
    """The reverse of `encode_texts`, for exactly `count` texts.

    Raises:
        InvalidRequestError: more or fewer texts, a length that leads past the end, or not UTF-8.
    """
    texts: list[str] = []
    offset = 0
    while offset < len(data):
        if len(texts) == count:
            raise InvalidRequestError(f"{INPUT} has bytes after the {count} texts of its shape")
        start = offset + _LENGTH.size
        length = _LENGTH.unpack_from(data, offset)[0] if start <= len(data) else 0
        offset = start + length
        if offset > len(data):
            raise InvalidRequestError(f"{INPUT}[{len(texts)}] ends before the length that stands before it")
        texts.append(decode_text(bytes(data[start:offset]), len(texts)))
    if len(texts) != count:
        raise InvalidRequestError(f"{INPUT} holds {len(texts)} texts, its shape says {count}")
    return texts


def decode_text(data: bytes, index: int) -> str:
    """One text.

    Raises:
        InvalidRequestError: not UTF-8.
    """
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError(f"{INPUT}[{index}] is not UTF-8") from None
