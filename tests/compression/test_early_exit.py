from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from app.errors import CompressionError, UnsupportedModelError
from compression import early_exit, export
from compression.architecture import encoder_layers, family_of
from compression.batches import Batch
from compression.bottleneck import student_of
from compression.classifier import Classifier, load, save
from compression.early_exit import (
    NEVER,
    Exits,
    Rule,
    attach,
    fit_confidence,
    fit_patience,
    rule_of,
    set_confidence,
    set_rule,
    shares,
)
from compression.exit_graph import to_branches
from compression.pruning import tokens
from tests.compression.exported import answers
from tests.compression.tiny import FAMILIES, logits, random_batch, tiny_classifier, tiny_model


def with_exits(family: str = "bert", confidence: float = 0.8) -> Classifier:
    """Exits after the first and the second of three layers, with weights of their own."""
    classifier = tiny_classifier(family)
    attach(classifier.model, (1, 2))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in exits_of(classifier).parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    set_confidence(classifier.model, confidence)
    return classifier


def exits_of(classifier: Classifier) -> Exits:
    found = early_exit.exits_of(classifier.model)
    assert found is not None
    return found


def slow_answer(classifier: Classifier, input_ids: list[int], confidence: float) -> tuple[torch.Tensor, int]:
    """The obvious way, of BERT: layer by layer, and out as soon as one is sure."""
    # The same weights, without anything that watches its passes.
    model, exits = tiny_model(), exits_of(classifier)
    encoder = model.get_submodule("bert")
    hidden = encoder.get_submodule("embeddings")(input_ids=torch.tensor([input_ids]))
    for number, layer in enumerate(encoder_layers(model)):
        output = layer(hidden, torch.zeros(1, 1, 1, len(input_ids)))
        hidden = output[0] if isinstance(output, tuple) else output
        if number < 2:
            head = exits.heads[number]
            dense, out = head.get_submodule("dense"), head.get_submodule("output")
            answer: torch.Tensor = out(torch.tanh(dense(hidden[0, 0])))
            if float(answer.softmax(-1).max()) >= confidence:
                return answer, number
    answer = model.get_submodule("classifier")(encoder.get_submodule("pooler")(hidden))[0]
    return answer, 2


def alone(batch: Batch, row: int) -> Batch:
    length = int(batch.attention_mask[row].sum())
    one = slice(row, row + 1)
    return Batch(
        batch.input_ids[one, :length], batch.attention_mask[one, :length], batch.labels[one], batch.rows[one]
    )


@torch.no_grad()
def test_a_row_leaves_at_the_first_exit_that_is_confident() -> None:
    classifier, batch = with_exits(), random_batch(rows=16)
    found = logits(copy.deepcopy(classifier.model), batch)
    left = set()
    for row in range(16):
        ids = alone(batch, row).input_ids[0].tolist()
        expected, where = slow_answer(classifier, ids, 0.8)
        left.add(where)
        assert torch.allclose(found[row], expected, atol=1e-5)
    assert left == {0, 1, 2}


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_loaded_exported_and_branched_it_answers_the_same_in_any_batch(
    family: str, tmp_path: Path
) -> None:
    classifier, batch = with_exits(family), random_batch(rows=16)
    expected = logits(classifier.model, batch)
    save(classifier, tmp_path / "saved")
    loaded = load(str(tmp_path / "saved")).model
    assert torch.equal(logits(loaded, batch), expected)
    flat, branched = tmp_path / "flat.onnx", tmp_path / "branched.onnx"
    export.to_onnx(loaded, flat, opset=17)
    onnx.save(to_branches(onnx.load(flat)), branched)
    for path in (flat, branched):
        assert np.abs(answers(path, batch) - expected.numpy()).max() < 1e-4
        for row in range(16):
            found = answers(path, alone(batch, row))[0]
            assert np.abs(found - expected[row].numpy()).max() < 1e-4


def test_what_follows_an_exit_is_in_its_branch(tmp_path: Path) -> None:
    classifier = with_exits()
    export.to_onnx(classifier.model, tmp_path / "flat.onnx", opset=17)
    flat = onnx.load(tmp_path / "flat.onnx")
    weights = {tensor.name for tensor in flat.graph.initializer}
    graph, depth = to_branches(flat).graph, 0
    seen: set[str] = set()
    while True:
        own = {tensor.name for tensor in graph.initializer}
        assert not any(f"layers.{later}." in name for name in own for later in range(depth + 1, 3))
        assert not seen & own
        seen |= own
        found = [node for node in graph.node if node.op_type == "If"]
        if not found:
            break
        (node,) = found
        graph = next(attribute.g for attribute in node.attribute if attribute.name == "else_branch")
        depth += 1
    assert depth == 2
    assert seen == weights


def test_a_graph_without_exits_has_no_branches(tmp_path: Path) -> None:
    export.to_onnx(tiny_model(), tmp_path / "model.onnx", opset=17)
    with pytest.raises(CompressionError, match="no early exit"):
        to_branches(onnx.load(tmp_path / "model.onnx"))


def test_nobody_leaves_before_a_threshold_is_fitted() -> None:
    classifier, batch = tiny_classifier(), random_batch(rows=8)
    expected = logits(classifier.model, batch)
    attach(classifier.model, (2,))
    assert torch.equal(logits(classifier.model, batch), expected)


def test_in_training_the_answer_is_the_whole_models() -> None:
    classifier, batch = with_exits(confidence=0.0), random_batch(rows=4)
    classifier.model.train()
    for part in classifier.model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    output = classifier.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    assert torch.allclose(output, logits(tiny_model(), batch), atol=1e-5)


def test_exits_learn_the_last_answer() -> None:
    classifier, batch = with_exits(), random_batch(rows=4)
    exits = exits_of(classifier)
    with torch.no_grad():
        loss = early_exit.self_distillation(classifier.model, batch)
    target = exits.final.softmax(-1)
    slow = [
        sum(-float((target[row] * each[row].log_softmax(-1)).sum()) for each in exits.answers) / 2
        for row in range(4)
    ]
    assert loss.tolist() == pytest.approx(slow, rel=1e-4)


def test_the_lowest_threshold_that_keeps_the_labels() -> None:
    final = torch.tensor([[2.0, 0.0]] * 10)
    sure = torch.linspace(0.5, 5.0, 10)
    early = torch.stack([sure, torch.zeros(10)], dim=1)
    early[:2] = early[:2].flip(1)  # the two least confident are wrong
    confidences = early.softmax(-1).amax(-1)
    assert fit_confidence([early], final, 1.0) == pytest.approx(float(confidences[2]))
    assert fit_confidence([early], final, 0.9) == pytest.approx(float(confidences[1]))
    assert shares([early], Rule(float(confidences[2]) - 1e-6)) == pytest.approx([0.8])
    assert fit_confidence([early.flip(1)], final, 1.0) == NEVER
    later = torch.stack([torch.full((10,), 9.0), torch.zeros(10)], dim=1)
    assert shares([early, later], Rule(0.9)) == pytest.approx([0.6, 0.4])


def slow_patience(labels: list[int], final: int, patience: int) -> int:
    """The obvious way, one text: read the exits' labels one after the other; returns where it leaves."""
    counter = 0
    for number, label in enumerate(labels):
        if number > 0 and label == labels[number - 1]:
            counter += 1
        else:
            counter = 0
        if counter == patience:
            return number
    return final


def test_a_row_leaves_when_patience_is_over() -> None:
    generator = torch.Generator().manual_seed(0)
    answers_of = [torch.randn(64, 3, generator=generator) for _ in range(5)]
    final, left = torch.randn(64, 3, generator=generator), set()
    for patience in (1, 2, 3):
        rule = Rule(patience=patience)
        found = early_exit.first_left(answers_of, final, rule)
        where = []
        for row in range(64):
            labels = [int(each[row].argmax()) for each in answers_of]
            where.append(slow_patience(labels, 5, patience))
            expected = final[row] if where[-1] == 5 else answers_of[where[-1]][row]
            assert torch.equal(found[row], expected)
        assert shares(answers_of, rule) == pytest.approx([where.count(exit) / 64 for exit in range(5)])
        left |= set(where)
    assert left == {1, 2, 3, 4, 5}


def test_the_least_patience_that_keeps_the_labels() -> None:
    final = torch.tensor([[2.0, 0.0]] * 10)
    wrong, right = torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    first = torch.cat([wrong.repeat(3, 1), right.repeat(7, 1)])
    exits = [first, first, right.repeat(10, 1), right.repeat(10, 1)]
    assert fit_patience(exits, final, 0.7) == Rule(patience=1)
    assert fit_patience(exits, final, 1.0) == Rule(patience=2)
    never = fit_patience([first, first], final, 1.0)
    assert never == Rule()
    assert shares([first, first], never) == [0.0, 0.0]


def test_with_patience_deeper_exits_count_more() -> None:
    classifier, batch = with_exits(), random_batch(rows=4)
    exits = exits_of(classifier)
    with torch.no_grad():
        loss = early_exit.deeper_counts_more(classifier.model, batch)
    target = exits.final.softmax(-1)
    slow = [
        sum(
            -float((target[row] * each[row].log_softmax(-1)).sum()) * layer / 3
            for layer, each in zip((1, 2), exits.answers, strict=True)
        )
        for row in range(4)
    ]
    assert loss.tolist() == pytest.approx(slow, rel=1e-4)


def test_with_patience_it_is_saved_exported_and_branched(tmp_path: Path) -> None:
    classifier, batch = with_exits(), random_batch(rows=16)
    set_rule(classifier.model, Rule(patience=1))
    expected = logits(classifier.model, batch)
    answered = exits_of(classifier)
    assert 0 < shares(answered.answers, Rule(patience=1))[1] < 1
    save(classifier, tmp_path / "saved")
    loaded = load(str(tmp_path / "saved")).model
    assert rule_of(loaded) == Rule(patience=1)
    assert torch.equal(logits(loaded, batch), expected)
    flat, branched = tmp_path / "flat.onnx", tmp_path / "branched.onnx"
    export.to_onnx(loaded, flat, opset=17)
    onnx.save(to_branches(onnx.load(flat)), branched)
    for path in (flat, branched):
        assert np.abs(answers(path, batch) - expected.numpy()).max() < 1e-4
        for row in range(16):
            assert np.abs(answers(path, alone(batch, row))[0] - expected[row].numpy()).max() < 1e-4


def test_what_cannot_be_is_said() -> None:
    for layers in ((3,), (0,), (2, 1), (1, 1)):
        with pytest.raises(CompressionError, match="from 1 to 2 in a model"):
            attach(tiny_model(), layers)
    pruned = tiny_model()
    tokens.attach(pruned, (0.5, 0.5))
    for model in (pruned, student_of(tiny_classifier(), 16, 1).model):
        with pytest.raises(UnsupportedModelError, match="early exit takes"):
            attach(model, (1,))
    assert family_of(pruned.config).name == "bert"
