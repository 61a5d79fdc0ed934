"""Which parameters learn how fast.

Source of the layer-wise decay: Howard, Ruder 2018, Universal Language Model Fine-tuning, section 3.2; for
BERT: Sun et al. 2019, How to Fine-Tune BERT for Text Classification, section 5.3.3.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

_LAYER = re.compile(r"\.layers?\.(\d+)\.")


def parameter_groups(
    model: nn.Module, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for an optimizer: weight decay for matrices only, not for biases and LayerNorm.

    Each layer below the top learns `layer_decay` times as fast as the one above it, the embeddings slowest;
    what stands on top of the encoder learns at `learning_rate`.
    """
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    layers = 1 + max((_layer(name) or 0 for name, _ in named), default=0)
    groups: dict[tuple[int, bool], list[torch.Tensor]] = {}
    for name, parameter in named:
        below = _steps_below_the_top(name, layers) if layer_decay != 1.0 else 0
        groups.setdefault((below, parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": groups[below, decays],
            "lr": learning_rate * layer_decay**below,
            "weight_decay": weight_decay if decays else 0.0,
        }
        for below, decays in sorted(groups, key=lambda key: (key[0], not key[1]))
    ]


def _steps_below_the_top(name: str, layers: int) -> int:
    layer = _layer(name)
    if layer is not None:
        return layers - layer
    return layers + 1 if "embeddings" in name else 0


def _layer(name: str) -> int | None:
    found = _LAYER.search(name)
    return None if found is None else int(found[1])
