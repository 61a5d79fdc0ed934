"""Labels as a table has them, and as class indices of a head."""

from __future__ import annotations

from collections.abc import Sequence

from app.artifact import Head
from app.errors import DataError
from compression.tables import Label, Table


def names_in(table: Table) -> tuple[str, ...]:
    """The classes as the data names them; 0 and 1 are negative and positive."""
    found = set(table.labels or ())
    # A CSV file has only strings: its "0" is the 0 of a Parquet file.
    if not all(isinstance(label, int) or label.isdecimal() for label in found):
        return tuple(sorted(str(label) for label in found))
    highest = max((int(label) for label in found), default=0)
    return ("negative", "positive") if highest < 2 else tuple(f"LABEL_{i}" for i in range(highest + 1))


def heads_in(table: Table, columns: Sequence[str]) -> tuple[Head, ...]:
    """A head for each further column, its labels as the table has them, numbers in their order.

    Raises:
        DataError: a column has fewer than two different labels.
    """
    heads = []
    for column in columns:
        found = {str(label) for label in table.further.get(column, ()) if label is not None}
        if len(found) < 2:
            raise DataError(
                f"{table.source}: the column {column!r} has {len(found)} different labels; a head needs two"
            )
        numbers = all(label.isdecimal() for label in found)
        heads.append(Head(name=column, labels=tuple(sorted(found, key=int if numbers else str))))
    return tuple(heads)


def check_numbers(table: Table, names: Sequence[str]) -> None:
    """Labels given as numbers must be as many as there are names.

    Raises:
        DataError: 0 and 1 where there are three names: which two are meant cannot be known.
    """
    numbers = [int(label) for label in table.labels or () if isinstance(label, int) or label.isdecimal()]
    if len(numbers) == len(table.texts) and 1 <= max(numbers) < len(names) - 1:
        raise DataError(
            f"{table.source} numbers its labels 0 to {max(numbers)}, and there are {len(names)} labels "
            f"({', '.join(names)}): which are meant? Write the names into the column"
        )


def class_indices(table: Table, names: Sequence[str]) -> tuple[int, ...] | None:
    """The label of every row, given by name or by number, as an index into the names.

    Raises:
        DataError: a label that is neither; says in which row.
    """
    if table.labels is None:
        return None
    index_of = {name: index for index, name in enumerate(names)}
    return tuple(_class_index(table, row, label, index_of) for row, label in enumerate(table.labels))


def further_indices(table: Table, head: Head) -> tuple[int, ...]:
    """The head's label of every row as an index, -1 where the row has none.

    Raises:
        DataError: a label the head does not have; says in which row.
    """
    index_of = {name: index for index, name in enumerate(head.labels)}
    labels = table.further.get(head.name) or (None,) * len(table.texts)
    for row, label in enumerate(labels):
        if label is not None and str(label) not in index_of:
            raise _unknown(table, row, label, f"{', '.join(index_of)} in column {head.name!r}")
    return tuple(-1 if label is None else index_of[str(label)] for label in labels)


def _class_index(table: Table, row: int, label: Label, index_of: dict[str, int]) -> int:
    if isinstance(label, str) and label in index_of:
        return index_of[label]
    if isinstance(label, int) and 0 <= label < len(index_of):
        return label
    if isinstance(label, str) and label.isdecimal() and int(label) < len(index_of):
        return int(label)
    raise _unknown(table, row, label, f"{', '.join(index_of)}, or its number")


def _unknown(table: Table, row: int, label: Label, expected: str) -> DataError:
    return DataError(
        f"{table.source}, row {table.row_numbers[row]}: unknown label {str(label)[:40]!r}; "
        f"expected one of {expected}"
    )
