"""The n-gram student in PyTorch: the reference that its graph is held to.

The score of a text is the sum of the rows of all its uni-, bi- and trigrams, counted as often as they stand,
over the square root of how many tokens it has: a phrase of three words must be answered by three weights and
a review by hundreds, and weights large enough for the one would drown the other.
Rows are int8 and summed as integers; each of the three tables has one scale. So an answer depends neither on
the order of the sum nor on the batch, and the graph gives it to the last bit.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import BertConfig, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from app.artifact import Architecture
from compression.ngrams.hashing import pair_buckets, triple_buckets

# In config.json: that this is no transformer, and its shapes. The rest of the file is that of a BERT without
# layers, so that what opens Hugging Face folders opens this one.
CONFIG_KEY = "bertpress_ngrams"
TABLES = ("unigrams", "bigrams", "trigrams")


@dataclass(frozen=True)
class NgramShape:
    """Buckets of pairs and of triples, and the longest text it reads."""

    bigram_buckets: int
    trigram_buckets: int
    max_tokens: int


def is_ngrams(config: PretrainedConfig) -> bool:
    """Whether a configuration is that of an n-gram student."""
    return getattr(config, CONFIG_KEY, None) is not None


def columns_of(classes: int) -> int:
    """Two classes need one score, positive for the second; more need one each."""
    return 1 if classes == 2 else classes


def shares(max_tokens: int) -> npt.NDArray[np.float32]:
    """What one n-gram counts in a text of 0, 1, ... tokens: 1 over the root of their number.

    A table, because a runtime's own square root is right to the last bit on some CPUs only.
    Shape: (max_tokens + 1,).
    """
    return (1 / np.sqrt(np.maximum(np.arange(max_tokens + 1), 1))).astype(np.float32)


def make_config(source: PretrainedConfig, labels: tuple[str, ...], shape: NgramShape) -> BertConfig:
    """A configuration with the vocabulary of `source`."""
    config = BertConfig(
        vocab_size=source.vocab_size,
        pad_token_id=source.pad_token_id,
        num_hidden_layers=0,
        hidden_size=columns_of(len(labels)),
        num_attention_heads=1,
        intermediate_size=1,
        max_position_embeddings=shape.max_tokens,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    setattr(config, CONFIG_KEY, asdict(shape))
    return config


class NgramForSequenceClassification(PreTrainedModel):
    """Shapes: the tables (rows, K), K = 1 for two classes and C for more; scales (3,), bias (K,)."""

    config_class = BertConfig
    main_input_name = "input_ids"

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.shape = NgramShape(**cast(dict[str, Any], getattr(config, CONFIG_KEY)))
        columns = columns_of(len(config.id2label or {}))
        rows = (int(config.vocab_size), self.shape.bigram_buckets, self.shape.trigram_buckets)
        for name, count in zip(TABLES, rows, strict=True):
            self.register_buffer(name, torch.zeros(count, columns, dtype=torch.int8))
        self.scales = nn.Parameter(torch.ones(len(TABLES)), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(columns), requires_grad=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, _: nn.Module) -> None:
        """Nothing is drawn at random."""

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        """Shapes: (B, T) ids and mask, padded at the end, to (B, C) logits."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        first, second, third = input_ids[:, :-1], input_ids[:, 1:], input_ids[:, 2:]
        pairs = pair_buckets(first, second, self.shape.bigram_buckets)
        before = pair_buckets(first, second, self.shape.trigram_buckets)[:, :-1]
        triples = triple_buckets(before, third, self.shape.trigram_buckets)
        sums = [
            self._summed("unigrams", input_ids, mask),
            self._summed("bigrams", pairs, mask[:, 1:]),
            self._summed("trigrams", triples, mask[:, 2:]),
        ]
        scored = [total * scale for total, scale in zip(sums, self.scales, strict=True)]
        share = torch.from_numpy(shares(self.shape.max_tokens)).to(self.bias.device)
        of_one = share[mask.sum(1).clamp_max(self.shape.max_tokens), None]
        logits = (scored[0] + scored[1] + scored[2]) * of_one + self.bias
        if logits.shape[-1] == 1:
            logits = torch.cat([-0.5 * logits, 0.5 * logits], dim=-1)
        return SequenceClassifierOutput(logits=logits)

    def _summed(self, name: str, rows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Exact: int8 rows added up as int32. Shapes: rows and mask (B, L) to (B, K)."""
        looked_up = cast(torch.Tensor, getattr(self, name))[rows].int()
        return (looked_up * mask.int().unsqueeze(-1)).sum(1, dtype=torch.int32).float()

    def describe(self) -> Architecture:
        """Its shapes as the manifest states them."""
        tables = [cast(torch.Tensor, getattr(self, name)) for name in TABLES]
        return Architecture(
            family="ngrams",
            layers=0,
            hidden_size=self.bias.numel(),
            attention_heads=(),
            ffn_width=(),
            vocabulary=int(self.config.vocab_size),
            parameters=sum(table.numel() for table in tables) + self.bias.numel() + self.scales.numel(),
        )
