"""Quantization-aware training: the model computes with the numbers its build will have, and learns to.

While `fake_quantized` is open every dense part of the encoder rounds its weight per output channel and,
where the build will, its input within a range; the word table is rounded as in `embeddings`. The values stay
floats. Rounding has no gradient, so the backward pass takes it for the identity within the range. Ranges
start from a calibration, outlier columns are left out of them as in `static`, and they follow an exponential
mean of what each batch shows, padding aside. Afterwards the model is what it was, with weights that bear
rounding.

Source: Jacob et al. 2018, Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference, section 3; Bengio, Leonard, Courville 2013 (the straight-through estimator).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from compression.architecture import encoder_layers, family_of
from compression.batches import Batch
from compression.quantization.calibration import Range, without_outliers
from compression.quantization.embeddings import block_size
from compression.quantization.scheme import Quantization
from compression.quantization.weights import largest

# How much of a range stays with every batch.
_RANGE_DECAY = 0.99


@contextmanager
def fake_quantized(
    model: PreTrainedModel, settings: Quantization, calibration: Iterable[Batch]
) -> Iterator[PreTrainedModel]:
    """While open, the model computes with fake-quantized numbers; its parameters stay its own."""
    padding = _Padding()
    hook = model.register_forward_pre_hook(padding.remember, with_kwargs=True)
    swapped = _swap_in(model, settings, padding)
    try:
        _calibrate(model, settings, calibration)
        yield model
    finally:
        hook.remove()
        for parent, name, original in swapped:
            setattr(parent, name, original)


class FakeQuantizedLinear(nn.Linear):
    """A dense part whose weight and input are rounded; until it has a range it only watches its input.

    Shapes: (..., K) to (..., N). Shares its parameters with the part it stands for.
    """

    low: torch.Tensor
    high: torch.Tensor
    outliers: torch.Tensor

    def __init__(self, part: nn.Linear, bits: int, padding: _Padding, rounds_input: bool = True) -> None:
        super().__init__(part.in_features, part.out_features, bias=part.bias is not None, device="meta")
        self.weight, self.bias = part.weight, part.bias
        self.bits, self.rounds_input, self._padding = bits, rounds_input, padding
        self.seen: tuple[torch.Tensor, torch.Tensor] | None = None
        self.has_range = False
        device = part.weight.device
        self.register_buffer("low", torch.zeros((), device=device))
        self.register_buffer("high", torch.zeros((), device=device))
        self.register_buffer("outliers", torch.zeros(part.in_features, dtype=torch.bool, device=device))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        if not self.has_range:
            self._watch(values)
            return super().forward(values)
        if self.training:
            self._follow(values)
        if self.rounds_input:
            values = fake_quantize(values, self.low, self.high, self.outliers)
        return functional.linear(values, fake_quantize_weight(self.weight, self.bits), self.bias)

    def settle(self, most_outliers: int) -> Range:
        """Take the range of what was watched; from then on round."""
        assert self.seen is not None  # noqa: S101 - a calibration without rows is refused before
        low, high = (end.float().cpu().numpy() for end in self.seen)
        found = without_outliers(low, high, most_outliers)
        self.low.fill_(found.low)
        self.high.fill_(found.high)
        self.outliers[list(found.outliers)] = True
        self.has_range = True
        return found

    @torch.no_grad()
    def _watch(self, values: torch.Tensor) -> None:
        low, high = self._ends(values)
        if self.seen is not None:
            low, high = torch.minimum(low, self.seen[0]), torch.maximum(high, self.seen[1])
        self.seen = low, high

    @torch.no_grad()
    def _follow(self, values: torch.Tensor) -> None:
        low, high = (end[~self.outliers].float() for end in self._ends(values))
        self.low.lerp_(low.min().clamp(max=0), 1 - _RANGE_DECAY)
        self.high.lerp_(high.max().clamp(min=0), 1 - _RANGE_DECAY)

    def _ends(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Least and largest value of each column over real tokens. Shapes: (K,) both."""
        real = self._padding.real_tokens(values)
        return real.amin(0), real.amax(0)


class FakeQuantizedEmbedding(nn.Embedding):
    """A table whose rows are rounded as they are read. Shapes: (...) ids to (..., H)."""

    def __init__(self, table: nn.Embedding, bits: int) -> None:
        super().__init__(table.num_embeddings, table.embedding_dim, table.padding_idx, device="meta")
        self.weight, self.bits = table.weight, bits

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        rows = super().forward(ids)
        return fake_quantize_rows(rows, self.bits)


def rounded(values: torch.Tensor) -> torch.Tensor:
    """To the nearest integer; the gradient passes as if nothing had happened."""
    return values + (values.round() - values).detach()


def fake_quantize(
    values: torch.Tensor, low: torch.Tensor, high: torch.Tensor, outliers: torch.Tensor
) -> torch.Tensor:
    """Eight bits over [low, high]; what sticks out is cut off, except in outlier columns, which carry it.

    Shapes: values (..., K); low, high (); outliers (K,) of bool.
    """
    exact = values.float()
    scale = (high - low).clamp(min=1e-9) / 255
    zero = (-low / scale).round()
    clipped = exact.clamp((0 - zero) * scale, (255 - zero) * scale)
    quantized = rounded(clipped / scale) * scale
    return (quantized + (exact - clipped) * outliers).to(values.dtype)


def fake_quantize_weight(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Symmetric per output channel. Shape: (N, K), torch's own order."""
    exact = weight.float()
    scale = exact.detach().abs().amax(1, keepdim=True).clamp(min=1e-12) / largest(bits)
    return (rounded(exact / scale) * scale).to(weight.dtype)


def fake_quantize_rows(rows: torch.Tensor, bits: int) -> torch.Tensor:
    """Rows of a table as `embeddings` stores them. Shape: (..., H)."""
    exact = rows.float()
    if bits == 8:
        scale = exact.detach().abs().amax(-1, keepdim=True).clamp(min=1e-12) / largest(8)
        return (rounded(exact / scale) * scale).to(rows.dtype)
    blocks = exact.unflatten(-1, (-1, block_size(rows.shape[-1])))
    low, high = blocks.detach().amin(-1, keepdim=True), blocks.detach().amax(-1, keepdim=True)
    scale = ((high - low) / 15).clamp(min=1e-7)
    restored: torch.Tensor = rounded((blocks - low) / scale) * scale + low
    return restored.flatten(-2).to(rows.dtype)


class _Padding:
    """Which tokens of the batch under way are real; every part asks the same one."""

    def __init__(self) -> None:
        self._mask: torch.Tensor | None = None

    def remember(self, _: nn.Module, __: tuple[Any, ...], inputs: dict[str, Any]) -> None:
        """Look at what the model is called with."""
        self._mask = inputs.get("attention_mask")

    def real_tokens(self, values: torch.Tensor) -> torch.Tensor:
        """Rows of real tokens. Shapes: (B, T, K) or (B, K) to (rows, K)."""
        if self._mask is None or values.ndim < 3 or values.shape[:2] != self._mask.shape:
            return values.reshape(-1, values.shape[-1])
        return values[self._mask.bool()]


def _swap_in(
    model: PreTrainedModel, settings: Quantization, padding: _Padding
) -> list[tuple[nn.Module, str, nn.Module]]:
    """Put fake-quantized parts in the place of the model's own; returns what has to be put back."""
    bits = 7 if settings.weight_bits == 8 and settings.reduced_range else settings.weight_bits
    swapped: list[tuple[nn.Module, str, nn.Module]] = []
    for layer in encoder_layers(model):
        for parent in list(layer.modules()):
            for name, part in list(parent.named_children()):
                if type(part) is nn.Linear:
                    swapped.append((parent, name, part))
                    setattr(parent, name, FakeQuantizedLinear(part, bits, padding, settings.rounds_inputs))
    if settings.embeddings != 32:
        tables = model.get_submodule(f"{family_of(model.config).encoder}.embeddings")
        words = cast(nn.Embedding, tables.get_submodule("word_embeddings"))
        swapped.append((tables, "word_embeddings", words))
        setattr(tables, "word_embeddings", FakeQuantizedEmbedding(words, settings.embeddings))  # noqa: B010
    return swapped


@torch.no_grad()
def _calibrate(model: PreTrainedModel, settings: Quantization, batches: Iterable[Batch]) -> None:
    """Let every part see the rows, then fix its range."""
    training = model.training
    model.train(False)
    for batch in batches:
        batch = batch.to(next(model.parameters()).device)
        model(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    model.train(training)
    for part in model.modules():
        if isinstance(part, FakeQuantizedLinear):
            part.settle(settings.outliers)
