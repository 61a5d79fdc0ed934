from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from app.errors import RecipeError
from compression.architecture import encoder_layers, family_of, layer_shapes, linear
from compression.classifier import Classifier, load, save
from compression.students import chosen_layers, evenly_spread, keep_layers, narrow
from tests.compression.tiny import FAMILIES, logits, random_batch, tiny_classifier, uneven_classifier


@pytest.mark.parametrize(
    ("count", "available", "layers"),
    [
        (1, 6, (5,)),
        (2, 6, (0, 5)),
        (3, 6, (0, 2, 5)),
        (3, 12, (0, 5, 11)),
        (6, 12, (0, 2, 4, 6, 8, 11)),
        (4, 4, (0, 1, 2, 3)),
        (1, 1, (0,)),
    ],
)
def test_layers_are_evenly_spread(count: int, available: int, layers: tuple[int, ...]) -> None:
    assert evenly_spread(count, available) == layers


def test_any_count_ascends_from_first_to_last() -> None:
    for available in range(1, 25):
        for count in range(1, available + 1):
            layers = evenly_spread(count, available)
            assert len(set(layers)) == count
            assert list(layers) == sorted(layers)
            assert layers[-1] == available - 1
            assert count == 1 or layers[0] == 0


@torch.no_grad()
def slow_logits(teacher: Classifier, layers: tuple[int, ...]) -> torch.Tensor:
    """The obvious way: let the layers that are not kept pass their input on."""
    batch = random_batch()
    hooks = [
        layer.register_forward_hook(lambda _, inputs, output: pass_on(inputs[0], output))
        for index, layer in enumerate(encoder_layers(teacher.model))
        if index not in layers
    ]
    answer = logits(teacher.model, batch)
    for hook in hooks:
        hook.remove()
    return answer


def pass_on(states: torch.Tensor, output: object) -> object:
    return (states, *output[1:]) if isinstance(output, tuple) else states


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layers", [(0, 2, 3), (1,), (0, 1, 2, 3)])
def test_a_student_is_its_teacher_without_some_layers(
    family: str, layers: tuple[int, ...], tmp_path: Path
) -> None:
    teacher = tiny_classifier(family, layers=4)
    student = keep_layers(teacher, layers)
    assert len(encoder_layers(student.model)) == len(layers)
    assert torch.allclose(logits(student.model, random_batch()), slow_logits(teacher, layers), atol=1e-6)
    assert len(encoder_layers(teacher.model)) == 4
    save(student, tmp_path)
    loaded = load(str(tmp_path)).model
    assert torch.equal(logits(loaded, random_batch()), logits(student.model, random_batch()))


def test_a_student_of_uneven_shapes_keeps_them() -> None:
    student = keep_layers(uneven_classifier(), (0, 2))
    assert [(shape.heads, shape.ffn_width) for shape in layer_shapes(student.model)] == [(1, 32), (2, 64)]


def test_so_many_layers_means_evenly_spread() -> None:
    teacher = tiny_classifier(layers=4)
    student = keep_layers(teacher, 2)
    chosen = keep_layers(teacher, evenly_spread(2, 4))
    assert torch.equal(logits(student.model, random_batch()), logits(chosen.model, random_batch()))


def test_the_teachers_weights_are_not_shared(tiny: Classifier) -> None:
    before = logits(tiny.model, random_batch())
    student = keep_layers(tiny, (0,))
    with torch.no_grad():
        for parameter in student.model.parameters():
            parameter.zero_()
    assert torch.equal(logits(tiny.model, random_batch()), before)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (4, "4 layers asked for; the model has 3"),
        ((0, 3), r"layers \[0, 3\] asked for; the model has 3, 0 to 2"),
        ((-1, 0), r"layers \[-1, 0\] asked for"),
        ((1, 1), r"must ascend without repeating, got \[1, 1\]"),
        ((2, 0), r"must ascend without repeating, got \[2, 0\]"),
    ],
)
def test_layers_that_are_not_there(layers: int | tuple[int, ...], message: str, tiny: Classifier) -> None:
    with pytest.raises(RecipeError, match=message):
        keep_layers(tiny, layers)


@pytest.mark.parametrize(
    ("layers", "available", "chosen"),
    [
        ("alternate", 12, (0, 2, 4, 6, 8, 10)),
        ("alternate", 5, (0, 2, 4)),
        (0.5, 6, (0, 2, 5)),
        (0.34, 12, (0, 3, 7, 11)),
        (0.01, 3, (2,)),
        (2, 3, (0, 2)),
        ((1, 2), 3, (1, 2)),
    ],
)
def test_which_layers_are_meant(layers: Any, available: int, chosen: tuple[int, ...]) -> None:
    assert chosen_layers(layers, available) == chosen


@pytest.mark.parametrize("family", FAMILIES)
def test_a_narrower_student_has_evenly_spaced_weights(family: str) -> None:
    teacher = tiny_classifier(family)
    student = narrow(teacher, 16, 0.25)
    assert student.labels == teacher.labels
    assert student.model.config.hidden_size == 16
    assert [(shape.heads, shape.ffn_width) for shape in layer_shapes(student.model)] == [(4, 32)] * 3
    names = family_of(student.model.config)
    ours, theirs = encoder_layers(student.model)[1], encoder_layers(teacher.model)[1]
    # Of each head of eight every second element; of the states too; of 128 neurons every fourth.
    query = linear(theirs, names.query).weight
    assert torch.equal(linear(ours, names.query).weight, query[::2, ::2])
    assert torch.equal(
        linear(ours, names.attention_output).bias, linear(theirs, names.attention_output).bias[::2]
    )
    assert torch.equal(linear(ours, names.ffn_input).weight, linear(theirs, names.ffn_input).weight[::4, ::2])
    assert torch.equal(
        linear(ours, names.ffn_output).weight, linear(theirs, names.ffn_output).weight[::2, ::4]
    )
    word = "embeddings.word_embeddings.weight"
    (table,) = [value for name, value in student.model.named_parameters() if name.endswith(word)]
    (whole,) = [value for name, value in teacher.model.named_parameters() if name.endswith(word)]
    assert torch.equal(table, whole[:, ::2])


def test_as_wide_as_it_was_it_answers_the_same() -> None:
    teacher = tiny_classifier()
    student = narrow(teacher, 32, 128)
    assert torch.equal(logits(student.model, random_batch()), logits(teacher.model, random_batch()))


def test_a_narrow_student_is_saved_and_loaded(tmp_path: Path) -> None:
    student = narrow(tiny_classifier("distilbert"), 0.5, 0.5)
    save(student, tmp_path)
    loaded = load(str(tmp_path))
    assert torch.equal(logits(loaded.model, random_batch()), logits(student.model, random_batch()))


def test_the_width_is_a_multiple_of_the_heads() -> None:
    assert narrow(tiny_classifier(), 0.6, 128).model.config.hidden_size == 16


@pytest.mark.parametrize(
    ("hidden", "ffn", "said"),
    [
        (64, 128, "hidden_size 64 asked for; the model has 32"),
        (32, 256, "ffn 256 asked for; the model has 128"),
        (3, 128, "hidden_size 3 is too narrow for 4 heads"),
    ],
)
def test_widths_that_cannot_be(hidden: int, ffn: int, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        narrow(tiny_classifier(), hidden, ffn)


def test_a_pruned_model_is_not_cut_again() -> None:
    with pytest.raises(RecipeError, match="whose layers are even and not pruned"):
        narrow(uneven_classifier(), 16, 32)
