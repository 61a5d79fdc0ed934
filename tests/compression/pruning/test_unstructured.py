from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch
from torch import nn

from compression.architecture import encoder_layers
from compression.batches import Batch
from compression.classifier import load, save
from compression.evaluation import Scores
from compression.pruning import unstructured
from compression.pruning.compressed_size import compressed_bytes
from compression.pruning.unstructured import KeptSparse, cubic_sparsity, largest, magnitude_masks, prunable
from compression.teacher import true_labels
from compression.training import train
from tests.compression.tiny import (
    FAMILIES,
    logits,
    random_batch,
    rows_of,
    tiny_classifier,
    tiny_model,
    training,
    uneven_classifier,
)


def slow_largest(scores: dict[str, torch.Tensor], sparsity: float) -> set[tuple[str, int]]:
    """The obvious way: sort all of them and take the upper ones."""
    listed = sorted(
        (float(value), name, index)
        for name, part in scores.items()
        for index, value in enumerate(part.flatten())
    )
    return {(name, index) for _, name, index in listed[round(sparsity * len(listed)) :]}


def kept(masks: dict[str, torch.Tensor]) -> set[tuple[str, int]]:
    return {(name, int(i)) for name, mask in masks.items() for i in mask.flatten().nonzero().flatten()}


@pytest.fixture
def scores() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "small": torch.rand(3, 5, generator=generator),
        "large": torch.rand(8, 4, generator=generator) * 3,
    }


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.99])
def test_global_masks_keep_the_highest_of_all(scores: dict[str, torch.Tensor], sparsity: float) -> None:
    masks = largest(scores, sparsity, "global")
    assert kept(masks) == slow_largest(scores, sparsity)
    assert {name: mask.shape for name, mask in masks.items()} == {n: s.shape for n, s in scores.items()}


def test_layer_masks_keep_the_highest_of_each(scores: dict[str, torch.Tensor]) -> None:
    masks = largest(scores, 0.4, "layer")
    assert kept(masks) == slow_largest({"small": scores["small"]}, 0.4) | slow_largest(
        {"large": scores["large"]}, 0.4
    )


def test_equal_scores_do_not_all_fall() -> None:
    masks = largest({"same": torch.zeros(10)}, 0.3, "global")
    assert int(masks["same"].sum()) == 7


@pytest.mark.parametrize("family", FAMILIES)
def test_all_dense_parts_of_the_encoder_and_no_others(family: str) -> None:
    model = tiny_model(family)
    inside = [
        part for layer in encoder_layers(model) for part in layer.modules() if isinstance(part, nn.Linear)
    ]
    assert {id(part) for part in prunable(model).values()} == {id(part) for part in inside}


def test_the_smallest_weights_are_dropped() -> None:
    model = tiny_model()
    dense = {name: part.weight.detach().clone() for name, part in prunable(model).items()}
    unstructured.apply(model, magnitude_masks(model, 0.6, "global"))
    assert unstructured.sparsity(model) == pytest.approx(0.6, abs=1e-4)
    threshold = min(float(p.weight[p.weight != 0].detach().abs().min()) for p in prunable(model).values())
    for name, part in prunable(model).items():
        stays = dense[name].abs() >= threshold
        assert torch.equal(part.weight, dense[name] * stays)
    shares = unstructured.sparsities(model)
    assert len(set(shares.values())) > 1
    even = tiny_model()
    unstructured.apply(even, magnitude_masks(even, 0.6, "layer"))
    assert list(unstructured.sparsities(even).values()) == pytest.approx([0.6] * len(shares), abs=1e-3)


def test_the_cubic_schedule() -> None:
    assert [cubic_sparsity(p, 0.8) for p in (0.0, 1.0, 2.0)] == [0.0, 0.8, 0.8]
    assert cubic_sparsity(0.5, 0.8) == pytest.approx(0.8 - 0.8 / 8)
    assert cubic_sparsity(0.5, 0.8, initial=0.4) == pytest.approx(0.8 - 0.4 / 8)
    # Most goes early.
    assert cubic_sparsity(0.25, 0.8) > 0.8 / 2


def test_training_leaves_zeros_where_they_are(tmp_path: Path) -> None:
    model = tiny_model()
    masks = magnitude_masks(model, 0.5, "global")
    sparse = KeptSparse(true_labels, masks, model)
    seen: list[float] = []

    def by(judged: nn.Module, _: object, chosen: object) -> Scores:
        seen.append(unstructured.sparsity(model))
        return Scores(0.5, 1.0, 1)

    before = {name: part.weight.detach().clone() for name, part in prunable(model).items()}
    rows = rows_of(64, tmp_path)
    train(model, sparse, rows, rows, training(), tmp_path / "run", judge=sparse.judge(by))
    unstructured.apply(model, masks)
    assert unstructured.sparsity(model) == pytest.approx(0.5, abs=1e-4)
    assert seen == pytest.approx([0.5] * len(seen), abs=1e-4)
    moved = [
        not torch.equal(part.weight, before[name] * masks[name]) for name, part in prunable(model).items()
    ]
    assert all(moved)


def test_a_sparse_model_of_uneven_layers_is_saved_and_loaded(tmp_path: Path) -> None:
    classifier = uneven_classifier()
    unstructured.apply(classifier.model, magnitude_masks(classifier.model, 0.7, "layer"))
    save(classifier, tmp_path)
    loaded = load(str(tmp_path)).model
    assert unstructured.sparsities(loaded) == unstructured.sparsities(classifier.model)
    batch = random_batch()
    assert torch.equal(logits(loaded, batch), logits(classifier.model, batch))


def test_zeros_make_the_compressed_file_smaller(tmp_path: Path) -> None:
    dense, sparse = tiny_classifier(), tiny_classifier()
    unstructured.apply(sparse.model, magnitude_masks(sparse.model, 0.9, "global"))
    found = {}
    for name, classifier in (("dense", dense), ("sparse", sparse)):
        save(classifier, tmp_path / name)
        path = tmp_path / name / "model.safetensors"
        found[name] = compressed_bytes(path)
        assert found[name]["file"] == path.stat().st_size
        assert found[name]["gzip"] == len(gzip.compress(path.read_bytes(), 9, mtime=0))
    assert found["sparse"]["file"] == found["dense"]["file"]
    assert found["sparse"]["gzip"] < 0.7 * found["dense"]["gzip"]
    assert found["sparse"]["zstd"] < 0.7 * found["dense"]["zstd"]


def test_the_batch_reaches_the_objective_unchanged() -> None:
    model, batch, got = tiny_model(), random_batch(), []

    def objective(model: nn.Module, batch: Batch) -> torch.Tensor:
        got.append(batch)
        return torch.zeros(len(batch.labels))

    KeptSparse(objective, magnitude_masks(model, 0.5, "global"), model)(model, batch)
    assert got == [batch]
