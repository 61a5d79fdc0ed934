from __future__ import annotations

import csv
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.errors import DataError
from compression.tables import Table, read_hub, read_imdb_folder, read_table, table_in

ROWS = [("plain", 1), ('with "quotes", a comma\tand a tab', 0), ("über 日本 🎬", 1)]


def write_parquet(path: Path) -> None:
    pq.write_table(
        pa.table({"text": [text for text, _ in ROWS], "label": [label for _, label in ROWS]}), path
    )


def write_delimited(delimiter: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with path.open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream, delimiter=delimiter).writerows([("text", "label"), *ROWS])

    return write


def write_json_lines(path: Path) -> None:
    lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS]
    path.write_text("\n\n".join(lines), encoding="utf-8")


WRITERS = {
    ".parquet": write_parquet,
    ".csv": write_delimited(","),
    ".tsv": write_delimited("\t"),
    ".jsonl": write_json_lines,
}


@pytest.mark.parametrize("suffix", WRITERS)
def test_every_format_gives_the_same_rows(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"reviews{suffix}"
    WRITERS[suffix](path)
    table = read_table(path, "text", "label")
    assert table.texts == tuple(text for text, _ in ROWS)
    assert [str(label) for label in table.labels or ()] == [str(label) for _, label in ROWS]
    assert read_table(path, "text", None).labels is None


def test_blank_lines_count_as_rows(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_text('\n{"text": "a", "label": 0}\n\n\n{"text": "b", "label": 1}\n', encoding="utf-8")
    assert read_table(path, "text", "label").row_numbers == (2, 5)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_further_columns(suffix: str, tmp_path: Path) -> None:
    """A cell may be empty, and a column may be missing altogether: such rows have no label for that head."""
    path = tmp_path / f"reviews{suffix}"
    if suffix == ".csv":
        path.write_text("text,label,rating\na,0,2\nb,1,\nc,1,10\n", encoding="utf-8")
    else:
        rows = [{"text": "a", "label": 0, "rating": "2"}, {"text": "b", "label": 1}]
        rows += [{"text": "c", "label": 1, "rating": "10"}]
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    table = read_table(path, "text", "label", ("rating", "mood"))
    assert table.further == {"rating": ("2", None, "10"), "mood": (None, None, None)}
    assert read_table(path, "text", "label").further == {}


def test_a_suffix_in_capitals(tmp_path: Path) -> None:
    write_json_lines(tmp_path / "reviews.JSONL")
    assert len(read_table(tmp_path / "reviews.JSONL", "text", "label").texts) == 3


def test_other_columns_by_name(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("id,review,stars\n7,fine,good\n8,poor,bad\n", encoding="utf-8")
    assert read_table(path, "review", "stars") == Table(str(path), ("fine", "poor"), ("good", "bad"), (2, 3))


# file name, its bytes, what the message must say beside the file's name
BROKEN: list[tuple[str, bytes, list[str]]] = [
    ("a.csv", b"review,label\nfine,1\n", ["row 2", "no column 'text'", "found: review, label"]),
    ("a.csv", b"text,stars\nfine,1\n", ["row 2", "no column 'label'", "found: text, stars"]),
    ("a.csv", b"", ["is empty", "'text'", "'label'"]),
    ("a.csv", b"text,label\n", ["has no rows", "'text'"]),
    ("a.csv", b"text,label\nfine,1\nb\xffd,0\n", ["row 3", "not valid UTF-8"]),
    ("a.csv", b"text,label\nfine,1\npoor\n", ["row 3", "'label' holds None", "expected a label"]),
    ("a.csv", b"text,label\nfine,\n", ["row 2", "'label' holds ''", "expected a label"]),
    ("a.csv", b'text,label\n"fine"er,1\n', ["line 2", "expected quoted ','-separated text"]),
    ("a.tsv", b"text\tlabel\nfine\t1\nb\xffd\t0\n", ["row 3", "not valid UTF-8"]),
    ("a.txt", b"fine", ["unknown format '.txt'", "expected .parquet, .csv, .tsv, .jsonl"]),
    ("a", b"fine", ["unknown format ''"]),
    ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": \n', ["row 2", "not a JSON object"]),
    ("a.jsonl", b'{"text": "a", "label": 1}\n\n[1]\n', ["row 3", "expected a JSON object, found list"]),
    ("a.jsonl", b'{"text": "a", "label": 1}\n{"text": "\xff"}', ["row 2", "byte 10 is not UTF-8"]),
    ("a.jsonl", b'{"text": "\\ud800", "label": 1}', ["row 1", "not valid UTF-8"]),
    ("a.jsonl", b'{"text": 5, "label": 1}', ["row 1", "'text' holds 5", "expected a text"]),
    ("a.jsonl", b'{"text": null, "label": 1}', ["row 1", "'text' holds None", "expected a text"]),
    ("a.jsonl", b'{"text": "a", "label": true}', ["row 1", "'label' holds True", "expected a label"]),
    ("a.jsonl", b'{"text": "a", "label": 0.5}', ["row 1", "'label' holds 0.5", "expected a label"]),
    ("a.jsonl", b'{"label": 1}', ["row 1", "no column 'text'", "found: label"]),
    ("a.parquet", b"no parquet at all", ["not a readable Parquet file"]),
]


@pytest.mark.parametrize(("name", "body", "said"), BROKEN)
def test_what_is_wrong_is_said_in_one_line(name: str, body: bytes, said: list[str], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(body)
    with pytest.raises(DataError) as raised:
        read_table(path, "text", "label")
    message = str(raised.value)
    assert "\n" not in message
    for part in [str(path), *said]:
        assert part in message


def test_a_parquet_file_of_broken_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = pa.Array.from_buffers(pa.string(), 1, pa.array([b"b\xffd"], pa.binary()).buffers())
    pq.write_table(pa.table({"text": texts, "label": [1]}), path)
    with pytest.raises(DataError, match=r"a\.parquet is not a readable Parquet file of UTF-8 text"):
        read_table(path, "text", "label")


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_what_is_not_a_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist or is not a file"):
        read_table(tmp_path / name, "text", "label")


def test_a_huge_cell(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"text,label\n{'long ' * 100_000},1\n", encoding="utf-8")
    assert len(read_table(path, "text", "label").texts[0]) == 500_000


def test_a_quoted_value_is_cut_in_messages(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": ["secret" * 100], "label": 1}), encoding="utf-8")
    with pytest.raises(DataError) as raised:
        read_table(path, "text", "label")
    assert len(str(raised.value)) < len(str(path)) + 120


def test_table_in_prefers_no_format_that_is_not_there(tmp_path: Path) -> None:
    assert table_in(tmp_path, "train") is None
    write_json_lines(tmp_path / "train.jsonl")
    assert table_in(tmp_path, "train") == tmp_path / "train.jsonl"
    write_parquet(tmp_path / "train.parquet")
    assert table_in(tmp_path, "train") == tmp_path / "train.parquet"


def imdb_folder(root: Path) -> Path:
    files = {
        "train/neg/0_1.txt": "dull",
        "train/neg/1_2.txt": "awful",
        "train/pos/0_9.txt": "grand",
        "train/unsup/0_0.txt": "who knows",
        "test/neg/0_3.txt": "poor",
        "test/pos/0_8.txt": "fine",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


def test_the_published_imdb_folder(tmp_path: Path) -> None:
    tables = read_imdb_folder(imdb_folder(tmp_path))
    assert (tables["train"].texts, tables["train"].labels) == (("dull", "awful", "grand"), (0, 0, 1))
    assert tables["train"].further == {}
    rated = read_imdb_folder(tmp_path, ("rating",))
    assert rated["train"].further == {"rating": (1, 2, 9)}
    assert (tables["test"].texts, tables["test"].labels) == (("poor", "fine"), (0, 1))
    assert (tables["unlabelled"].texts, tables["unlabelled"].labels) == (("who knows",), None)


def test_an_imdb_review_of_broken_utf8_is_named(tmp_path: Path) -> None:
    broken = imdb_folder(tmp_path) / "test" / "pos" / "1_7.txt"
    broken.write_bytes(b"fin\xff")
    with pytest.raises(DataError, match=r"1_7\.txt: byte 3 is not UTF-8; expected UTF-8 text"):
        read_imdb_folder(tmp_path)


def test_an_imdb_folder_without_reviews(tmp_path: Path) -> None:
    (tmp_path / "train" / "pos").mkdir(parents=True)
    with pytest.raises(DataError, match=r"train holds no reviews; expected neg/\*\.txt and pos/\*\.txt"):
        read_imdb_folder(tmp_path)


def hub(monkeypatch: pytest.MonkeyPatch, load: Callable[[str], Any]) -> None:
    """Stand in for the `datasets` library."""
    library = types.ModuleType("datasets")
    library.load_dataset = load  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", library)


def test_a_data_set_on_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str) -> dict[str, list[dict[str, Any]]]:
        asked.append(name)
        return {
            "train": [{"text": "a", "label": 0}, {"text": "b", "label": 1}],
            "unsupervised": [{"text": "c", "label": -1}],
        }

    hub(monkeypatch, load)
    assert read_hub("stanfordnlp/imdb", "text", "label") == {
        "train": Table("stanfordnlp/imdb[train]", ("a", "b"), (0, 1), (1, 2)),
        "unlabelled": Table("stanfordnlp/imdb[unsupervised]", ("c",), None, (1,)),
    }
    assert asked == ["stanfordnlp/imdb"]


def test_the_real_library_reads_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    write_json_lines(tmp_path / "train.jsonl")
    real = datasets.load_dataset
    files, cache = {"train": str(tmp_path / "train.jsonl")}, str(tmp_path / "cache")
    monkeypatch.setattr(datasets, "load_dataset", lambda _: real("json", data_files=files, cache_dir=cache))
    tables = read_hub("made/up", "text", "label")
    assert tables["train"].texts == tuple(text for text, _ in ROWS)
    assert tables["train"].labels == tuple(label for _, label in ROWS)


def test_a_name_the_hub_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        raise FileNotFoundError(f"Dataset '{name}' doesn't exist on the Hub\nor cannot be accessed")

    hub(monkeypatch, load)
    with pytest.raises(DataError) as raised:
        read_hub("made/up", "text", "label")
    assert "made/up is neither a path nor a data set on the hub" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_hub_data_set_without_the_column(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, lambda _: {"train": [{"sentence": "a", "label": 0}]})
    with pytest.raises(DataError, match=r"made/up\[train\], row 1: no column 'text'; found: sentence, label"):
        read_hub("made/up", "text", "label")


def test_a_hub_row_that_is_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, lambda _: {"train": [{"text": "a", "label": 0}, {"text": None, "label": 1}]})
    with pytest.raises(DataError, match=r"made/up\[train\], row 2: column 'text' holds None"):
        read_hub("made/up", "text", "label")


def test_the_hub_without_its_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="`datasets` is not installed"):
        read_hub("made/up", "text", "label")
