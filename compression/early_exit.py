"""Early exit: an answer that a lower layer is sure of is given there, and the layers above are left out.

Classifiers stand after chosen layers. The encoder stays as it is; they learn to answer as it does in the end.
A text leaves at the first of them that is as confident as the threshold asks, or at which so many in a row
have given the same label. Either is fitted so that a stated share of the labels stays what the whole model
gives.
Sources: Xin et al. 2020, DeeBERT: Dynamic Early Exiting, section 3 (exits on a frozen encoder); Liu et al.
2020, FastBERT, section 3.3 (self-distillation: the exits learn the model's own last answer); Zhou et al.
2020, BERT Loses Patience (PABEE), section 3 (leaving by patience).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from app.errors import CompressionError, UnsupportedModelError
from compression.architecture import encoder_layers, family_of, linear
from compression.batches import Batch
from compression.heads import heads_of
from compression.pruning.tokens import prunes

EXITS_KEY = "bertpress_exits"
# No probability is as high: nobody leaves early.
NEVER = 2.0


@dataclass(frozen=True)
class Rule:
    """When a text leaves: as soon as an exit is this confident, or after `patience` exits in a row that gave
    the label of the one before them.
    """

    confidence: float = NEVER
    patience: int | None = None

    def leaving(self, answers: Sequence[torch.Tensor]) -> list[torch.Tensor | None]:
        """For each exit which rows leave there if they are still in, (B, 1); None where nobody ever does.

        Shapes: (B, C) each.
        """
        if self.patience is None:
            return [is_confident(each, self.confidence) for each in answers]
        unchanged = unchanged_for(answers)
        return [None if at < self.patience else unchanged[at] >= self.patience for at in range(len(answers))]


class ExitHead(nn.Module):
    """What makes logits of the first position: dense, tanh, dense. Shapes: (B, H) to (B, C)."""

    def __init__(self, hidden_size: int, classes: int) -> None:
        super().__init__()
        self.dense, self.output = nn.Linear(hidden_size, hidden_size), nn.Linear(hidden_size, classes)

    def forward(self, first: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.output(torch.tanh(self.dense(first)))
        return logits


class Exits(nn.Module):
    """The exits of a model, and what the last pass gave: a part of it that is saved with it.

    `answers` are the logits of each exit and `final` those of the whole model, (B, C) each.
    """

    def __init__(self, layers: Sequence[int], hidden_size: int, classes: int) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.heads = nn.ModuleList(ExitHead(hidden_size, classes) for _ in layers)
        self.answers: list[torch.Tensor] = []
        self.final = torch.zeros(0)

    def begin(self, _: nn.Module, __: object) -> None:
        """A pass begins."""
        self.answers = []

    def answer(self, _: nn.Module, __: object, output: Any) -> None:
        """A layer with an exit has been computed."""
        hidden = output[0] if isinstance(output, tuple) else output
        self.answers.append(self.heads[len(self.answers)](hidden[:, 0]))

    def choose(self, model: nn.Module, _: object, output: Any) -> None:
        """In evaluation the answer is that of the first exit that is confident, else the model's own."""
        self.final = output.logits
        if not model.training:
            output.logits = first_left(self.answers, self.final, rule_of(cast(Any, model)))


def first_left(answers: Sequence[torch.Tensor], final: torch.Tensor, rule: Rule) -> torch.Tensor:
    """For each row the logits of the first exit at which it leaves, else the final ones.

    Shapes: (B, C) each.
    """
    chosen = final
    for logits, leaving in reversed(list(zip(answers, rule.leaving(answers), strict=True))):
        if leaving is not None:
            chosen = torch.where(leaving, logits.to(chosen), chosen)
    return chosen


def unchanged_for(answers: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """At each exit, how many in a row up to it gave the label of the one before them.

    Shapes: (B, C) each to (B, 1) each.
    Source: Zhou et al. 2020, BERT Loses Patience, section 3 (the patience counter, for classification).
    """
    labels = [each.argmax(-1, keepdim=True) for each in answers]
    counts = [torch.zeros_like(labels[0])]
    for before, now in pairwise(labels):
        counts.append(torch.where(now == before, counts[-1] + 1, torch.zeros_like(now)))
    return counts


def is_confident(logits: torch.Tensor, confidence: float) -> torch.Tensor:
    """Whether a row may leave here. Shapes: (B, C) to (B, 1)."""
    return logits.softmax(-1).amax(-1, keepdim=True) >= confidence


def attach(model: PreTrainedModel, layers: Sequence[int]) -> None:
    """Put exits after these layers, counted from 1; they start as the model's own classifier.

    Raises:
        CompressionError: a layer the model does not have, or its last one.
        UnsupportedModelError: a model of several heads, a bottleneck student, or one that prunes tokens.
    """
    family, count = family_of(model.config), len(encoder_layers(model))
    if len(heads_of(model.config)) > 1 or family.name == "mobilebert" or prunes(model):
        raise UnsupportedModelError(
            "early exit takes a model of one head, with all tokens, and no bottleneck student"
        )
    if sorted(set(layers)) != list(layers) or not all(1 <= layer < count for layer in layers):
        raise CompressionError(
            f"exits after layers {list(layers)}; they ascend from 1 to {count - 1} in a model of {count}"
        )
    setattr(model.config, EXITS_KEY, {"layers": list(layers), "confidence": NEVER})
    _build(model, layers)
    dense, output = linear(model, family.classifier_dense), linear(model, family.classifier_output)
    for head in cast(Exits, model.exits).heads:
        if dense.weight.shape == head.get_parameter("dense.weight").shape:
            head.get_submodule("dense").load_state_dict(dense.state_dict())
            head.get_submodule("output").load_state_dict(output.state_dict())


def restore(model: PreTrainedModel) -> None:
    """Put fresh exits where the model's configuration says it has some: the frame its weights go into."""
    described = getattr(model.config, EXITS_KEY, None)
    if described:
        _build(model, described["layers"])


def exits_of(model: PreTrainedModel) -> Exits | None:
    """The model's exits, if it has any."""
    return cast(Exits, model.exits) if getattr(model.config, EXITS_KEY, None) else None


def set_confidence(model: PreTrainedModel, confidence: float) -> None:
    """Let exits this confident answer."""
    set_rule(model, Rule(confidence))


def rule_of(model: PreTrainedModel) -> Rule:
    """When a text leaves."""
    described = getattr(model.config, EXITS_KEY)
    return Rule(float(described["confidence"]), described.get("patience"))


def set_rule(model: PreTrainedModel, rule: Rule) -> None:
    """Let texts leave by this rule, from now on and wherever the model is saved."""
    described = {"confidence": rule.confidence, "patience": rule.patience}
    setattr(model.config, EXITS_KEY, {**getattr(model.config, EXITS_KEY), **described})


def self_distillation(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Cross-entropy of every exit with the model's own last answer, their mean. Shape: (B,).

    Source: Liu et al. 2020, FastBERT, equation 7.
    """
    return _answered(model, batch).mean(0)


def deeper_counts_more(model: nn.Module, batch: Batch) -> torch.Tensor:
    """The same losses, each weighed by the number of its layer. Shape: (B,).

    Source: Zhou et al. 2020, BERT Loses Patience, section 3 (training: the weighted average of all losses).
    """
    losses = _answered(model, batch)
    layers = torch.tensor(cast(Exits, model.get_submodule("exits")).layers).to(losses)
    return (layers[:, None] * losses).sum(0) / layers.sum()


def _answered(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Cross-entropy of every exit with the model's own last answer. Shape: (exits, B)."""
    model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    exits = cast(Exits, model.get_submodule("exits"))
    target = exits.final.detach().float().softmax(-1)
    losses = [-(target * functional.log_softmax(each.float(), -1)).sum(-1) for each in exits.answers]
    return torch.stack(losses)


def fit_patience(answers: Sequence[torch.Tensor], final: torch.Tensor, agreement: float) -> Rule:
    """The least patience at which at least the share `agreement` of labels is the whole model's.

    Where there is none, the rule by which nobody leaves. Shapes: (N, C) each.
    """
    labels = final.argmax(-1)
    for patience in range(1, len(answers)):
        rule = Rule(patience=patience)
        if float((first_left(answers, final, rule).argmax(-1) == labels).double().mean()) >= agreement:
            return rule
    return Rule()


def fit_confidence(answers: Sequence[torch.Tensor], final: torch.Tensor, agreement: float) -> float:
    """The lowest threshold at which at least the share `agreement` of labels is the whole model's.

    `NEVER` if there is none. Shapes: (N, C) each.
    """
    labels = final.argmax(-1)
    levels = torch.cat([each.softmax(-1).amax(-1) for each in answers]).unique()
    if len(levels) > 500:
        levels = levels[torch.linspace(0, len(levels) - 1, 500).long()]
    best = NEVER
    for level in levels.flip(0).tolist():
        chosen = first_left(answers, final, Rule(level)).argmax(-1)
        if float((chosen == labels).double().mean()) < agreement:
            break
        best = level
    return best


def shares(answers: Sequence[torch.Tensor], rule: Rule) -> list[float]:
    """Which share of rows leaves at each exit."""
    here, found = torch.ones(len(answers[0]), dtype=torch.bool), []
    for leaving in rule.leaving(answers):
        here_now = torch.zeros_like(here) if leaving is None else leaving[:, 0] & here
        found.append(float(here_now.float().mean()))
        here = here & ~here_now
    return found


def _build(model: PreTrainedModel, layers: Sequence[int]) -> None:
    family = family_of(model.config)
    classes = linear(model, family.classifier_output).out_features
    exits = Exits(layers, int(model.config.hidden_size), classes)
    exits.to(next(model.parameters()))
    model.exits = exits
    model.register_forward_pre_hook(exits.begin)
    for layer in layers:
        encoder_layers(model)[layer - 1].register_forward_hook(exits.answer)
    model.register_forward_hook(exits.choose)
