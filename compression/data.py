"""Labelled and unlabelled texts: found, cleaned, freed of duplicates and leaks, split.

A source is one file (Parquet, CSV, TSV, JSONL), a folder of such files named after their split, the
published `aclImdb/` folder, or the name of a data set on the hub. Whatever is wrong with it is said in one
line: which file, which row, what was expected.
"""

from __future__ import annotations

import hashlib
import html
import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from app.errors import DataError
from compression.tables import Table, read_hub, read_imdb_folder, read_table, table_in

_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Split:
    """Cleaned texts with their class indices; `labels` is None where the text is unlabelled."""

    texts: tuple[str, ...]
    labels: tuple[int, ...] | None

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int]) -> Split:
        """The chosen rows, in the given order."""
        labels = None if self.labels is None else tuple(self.labels[index] for index in indices)
        return Split(tuple(self.texts[index] for index in indices), labels)

    @property
    def fingerprint(self) -> str:
        """sha256 over texts and labels, in order."""
        digest = hashlib.sha256()
        for text in self.texts:
            digest.update(text.encode())
            digest.update(b"\0")
        digest.update(repr(self.labels).encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class CleaningReport:
    """Rows left out, and why. A test text is never removed: the copy in training is."""

    train_duplicates: int
    conflicting_labels: int
    train_in_test: int
    test_duplicates: int
    unlabelled_duplicates: int
    unlabelled_in_test: int


@dataclass(frozen=True)
class Dataset:
    """What a run trains on, chooses on and is finally judged on."""

    name: str
    label_names: tuple[str, ...]
    train: Split
    validation: Split
    test: Split | None
    unlabelled: Split | None
    report: CleaningReport

    @property
    def fingerprint(self) -> str:
        """sha256 over all splits."""
        splits = (self.train, self.validation, self.test, self.unlabelled)
        parts = ["-" if split is None else split.fingerprint for split in splits]
        return hashlib.sha256(" ".join([*self.label_names, *parts]).encode()).hexdigest()


@dataclass(frozen=True)
class DataSettings:
    """How a source is read. `label_names` None: the teacher's, or those found in the data."""

    text_column: str = "text"
    label_column: str = "label"
    label_names: tuple[str, ...] | None = None
    validation_fraction: float = 0.08
    seed: int = 0
    limit_rows: int | None = None


def load(source: str, settings: DataSettings, unlabelled_source: str | None = None) -> Dataset:
    """Read, clean and split a source.

    Raises:
        DataError: nothing usable there; says which file, which row and what was expected.
    """
    tables = _tables(source, settings)
    if unlabelled_source is not None:
        tables["unlabelled"] = read_table(Path(unlabelled_source), settings.text_column, None)
    if "train" not in tables:
        raise DataError(f"{source} has no training part; expected train.parquet, .csv, .tsv or .jsonl in it")
    names = settings.label_names or _label_names(tables["train"])
    splits = {part: _limit(_split(table, names), settings) for part, table in tables.items()}
    return _assemble(Path(source).name, names, splits, settings)


def clean(text: str) -> str:
    """Line-break tags become spaces, entities characters, runs of white space one space."""
    return _SPACE.sub(" ", html.unescape(_BREAK.sub(" ", text))).strip()


def stratified_split(labels: Sequence[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices of the larger and the smaller part; every class gives the same share, at least one row."""
    by_label: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(labels):
        by_label[label].append(index)
    generator = random.Random(seed)
    chosen: set[int] = set()
    for label in sorted(by_label):
        count = max(1, round(fraction * len(by_label[label])))
        chosen.update(generator.sample(by_label[label], count))
    return [index for index in range(len(labels)) if index not in chosen], sorted(chosen)


def _tables(source: str, settings: DataSettings) -> dict[str, Table]:
    path = Path(source)
    if path.is_file():
        return {"train": read_table(path, settings.text_column, settings.label_column)}
    if (path / "train" / "pos").is_dir():
        return read_imdb_folder(path)
    if path.is_dir():
        return _folder_tables(path, settings)
    if path.suffix or path.is_absolute():
        raise DataError(f"{source} does not exist")
    return read_hub(source, settings.text_column, settings.label_column)


def _folder_tables(folder: Path, settings: DataSettings) -> dict[str, Table]:
    names = {"train": "train", "validation": "validation", "test": "test", "unlabelled": "unsupervised"}
    tables = {}
    for part, stem in names.items():
        path = table_in(folder, stem)
        if path is not None:
            label_column = None if part == "unlabelled" else settings.label_column
            tables[part] = read_table(path, settings.text_column, label_column)
    return tables


def _label_names(table: Table) -> tuple[str, ...]:
    """The classes as the data names them; 0 and 1 are negative and positive."""
    found = set(table.labels or ())
    # A CSV file has only strings: its "0" is the 0 of a Parquet file.
    if not all(isinstance(label, int) or label.isdecimal() for label in found):
        return tuple(sorted(str(label) for label in found))
    highest = max((int(label) for label in found), default=0)
    return ("negative", "positive") if highest < 2 else tuple(f"LABEL_{i}" for i in range(highest + 1))


def _split(table: Table, names: tuple[str, ...]) -> Split:
    """Clean the texts and turn labels into class indices."""
    labels = None
    if table.labels is not None:
        index_of = {name: index for index, name in enumerate(names)}
        labels = tuple(_class_index(table, row, index_of) for row in range(len(table.texts)))
    return Split(tuple(clean(text) for text in table.texts), labels)


def _class_index(table: Table, row: int, index_of: dict[str, int]) -> int:
    assert table.labels is not None  # noqa: S101 - the caller checked
    label = table.labels[row]
    if isinstance(label, str) and label in index_of:
        return index_of[label]
    if isinstance(label, int) and 0 <= label < len(index_of):
        return label
    if isinstance(label, str) and label.isdecimal() and int(label) < len(index_of):
        return int(label)
    expected = ", ".join(index_of)
    raise DataError(
        f"{table.source}, row {row + table.first_row}: unknown label {str(label)[:40]!r}; "
        f"expected one of {expected}, or its number"
    )


def _limit(split: Split, settings: DataSettings) -> Split:
    """A seeded sample of at most `limit_rows` rows, for a quick run."""
    if settings.limit_rows is None or len(split) <= settings.limit_rows:
        return split
    chosen = sorted(random.Random(settings.seed).sample(range(len(split)), settings.limit_rows))
    return split.take(chosen)


def _assemble(name: str, names: tuple[str, ...], splits: dict[str, Split], settings: DataSettings) -> Dataset:
    train, duplicates, conflicting = _without_duplicates(splits["train"])
    held_out = [splits[part] for part in ("test", "validation") if part in splits]
    train, leaked = _without(train, held_out)
    test = splits.get("test")
    unlabelled, repeated, seen_in_test = splits.get("unlabelled"), 0, 0
    if unlabelled is not None:
        unlabelled, repeated, _ = _without_duplicates(unlabelled)
        unlabelled, seen_in_test = _without(unlabelled, held_out)
    validation = splits.get("validation")
    if validation is None:
        train, validation = _carve_validation(train, settings)
        unlabelled = None if unlabelled is None else _without(unlabelled, [validation])[0]
    if unlabelled is not None and not unlabelled.texts:
        unlabelled = None
    _check_classes(train, names)
    report = CleaningReport(
        train_duplicates=duplicates,
        conflicting_labels=conflicting,
        train_in_test=leaked,
        test_duplicates=0 if test is None else len(test) - len(set(test.texts)),
        unlabelled_duplicates=repeated,
        unlabelled_in_test=seen_in_test,
    )
    return Dataset(name, names, train, validation, test, unlabelled, report)


def _carve_validation(train: Split, settings: DataSettings) -> tuple[Split, Split]:
    if train.labels is None or len(train) < 2:
        raise DataError(f"{len(train)} labelled training rows are too few to hold a validation part out")
    kept, held = stratified_split(train.labels, settings.validation_fraction, settings.seed)
    return train.take(kept), train.take(held)


def _without_duplicates(split: Split) -> tuple[Split, int, int]:
    """Keep the first of equal texts; copies that disagree about the label go entirely."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(split.texts):
        rows_of[text].append(row)
    labels = split.labels
    conflicting = {
        text
        for text, rows in rows_of.items()
        if labels is not None and len({labels[row] for row in rows}) > 1
    }
    kept = [rows[0] for text, rows in rows_of.items() if text not in conflicting]
    return split.take(sorted(kept)), len(split) - len(rows_of), len(conflicting)


def _without(split: Split, others: Sequence[Split]) -> tuple[Split, int]:
    seen = {text for other in others for text in other.texts}
    kept = [row for row, text in enumerate(split.texts) if text not in seen]
    return split.take(kept), len(split) - len(kept)


def _check_classes(train: Split, names: tuple[str, ...]) -> None:
    found = set(train.labels or ())
    missing = [name for index, name in enumerate(names) if index not in found]
    if len(found) < 2:
        raise DataError(
            f"the training part has no row labelled {' or '.join(missing)}; two classes at least are needed"
        )


def with_label_names(settings: DataSettings, names: tuple[str, ...] | None) -> DataSettings:
    """The same settings with the teacher's labels, where a teacher gives them."""
    return settings if names is None else replace(settings, label_names=names)
