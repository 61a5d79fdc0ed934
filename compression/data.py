"""Labelled and unlabelled texts: found, cleaned, freed of duplicates and leaks, split.

A source is one file (Parquet, CSV, TSV, JSONL), a folder of such files named after their split, the
published `aclImdb/` folder, or the name of a data set on the hub. A run may have several. Whatever is wrong
with one is said in one line: which file, which row, what was expected.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.artifact import Head
from app.errors import DataError
from compression import labels
from compression.cleaning import CleaningReport, clean, stratified_split, unrepeated, unseen
from compression.tables import Table, read_hub, read_imdb_folder, read_table, table_in

# What the first head of every model is named.
MAIN_HEAD = "label"


@dataclass(frozen=True)
class Split:
    """Cleaned texts with their class indices; `labels` is None where the text is unlabelled.

    `further` has the class indices of each further head, -1 where a row has none; `columns` what else is
    known of the rows, which nothing learns and accuracy is told apart by.
    """

    texts: tuple[str, ...]
    labels: tuple[int, ...] | None
    further: tuple[tuple[int, ...], ...] = ()
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int]) -> Split:
        """The chosen rows, in the given order."""
        chosen = None if self.labels is None else tuple(self.labels[index] for index in indices)
        further = tuple(tuple(column[index] for index in indices) for column in self.further)
        columns = {name: tuple(values[index] for index in indices) for name, values in self.columns.items()}
        return Split(tuple(self.texts[index] for index in indices), chosen, further, columns)

    @property
    def fingerprint(self) -> str:
        """sha256 over texts and labels, in order."""
        digest = hashlib.sha256()
        for text in self.texts:
            digest.update(text.encode())
            digest.update(b"\0")
        digest.update(repr(self.labels).encode())
        if self.further:
            digest.update(repr(self.further).encode())
        return digest.hexdigest()


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
    further_heads: tuple[Head, ...] = ()

    @property
    def heads(self) -> tuple[Head, ...]:
        """Every task the data set has labels for; the first is the label itself."""
        return (Head(name=MAIN_HEAD, labels=self.label_names), *self.further_heads)

    @property
    def fingerprint(self) -> str:
        """sha256 over all splits."""
        splits = (self.train, self.validation, self.test, self.unlabelled)
        parts = ["-" if split is None else split.fingerprint for split in splits]
        return hashlib.sha256(" ".join([*self.label_names, *parts]).encode()).hexdigest()


@dataclass(frozen=True)
class DataSettings:
    """How a source is read. `label_names` None: the teacher's, or those found in the data.

    `further_columns` are columns of further heads (a rating beside the label); `further_heads` their
    labels where a teacher gives them, else those found in the data. `slice_columns` are told apart where a
    model is judged, and learned by nobody.
    """

    text_column: str = "text"
    label_column: str = "label"
    label_names: tuple[str, ...] | None = None
    validation_fraction: float = 0.08
    seed: int = 0
    limit_rows: int | None = None
    further_columns: tuple[str, ...] = ()
    further_heads: tuple[Head, ...] = field(default=())
    slice_columns: tuple[str, ...] = ()

    @property
    def read_columns(self) -> tuple[str, ...]:
        """Every column beside text and label."""
        return tuple(dict.fromkeys((*self.further_columns, *self.slice_columns)))


def fingerprint(datasets: Sequence[Dataset]) -> str:
    """Identity of all data of a run."""
    if len(datasets) == 1:
        return datasets[0].fingerprint
    return hashlib.sha256(" ".join(dataset.fingerprint for dataset in datasets).encode()).hexdigest()


def load_all(
    sources: Sequence[str], settings: DataSettings, unlabelled_source: str | None = None
) -> tuple[Dataset, ...]:
    """Read several data sets for one run: no text one of them holds out is trained on in another.

    Raises:
        DataError: one of them cannot be used, one is given twice, or their labels differ.
    """
    if len(set(sources)) < len(sources):
        raise DataError(f"a data set is given twice: {', '.join(sources)}")
    first = load(sources[0], settings, unlabelled_source)
    # One run has one set of labels: what the first data set found is asked of the others.
    agreed = replace(settings, further_heads=first.further_heads)
    datasets = [first, *(load(source, agreed) for source in sources[1:])]
    for dataset in datasets[1:]:
        if dataset.label_names != first.label_names:
            raise DataError(
                f"{dataset.name} has the labels {', '.join(dataset.label_names)}, {first.name} has "
                f"{', '.join(first.label_names)}; name them the same, or number them and pass --labels"
            )
    named = _named_apart(datasets)
    return tuple(_without_held_out(dataset, named) for dataset in named)


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
    names = settings.label_names or labels.names_in(tables["train"])
    labels.check_numbers(tables["train"], names)
    heads = settings.further_heads or labels.heads_in(tables["train"], settings.further_columns)
    _check_columns(tables, settings.slice_columns)
    splits = {
        part: _limit(_split(table, names, heads, settings.slice_columns), settings)
        for part, table in tables.items()
    }
    return replace(_assemble(Path(source).name, names, splits, settings), further_heads=heads)


def _tables(source: str, settings: DataSettings) -> dict[str, Table]:
    path = Path(source)
    if path.is_file():
        return {"train": read_table(path, settings.text_column, settings.label_column, settings.read_columns)}
    if (path / "train" / "pos").is_dir():
        return read_imdb_folder(path, settings.read_columns)
    if path.is_dir():
        return _folder_tables(path, settings)
    if path.suffix or path.is_absolute():
        raise DataError(f"{source} does not exist")
    return read_hub(source, settings.text_column, settings.label_column, settings.read_columns)


def _folder_tables(folder: Path, settings: DataSettings) -> dict[str, Table]:
    names = {"train": "train", "validation": "validation", "test": "test", "unlabelled": "unsupervised"}
    tables = {}
    for part, stem in names.items():
        path = table_in(folder, stem)
        if path is not None:
            label_column = None if part == "unlabelled" else settings.label_column
            tables[part] = read_table(path, settings.text_column, label_column, settings.read_columns)
    return tables


def _check_columns(tables: Mapping[str, Table], columns: Sequence[str]) -> None:
    judged = next(tables[part] for part in ("test", "validation", "train") if part in tables)
    for column in columns:
        if all(value is None for value in judged.further.get(column, ())):
            raise DataError(
                f"{judged.source}: no row has a value in the column {column!r}, by which accuracy is to be "
                "told apart; name another column or leave --slice out"
            )


def _split(table: Table, names: tuple[str, ...], heads: Sequence[Head], columns: Sequence[str]) -> Split:
    """Clean the texts and turn labels into class indices."""
    further = tuple(labels.further_indices(table, head) for head in heads)
    texts = tuple(clean(text) for text in table.texts)
    return Split(
        texts, labels.class_indices(table, names), further, {name: _column(table, name) for name in columns}
    )


def _column(table: Table, name: str) -> tuple[str, ...]:
    """What stands there, nothing where a row has no value."""
    values = table.further.get(name) or (None,) * len(table.texts)
    return tuple("" if value is None else str(value) for value in values)


def _limit(split: Split, settings: DataSettings) -> Split:
    """A seeded sample of at most `limit_rows` rows, for a quick run."""
    if settings.limit_rows is None or len(split) <= settings.limit_rows:
        return split
    chosen = sorted(random.Random(settings.seed).sample(range(len(split)), settings.limit_rows))
    return split.take(chosen)


def _assemble(name: str, names: tuple[str, ...], splits: dict[str, Split], settings: DataSettings) -> Dataset:
    found = splits["train"]
    kept, conflicting = unrepeated(found.texts, found.labels)
    held_out = [splits[part].texts for part in ("test", "validation") if part in splits]
    train = found.take(kept)
    train, leaked = _without(train, held_out)
    test = splits.get("test")
    unlabelled, repeated, seen_in_test = splits.get("unlabelled"), 0, 0
    if unlabelled is not None:
        repeated = len(unlabelled) - len(set(unlabelled.texts))
        unlabelled, seen_in_test = _without(unlabelled.take(unrepeated(unlabelled.texts, None)[0]), held_out)
    validation = splits.get("validation")
    if validation is None:
        train, validation = _carve_validation(train, settings)
        unlabelled = None if unlabelled is None else _without(unlabelled, [validation.texts])[0]
    _check_classes(train, names)
    report = CleaningReport(
        train_duplicates=len(found) - len(set(found.texts)),
        conflicting_labels=conflicting,
        train_in_test=leaked,
        test_duplicates=0 if test is None else len(test) - len(set(test.texts)),
        unlabelled_duplicates=repeated,
        unlabelled_in_test=seen_in_test,
    )
    return Dataset(name, names, train, validation, test, unlabelled or None, report)


def _carve_validation(train: Split, settings: DataSettings) -> tuple[Split, Split]:
    if train.labels is None or len(train) < 2:
        raise DataError(f"{len(train)} labelled training rows are too few to hold a validation part out")
    kept, held = stratified_split(train.labels, settings.validation_fraction, settings.seed)
    if not held:
        raise DataError("every class of the training part has one row; none can be held out to validate on")
    return train.take(kept), train.take(held)


def _without(split: Split, others: Iterable[Sequence[str]]) -> tuple[Split, int]:
    kept = unseen(split.texts, others)
    return split.take(kept), len(split) - len(kept)


def _without_held_out(dataset: Dataset, datasets: Sequence[Dataset]) -> Dataset:
    """The data set without what another one is chosen or judged on."""
    held_out = [
        split.texts
        for other in datasets
        if other is not dataset
        for split in (other.validation, other.test)
        if split is not None
    ]
    train, removed = _without(dataset.train, held_out)
    unlabelled, removed_too = dataset.unlabelled, 0
    if unlabelled is not None:
        unlabelled, removed_too = _without(unlabelled, held_out)
    _check_classes(train, dataset.label_names)
    report = replace(dataset.report, in_other_data=removed + removed_too)
    return replace(dataset, train=train, unlabelled=unlabelled or None, report=report)


def _named_apart(datasets: Sequence[Dataset]) -> list[Dataset]:
    """Folders of the same name in different places get a number behind it."""
    seen: dict[str, int] = {}
    named = []
    for dataset in datasets:
        seen[dataset.name] = seen.get(dataset.name, 0) + 1
        count = seen[dataset.name]
        named.append(dataset if count == 1 else replace(dataset, name=f"{dataset.name}-{count}"))
    return named


def _check_classes(train: Split, names: tuple[str, ...]) -> None:
    found = set(train.labels or ())
    missing = [name for index, name in enumerate(names) if index not in found]
    if len(found) < 2:
        raise DataError(
            f"the training part has no row labelled {' or '.join(missing)}; two classes at least are needed"
        )


def with_heads(settings: DataSettings, heads: Sequence[Head]) -> DataSettings:
    """The same settings with the labels of a teacher, and the columns of its further heads.

    Raises:
        DataError: a further column is asked for that the teacher has no head for.
    """
    further = {head.name: head for head in heads[1:]}
    unknown = [column for column in settings.further_columns if column not in further]
    if unknown:
        raise DataError(
            f"the teacher has no head {unknown[0]!r}; it was trained on {', '.join(further) or 'one'}"
        )
    return replace(
        settings,
        label_names=heads[0].labels,
        further_columns=tuple(further),
        further_heads=tuple(further.values()),
    )


def with_label_names(settings: DataSettings, names: tuple[str, ...] | None) -> DataSettings:
    """The same settings with the teacher's labels, where a teacher gives them."""
    return settings if names is None else replace(settings, label_names=names)
