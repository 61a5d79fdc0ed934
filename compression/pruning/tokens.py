"""Token pruning: after each layer only the tokens that received most attention go on.

How many stay is a share of a text's own length, so an answer does not depend on who else is in its batch; the
first token, which the classifier reads, always stays. A token near the limit fades: the attention paid to it
goes to zero as its significance nears that of the first one left out. Without that, two tokens that received
nearly the same would change places by a rounding error, and the answer would jump.

Or those go on that received more than a threshold of the layer's own, however many they are;
`token_thresholds` learns it.

In PyTorch tokens are not taken out but attended to no more, which gives the same answers and can be trained;
`token_graph` takes them out.
Sources: Goyal et al. 2020, PoWER-BERT: Accelerating BERT Inference via Progressive Word-vector Elimination,
section 3.2 (significance) and 3.3 (elimination between attention and feed-forward part); Kim et al. 2022,
Learned Token Pruning for Transformers, section 3 (thresholds). The fading is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import transformers
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from app.errors import CompressionError, UnsupportedModelError
from compression.architecture import encoder_layers, family_of

SCHEDULE_KEY = "bertpress_token_schedule"
THRESHOLDS_KEY = "bertpress_token_thresholds"
# Significance is 1 on average; over this much of it a token fades.
_FADING = 0.02
# The logarithm of nothing, as far as a softmax can tell.
_NOTHING = 1e-37


def even_schedule(keep: float, layers: int) -> tuple[float, ...]:
    """Shares kept after each layer but the last, falling by the same factor from layer to layer to `keep`."""
    return tuple(keep ** ((layer + 1) / (layers - 1)) for layer in range(layers - 1))


def significance(weights: torch.Tensor, presence: torch.Tensor) -> torch.Tensor:
    """Attention each token received from those present, summed over queries and averaged over heads.

    Shapes: weights (B, A, T, T), presence (B, T); significance (B, T), 1 on average.
    Source: Goyal et al. 2020, section 3.2.
    """
    received: torch.Tensor = (presence[:, None, None, :] @ weights).mean(1)[:, 0]
    # The first token is above all others, what is not there below.
    first = torch.zeros_like(received)
    first[:, 0] = 1e4
    return torch.where(presence > 0, received, -torch.ones_like(received)) + first


def counts(share: float, lengths: torch.Tensor) -> torch.Tensor:
    """How many tokens stay of texts this long, rounded up. Shapes: (B, 1) to (B, 1)."""
    return torch.ceil(share * lengths - 1e-4).clamp_min(1.0).long()


def fading(significance: torch.Tensor, first_left_out: torch.Tensor) -> torch.Tensor:
    """How far each token is present: 0 at the first one left out and below it. Shape: (B, T)."""
    return ((significance - first_left_out) / _FADING).clamp(0.0, 1.0)


def kept(significance: torch.Tensor, share: float, lengths: torch.Tensor) -> torch.Tensor:
    """How far each token stays present. Shapes: (B, T) and lengths (B, 1) to (B, T)."""
    nothing = torch.full_like(lengths, -1e4, dtype=significance.dtype)
    ranked = torch.cat([significance.sort(descending=True).values, nothing], dim=1)
    return fading(significance, ranked.gather(1, counts(share, lengths)))


def attention_bias(presence: torch.Tensor) -> torch.Tensor:
    """What is added to attention scores. Shapes: (B, T) to (B, 1, 1, T)."""
    return presence.clamp_min(_NOTHING).log()[:, None, None, :]


def schedule_of(model: PreTrainedModel) -> tuple[float, ...]:
    """The schedule the model was given; empty if it keeps all tokens."""
    return tuple(getattr(model.config, SCHEDULE_KEY, None) or ())


def thresholds_of(model: PreTrainedModel) -> tuple[float, ...]:
    """The threshold of each layer but the last; empty if the model has none."""
    return tuple(getattr(model.config, THRESHOLDS_KEY, None) or ())


def prunes(model: PreTrainedModel) -> bool:
    """Whether the model lets tokens go, by shares or by thresholds."""
    return bool(schedule_of(model) or thresholds_of(model))


def attach(model: PreTrainedModel, schedule: Sequence[float]) -> None:
    """Let the model, from now on and wherever it is saved, keep these shares of the tokens.

    Raises:
        UnsupportedModelError: a bottleneck student, or DistilBERT in transformers 4.
        CompressionError: shares that rise, are not between 0 and 1, or are more or fewer than layers - 1; or
            the model has thresholds.
    """
    _check(model, "token shares", schedule, "thresholds", thresholds_of(model))
    if not all(0 < after <= before for before, after in zip((1.0, *schedule), schedule, strict=False)):
        raise CompressionError(
            f"a token schedule keeps shares between 0 and 1 that never rise, got {list(schedule)}"
        )
    _keep(model, SCHEDULE_KEY, schedule)


def attach_thresholds(model: PreTrainedModel, thresholds: Sequence[float]) -> None:
    """Let the model, from now on and wherever it is saved, keep the tokens above these thresholds.

    Raises:
        UnsupportedModelError: a bottleneck student, or DistilBERT in transformers 4.
        CompressionError: more or fewer than layers - 1; or the model has shares.
    """
    _check(model, "token thresholds", thresholds, "shares", schedule_of(model))
    _keep(model, THRESHOLDS_KEY, thresholds)


def _check(model: PreTrainedModel, what: str, given: Sequence[float], rule: str, other: object) -> None:
    """Whether the model can have what is given, one for each layer but the last, and has no other rule."""
    check_family(model)
    layers = len(encoder_layers(model))
    if other:
        raise CompressionError(f"the model prunes tokens by {rule} already; give a model that keeps all")
    if len(given) != layers - 1:
        raise CompressionError(
            f"{len(given)} {what}, {list(given)}, are given to a model of {layers} layers, which takes "
            f"{layers - 1}: one after each layer but the last"
        )


def _keep(model: PreTrainedModel, key: str, values: Sequence[float]) -> None:
    """Write them into the configuration, and watch the model's passes if nobody does yet."""
    watched = bool(getattr(model.config, key, None))
    setattr(model.config, key, list(values))
    if not watched:
        Pruner().hook(model)


def check_family(model: PreTrainedModel) -> None:
    """Hold a model to what can prune tokens.

    Raises:
        UnsupportedModelError: a bottleneck student, or DistilBERT in transformers 4.
    """
    if family_of(model.config).name == "mobilebert":
        raise UnsupportedModelError("a bottleneck student cannot prune tokens; keep them all")
    if not gives_weights(model):
        raise UnsupportedModelError("pruning a DistilBERT's tokens takes transformers 5; this is release 4")


def gives_weights(model: PreTrainedModel) -> bool:
    """Whether this release of transformers gives the family's attention weights and adds masks to scores."""
    return family_of(model.config).name != "distilbert" or int(transformers.__version__.split(".")[0]) >= 5


def restore(model: PreTrainedModel) -> None:
    """Attach the schedule or the thresholds that the model's configuration states, if there are any."""
    schedule, thresholds = schedule_of(model), thresholds_of(model)
    if schedule:
        setattr(model.config, SCHEDULE_KEY, None)
        attach(model, schedule)
    if thresholds:
        setattr(model.config, THRESHOLDS_KEY, None)
        attach_thresholds(model, thresholds)


class Pruner:
    """Hooks that share what is present in the pass under way."""

    def __init__(self) -> None:
        self._presence = self._lengths = torch.ones(0)
        self._shares: tuple[float, ...] = ()
        self._thresholds: tuple[float, ...] = ()
        self._layer = 0

    def hook(self, model: PreTrainedModel) -> list[RemovableHandle]:
        """Watch the model's passes and every layer's attention."""
        family = family_of(model.config)
        handles = [model.register_forward_pre_hook(self.begin, with_kwargs=True)]
        for layer in encoder_layers(model):
            attention = layer.get_submodule(family.attention)
            handles.append(attention.register_forward_pre_hook(self.mask, with_kwargs=True))
            handles.append(attention.register_forward_hook(self.drop))
        return handles

    def begin(self, model: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Everything but padding is present."""
        input_ids = named["input_ids"] if "input_ids" in named else positional[0]
        mask = named.get("attention_mask", positional[1] if len(positional) > 1 else None)
        presence = torch.ones_like(input_ids) if mask is None else mask
        self._presence = presence.float()
        self._lengths = presence.sum(1, keepdim=True)
        self._shares = schedule_of(cast(PreTrainedModel, model))
        self._thresholds = thresholds_of(cast(PreTrainedModel, model))
        self._layer = 0

    def mask(
        self, _: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Give the layer's attention our own mask in place of the padding's."""
        bias = attention_bias(self._presence).to(positional[0] if positional else named["hidden_states"])
        if len(positional) > 1:
            return (positional[0], bias, *positional[2:]), named
        return positional, {**named, "attention_mask": bias}

    def drop(self, _: nn.Module, __: object, output: Any) -> None:
        """See who received attention, and let the others be absent from the next layer on."""
        staying = self.staying(self._layer, output[1].float())
        self._layer += 1
        if staying is not None:
            self._presence = self._presence * staying

    def staying(self, layer: int, weights: torch.Tensor) -> torch.Tensor | None:
        """How far each token stays after a layer; None where all do. Shapes: (B, A, T, T) to (B, T)."""
        if layer < len(self._thresholds):
            received = significance(weights.detach(), self._presence)
            return fading(received, torch.full_like(received[:, :1], self._thresholds[layer]))
        if layer < len(self._shares) and self._shares[layer] < 1.0:
            return kept(significance(weights.detach(), self._presence), self._shares[layer], self._lengths)
        return None
