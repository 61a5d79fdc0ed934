"""Masked-language modelling on the task's own texts, before any label: the backbone learns their language.

Source: Devlin et al. 2019, BERT, appendix A.1 (what is masked, and by what); Gururangan et al. 2020, Don't
Stop Pretraining, section 4 (on the task's texts). Long texts are cut into pieces, so that all of them is
read, and the language-model head, by far the largest product, is computed at masked positions alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModel, AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerBase

from app.errors import UnsupportedModelError
from compression.architecture import family_of
from compression.batches import Batch, Rows
from compression.corpus import Corpus
from compression.evaluation import Scores, batches

# Of the chosen tokens this share becomes [MASK], this one a random token; the rest stays as it is.
_MASKED, _RANDOM = 0.8, 0.1


@dataclass(frozen=True)
class _Head:
    """Where each family keeps the parts of its language-model head."""

    dense: str
    norm: str
    bias: str


_HEADS = {
    "bert": _Head(
        "cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"
    ),
    "roberta": _Head("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
    "distilbert": _Head("vocab_transform", "vocab_layer_norm", "vocab_projector.bias"),
}


class MaskedLanguageModel(nn.Module):
    """An encoder and a language-model head whose output weights are the word embeddings."""

    def __init__(self, whole: PreTrainedModel) -> None:
        super().__init__()
        family, parts = family_of(whole.config), _HEADS.get(whole.config.model_type)
        if parts is None:
            raise UnsupportedModelError(f"a {family.name} is not pretrained here, only {', '.join(_HEADS)}")
        self.encoder = cast(PreTrainedModel, whole.get_submodule(family.encoder))
        self.dense, self.norm = whole.get_submodule(parts.dense), whole.get_submodule(parts.norm)
        self.bias = nn.Parameter(whole.get_parameter(parts.bias).detach().clone())

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """Scores of every word at the chosen positions. Shapes: (B, T) each, positions bool; (M, V)."""
        states = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state[positions]
        states = self.norm(functional.gelu(self.dense(states)))
        words = cast(nn.Embedding, self.encoder.get_input_embeddings()).weight
        return functional.linear(states, words, self.bias)


@dataclass(frozen=True)
class Masking:
    """Which tokens are masked, and by what."""

    probability: float
    mask_token_id: int
    special_ids: tuple[int, ...]
    vocabulary: int

    @classmethod
    def by(cls, tokenizer: PreTrainedTokenizerBase, probability: float) -> Masking:
        """The masking of a tokenizer.

        Raises:
            UnsupportedModelError: it has no mask token.
        """
        if tokenizer.mask_token_id is None:
            raise UnsupportedModelError("the backbone's tokenizer has no mask token; it cannot be pretrained")
        special = tuple(sorted(tokenizer.all_special_ids))
        return cls(probability, int(tokenizer.mask_token_id), special, len(tokenizer))

    def apply(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids with some of them hidden, and which are to be told. Shapes: (B, T) each.

        Random numbers come from the generator, or from torch's own, whose state is part of a checkpoint.
        """
        shape, device = input_ids.shape, input_ids.device
        chance, fate = (torch.rand(shape, generator=generator).to(device) for _ in range(2))
        words = torch.randint(self.vocabulary, shape, generator=generator).to(device)
        real = attention_mask.bool() & ~torch.isin(input_ids, torch.tensor(self.special_ids, device=device))
        positions = real & (chance < self.probability)
        hidden = torch.where(positions & (fate < _MASKED), self.mask_token_id, input_ids)
        replaced = positions & (fate >= _MASKED) & (fate < _MASKED + _RANDOM)
        return torch.where(replaced, words, hidden), positions


class MaskedLanguageObjective:
    """Cross-entropy at the masked positions, averaged for each row."""

    def __init__(self, masking: Masking) -> None:
        self.masking = masking

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Loss of each row. Shape: (B,)."""
        return self._loss(model, batch, None)

    def judge(self, model: nn.Module, rows: Rows, chosen: Sequence[int]) -> Scores:
        """The mean loss on rows that are masked the same way every time."""
        device, generator = next(model.parameters()).device, torch.Generator().manual_seed(0)
        total = 0.0
        for batch in batches(rows, chosen):
            total += float(self._loss(model, batch.to(device), generator).detach().sum())
        return Scores(accuracy=None, loss=total / len(chosen), n=len(chosen))

    def _loss(self, model: nn.Module, batch: Batch, generator: torch.Generator | None) -> torch.Tensor:
        ids, positions = self.masking.apply(batch.input_ids, batch.attention_mask, generator)
        scores = model(ids, batch.attention_mask, positions)
        each = functional.cross_entropy(scores.float(), batch.input_ids[positions], reduction="none")
        rows, losses = positions.nonzero()[:, 0], each.new_zeros(len(ids))
        # A short row in which no token was chosen has no loss.
        return losses.index_add(0, rows, each) / positions.sum(-1).clamp(min=1)


def pieces(corpus: Corpus) -> Corpus:
    """The same texts whole, cut into pieces of like length that the model reads in one go.

    Every piece stands between the text's own first and last id, as a text of its own would.
    """
    room = corpus.settings.max_tokens - 2
    rows: list[np.ndarray[tuple[int], np.dtype[np.int32]]] = []
    for start, stop in zip(corpus.offsets[:-1], corpus.offsets[1:], strict=True):
        ids = np.asarray(corpus.ids[start:stop])
        count = max(1, math.ceil((len(ids) - 2) / room))
        rows += [np.concatenate([ids[:1], part, ids[-1:]]) for part in np.array_split(ids[1:-1], count)]
    lengths = [len(row) for row in rows]
    return Corpus(
        ids=np.concatenate(rows).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        labels=None,
        settings=corpus.settings,
        fingerprint=f"{corpus.fingerprint} pieces of {room}",
        further=np.empty((len(rows), 0), dtype=np.int64),
        texts=(),
        name=corpus.name,
    )


def load(source: str) -> MaskedLanguageModel:
    """A backbone with its language-model head; a head it does not have begins fresh.

    Raises:
        UnsupportedModelError: of a family without one here, or no weights.
    """
    try:
        whole = AutoModelForMaskedLM.from_pretrained(source, attn_implementation="eager", dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise UnsupportedModelError(
            f"{source} cannot be pretrained: {str(error).partition(chr(10))[0]}"
        ) from error
    family_of(whole.config)
    return MaskedLanguageModel(cast(PreTrainedModel, whole))


def save_backbone(
    model: MaskedLanguageModel, source: str, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """Write the encoder without the language-model head, as a backbone to be fine-tuned.

    What the source has beside its encoder's layers (a pooler) is kept as it was.
    """
    backbone = cast(PreTrainedModel, AutoModel.from_pretrained(source, dtype=torch.float32))
    backbone.load_state_dict(model.encoder.state_dict(), strict=False)
    backbone.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
