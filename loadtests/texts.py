"""What the load generators send: IMDB's reviews and SST-2's sentences where they are at hand, else ours."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from app.errors import DataError

SHIPPED_TEXTS = Path(__file__).with_name("texts.txt")
REVIEWS_FILE = Path("imdb") / "test.parquet"
SENTENCES_FILE = Path("sst2") / "validation.parquet"
SHORT_TEXT_CHARACTERS = 100


def load(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the texts to send, in file order.

    Raises:
        DataError: `BERTPRESS_DATA` names a folder whose reviews cannot be read.
    """
    folder = environment.get("BERTPRESS_DATA")
    return _column(Path(folder) / REVIEWS_FILE) if folder else _shipped(SHIPPED_TEXTS)


def sentences_and_reviews(environment: Mapping[str, str] = os.environ) -> dict[str, list[str]]:
    """Return `short` and `long` texts: SST-2's sentences and IMDB's test reviews, else halves of our own.

    Raises:
        DataError: `BERTPRESS_DATA` names a folder that lacks one of them.
    """
    if folder := environment.get("BERTPRESS_DATA"):
        short, long = _column(Path(folder) / SENTENCES_FILE), _column(Path(folder) / REVIEWS_FILE)
    else:
        short, long = short_and_long(_shipped(SHIPPED_TEXTS))
    return {"short": short, "long": long}


def short_and_long(texts: list[str]) -> tuple[list[str], list[str]]:
    """Split at `SHORT_TEXT_CHARACTERS`; where one side would be empty, both sides are all the texts."""
    short = [text for text in texts if len(text) <= SHORT_TEXT_CHARACTERS]
    long = [text for text in texts if len(text) > SHORT_TEXT_CHARACTERS]
    return short or texts, long or texts


def _shipped(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _column(path: Path) -> list[str]:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"{path} needs pyarrow to be read: pip install 'bertpress[compress]', or unset BERTPRESS_DATA"
        ) from error
    try:
        column = parquet.read_table(path, columns=["text"]).column("text")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet with a column `text` ({error}); "
            "point BERTPRESS_DATA at the folder that holds imdb/ and sst2/, or unset it"
        ) from error
    return [str(text) for text in column.to_pylist()]
