from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import DataError
from loadtests import texts


def test_the_shipped_texts_differ_and_run_from_short_to_long() -> None:
    shipped = texts.load({})

    assert len(set(shipped)) == len(shipped) >= 50
    assert min(map(len, shipped)) < 20
    assert max(map(len, shipped)) > 1000
    assert all(text == text.strip() != "" for text in shipped)


def test_short_and_long_texts_are_told_apart() -> None:
    short, long = texts.short_and_long(["brief", "l" * 101])

    assert (short, long) == (["brief"], ["l" * 101])


def test_texts_of_one_kind_stand_in_for_the_other() -> None:
    assert texts.short_and_long(["brief"]) == (["brief"], ["brief"])


def test_a_data_folder_is_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    (tmp_path / "imdb").mkdir()
    parquet.write_table(pyarrow.table({"text": ["a", "b"]}), tmp_path / "imdb" / "test.parquet")

    assert texts.load({"BERTPRESS_DATA": str(tmp_path)}) == ["a", "b"]


def test_a_data_folder_without_reviews_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"imdb/test\.parquet"):
        texts.load({"BERTPRESS_DATA": str(tmp_path)})


def test_a_file_that_is_not_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "imdb").mkdir()
    (tmp_path / "imdb" / "test.parquet").write_bytes(b"text\nnot parquet\n")

    with pytest.raises(DataError, match=r"imdb/test\.parquet"):
        texts.load({"BERTPRESS_DATA": str(tmp_path)})


def test_sentences_and_reviews_are_read_from_a_data_folder(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for folder, name, text in (("imdb", "test", "review"), ("sst2", "validation", "sentence")):
        (tmp_path / folder).mkdir()
        parquet.write_table(pyarrow.table({"text": [text]}), tmp_path / folder / f"{name}.parquet")

    found = texts.sentences_and_reviews({"BERTPRESS_DATA": str(tmp_path)})

    assert found == {"short": ["sentence"], "long": ["review"]}
    (tmp_path / "sst2" / "validation.parquet").unlink()
    with pytest.raises(DataError, match=r"sst2/validation\.parquet"):
        texts.sentences_and_reviews({"BERTPRESS_DATA": str(tmp_path)})


def test_without_a_data_folder_short_and_long_texts_are_our_own() -> None:
    found = texts.sentences_and_reviews({})

    assert set(found["short"]).isdisjoint(found["long"])
    assert min(map(len, found["short"] + found["long"])) > 0
