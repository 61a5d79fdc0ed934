"""What every test of the suite may ask for; the parts themselves are made in tiny.py."""

from __future__ import annotations

import gc
from functools import cache
from pathlib import Path

import pytest
import torch

from compression.classifier import Classifier, save
from tests.compression.exported import Export, export
from tests.compression.finished import Finished, finish
from tests.compression.tiny import tiny_classifier, write_data


@pytest.fixture(autouse=True, scope="session")
def nothing_old_to_collect() -> None:
    """Every training ends with a garbage collection, which would look through all of torch each time."""
    gc.freeze()


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """One thread: tiny matrices gain nothing from more, and sums keep their order."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks the hub for anything."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture
def tiny() -> Classifier:
    """A tiny random BERT classifier."""
    return tiny_classifier()


@pytest.fixture
def teacher_folder(tiny: Classifier, tmp_path: Path) -> Path:
    """The tiny classifier as a user would have saved it."""
    folder = tmp_path / "teacher"
    save(tiny, folder)
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """`exported(family, uneven)`: made once, so nobody may change its files."""
    return cache(lambda family, uneven: export(family, uneven, tmp_path_factory.mktemp(family)))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A whole run of the pipeline, made once; `moved` gives a copy that may be changed."""
    torch.set_num_threads(1)
    return finish(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """The made-up reviews as JSON lines: train, test and unsupervised."""
    return write_data(tmp_path / "reviews")
