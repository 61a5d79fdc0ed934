"""What every test of the suite may ask for; the parts themselves are made in tiny.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from compression.classifier import Classifier, save
from tests.compression.tiny import made_up_reviews, tiny_classifier


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


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """The made-up reviews as JSON lines: train, test and unsupervised."""
    return write_data(tmp_path / "reviews")


def write_data(folder: Path) -> Path:
    """480 made-up reviews to train on, 160 to test on, 160 without labels."""
    folder.mkdir()
    reviews = made_up_reviews()
    parts = {"train": reviews[:480], "test": reviews[480:640], "unsupervised": reviews[640:800]}
    for name, rows in parts.items():
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder
