from __future__ import annotations

from pathlib import Path

import pytest
import torch

from app.errors import RecipeError
from compression.architecture import encoder_layers, layer_shapes
from compression.classifier import Classifier, load, save
from compression.students import evenly_spread, keep_layers
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
