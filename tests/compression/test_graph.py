from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.transformers.optimizer import optimize_model

from app.errors import EngineError, ParityError
from compression import graph
from compression.graph import check_fusions
from tests.compression.exported import Export, answers, fuse
from tests.compression.tiny import FAMILIES, logits, random_batch


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_everything_is_fused(family: str, uneven: bool, exported: Export) -> None:
    made = exported(family, uneven)
    counted = Counter(str(node.op_type) for node in onnx.load(made.fused).graph.node)
    assert made.operators == counted
    assert counted["Attention"] == counted["BiasGelu"] == 3
    assert counted["SkipLayerNormalization"] == 6
    assert not counted["Softmax"] + counted["Erf"]
    assert counted["LayerNormalization"] <= 1  # that of the embeddings
    assert sum(counted.values()) < len(onnx.load(made.unfused).graph.node) / 3


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_fused_graph_answers_as_the_model(family: str, uneven: bool, exported: Export) -> None:
    made = exported(family, uneven)
    for batch in (random_batch(1, 40), random_batch(5, 12, seed=1)):
        expected = logits(made.classifier.model, batch).numpy()
        assert np.allclose(answers(made.fused, batch), expected, atol=1e-4)


def head_counts(path: Path) -> list[int]:
    return [
        attribute.i
        for node in onnx.load(path).graph.node
        if node.op_type == "Attention"
        for attribute in node.attribute
        if attribute.name == "num_heads"
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_has_its_own_head_count(family: str, exported: Export) -> None:
    assert head_counts(exported(family, False).fused) == [4, 4, 4]
    assert head_counts(exported(family, True).fused) == [1, 3, 2]


def test_without_its_own_head_counts_a_pruned_graph_is_wrong(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proves that the tests above can fail, and why `_set_head_counts` is there."""
    made = exported("bert", True)
    monkeypatch.setattr(graph, "_set_head_counts", lambda *_: None)
    fuse(made.classifier, made.unfused, tmp_path / "wrong.onnx")
    assert head_counts(tmp_path / "wrong.onnx") != [1, 3, 2]
    batch = random_batch()
    try:
        found = answers(tmp_path / "wrong.onnx", batch)
    except EngineError:
        return  # refused, which is as good
    assert np.abs(found - logits(made.classifier.model, batch).numpy()).max() > 1e-2


RIGHT = Counter({"Attention": 3, "BiasGelu": 3, "SkipLayerNormalization": 6, "MatMul": 9})


@pytest.mark.parametrize("operator", ["Attention", "BiasGelu", "SkipLayerNormalization"])
@pytest.mark.parametrize("difference", [-1, 1])
def test_a_fusion_that_is_missing_is_named(operator: str, difference: int) -> None:
    check_fusions(RIGHT, layers=3)
    found = RIGHT + Counter()
    found[operator] += difference
    message = f"has {found[operator]} fused {operator} nodes, {RIGHT[operator]} expected"
    with pytest.raises(ParityError, match=message):
        check_fusions(found, layers=3)


def test_a_graph_that_is_not_recognised_is_refused(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exported("bert", False)
    monkeypatch.setattr(
        graph, "optimize_model", lambda source, _, **settings: optimize_model(source, "unet", **settings)
    )
    with pytest.raises(ParityError, match="has 0 fused Attention nodes, 3 expected"):
        fuse(made.classifier, made.unfused, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
