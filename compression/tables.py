"""Raw tables of texts and labels from files, folders and the hub; nothing is cleaned here."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.errors import DataError

Label = str | int


@dataclass(frozen=True)
class Table:
    """One split as it was found.

    `row_numbers` are those people give its rows; `further` has the labels of further columns, None where a
    row has none.
    """

    source: str
    texts: tuple[str, ...]
    labels: tuple[Label, ...] | None
    row_numbers: Sequence[int]
    further: Mapping[str, tuple[Label | None, ...]] = field(default_factory=dict)


Row = tuple[int, dict[str, Any]]


def table_in(folder: Path, stem: str) -> Path | None:
    """The file of that stem in a readable format, if the folder has one."""
    for suffix in _READERS:
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            return path
    return None


def read_table(path: Path, text_column: str, label_column: str | None, further: Sequence[str] = ()) -> Table:
    """Read one file.

    Raises:
        DataError: not there, of an unknown format, empty, broken, or without the columns.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist or is not a file")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise DataError(f"{path}: unknown format {path.suffix!r}; expected {', '.join(_READERS)}")
    if path.stat().st_size == 0:
        raise DataError(
            f"{path} is empty; expected rows with the columns {text_column!r} and {label_column!r}"
        )
    return _table(str(path), reader(path), text_column, label_column, further)


def read_imdb_folder(folder: Path, further: Sequence[str] = ()) -> dict[str, Table]:
    """The Large Movie Review Dataset as published: aclImdb/{train,test}/{neg,pos}, train/unsup.

    Its file names carry a rating (`<id>_<rating>.txt`), which is the further column `rating`.
    """
    tables = {}
    for part in ("train", "test"):
        if not (folder / part).is_dir():
            continue
        rows = [
            (text, label, rating)
            for label, name in enumerate(("neg", "pos"))
            for text, rating in _texts_in(folder / part / name)
        ]
        if not rows:
            raise DataError(f"{folder / part} holds no reviews; expected neg/*.txt and pos/*.txt")
        texts, labels, ratings = zip(*rows, strict=True)
        columns = {"rating": ratings} if "rating" in further else {}
        tables[part] = Table(str(folder / part), texts, labels, range(1, len(rows) + 1), columns)
    if (folder / "train" / "unsup").is_dir():
        texts = tuple(text for text, _ in _texts_in(folder / "train" / "unsup"))
        tables["unlabelled"] = Table(str(folder / "train/unsup"), texts, None, range(1, len(texts) + 1))
    return tables


def read_hub(name: str, text_column: str, label_column: str, further: Sequence[str] = ()) -> dict[str, Table]:
    """A data set on the hub, by its name, with its splits train, validation, test and unsupervised.

    Raises:
        DataError: `datasets` is not installed, it finds no such data set, or a row is not what was expected.
    """
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise DataError(
            f"{name} is not a path, and `datasets` is not installed to ask the hub for it"
        ) from error
    try:
        found = load_dataset(name)
    except Exception as error:  # datasets raises many kinds
        reason = str(error).partition("\n")[0]
        raise DataError(f"{name} is neither a path nor a data set on the hub: {reason}") from error
    names = {"train": "train", "validation": "validation", "test": "test", "unlabelled": "unsupervised"}
    return {
        part: _table(
            f"{name}[{split}]",
            enumerate(found[split], start=1),
            text_column,
            None if part == "unlabelled" else label_column,
            further,
        )
        for part, split in names.items()
        if split in found
    }


def _table(
    source: str, rows: Iterable[Row], text_column: str, label_column: str | None, further: Sequence[str]
) -> Table:
    texts: list[str] = []
    labels: list[Label] = []
    numbers: list[int] = []
    columns: dict[str, list[Label | None]] = {column: [] for column in further}
    for number, row in rows:
        numbers.append(number)
        for column, found in columns.items():
            found.append(_label(source, number, row, column) if row.get(column) not in (None, "") else None)
        texts.append(_text(source, number, row, text_column))
        if label_column is not None:
            labels.append(_label(source, number, row, label_column))
    if not texts:
        raise DataError(f"{source} has no rows; expected at least one with a column {text_column!r}")
    return Table(
        source,
        tuple(texts),
        tuple(labels) if label_column is not None else None,
        tuple(numbers),
        {column: tuple(found) for column, found in columns.items()},
    )


def _texts_in(folder: Path) -> list[tuple[str, Label | None]]:
    """Texts of a folder with the rating that each file's name ends in."""

    def read(path: Path) -> tuple[str, Label | None]:
        rating = re.search(r"_(\d+)$", path.stem)
        try:
            return path.read_text(encoding="utf-8"), rating and int(rating[1])
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: byte {error.start} is not UTF-8; expected UTF-8 text") from error

    return [read(path) for path in sorted(folder.glob("*.txt"))]


def _text(source: str, number: int, row: dict[str, Any], column: str) -> str:
    value = _cell(source, number, row, column)
    if not isinstance(value, str):
        raise DataError(f"{source}, row {number}: column {column!r} holds {value!r:.40}; expected a text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise DataError(f"{source}, row {number}: column {column!r} is not valid UTF-8; expected UTF-8 text")
    return value


def _label(source: str, number: int, row: dict[str, Any], column: str) -> Label:
    value = _cell(source, number, row, column)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise DataError(f"{source}, row {number}: column {column!r} holds {value!r:.40}; expected a label")
    return value


def _cell(source: str, number: int, row: dict[str, Any], column: str) -> Any:
    if column not in row:
        found = ", ".join(str(name)[:40] for name in row)
        raise DataError(f"{source}, row {number}: no column {column!r}; found: {found}")
    return row[column]


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        rows = pq.read_table(path).to_pylist()
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file of UTF-8 text: {error}") from error
    yield from enumerate(rows, start=1)


def _delimited_rows(delimiter: str) -> Callable[[Path], Iterator[Row]]:
    def rows(path: Path) -> Iterator[Row]:
        csv.field_size_limit(sys.maxsize)
        # Broken bytes become lone surrogates, which _text reports with the row they stand in.
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
            try:
                # The header is row 1, as a spreadsheet counts.
                yield from enumerate((dict(row) for row in reader), start=2)
            except csv.Error as error:
                line = reader.reader.line_num
                raise DataError(
                    f"{path}, line {line}: {error}; expected quoted {delimiter!r}-separated text"
                ) from error

    return rows


def _json_lines(path: Path) -> Iterator[Row]:
    with path.open("rb") as stream:
        for number, line in _filled(stream):
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, row {number}: byte {error.start} is not UTF-8; expected UTF-8 text"
                ) from error
            except ValueError as error:
                raise DataError(f"{path}, row {number}: not a JSON object: {error}") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, row {number}: expected a JSON object, found {type(row).__name__}")
            yield number, row


def _filled(lines: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(lines, start=1) if line.strip())


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".parquet": _parquet_rows,
    ".csv": _delimited_rows(","),
    ".tsv": _delimited_rows("\t"),
    ".jsonl": _json_lines,
}
