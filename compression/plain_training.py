"""Training as it is usually first written, to compare ours with.

fp32, every text padded to the longest the model reads, a fixed batch computed at once, rows in random order,
dropout as the model's configuration has it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import get_scheduler

from compression.batches import Batch, Rows
from compression.corpus import Corpus
from compression.evaluation import Judge
from compression.teacher import true_labels
from compression.training import Objective, Report, TrainingSettings


class PaddedRows(Rows):
    """Rows that are all padded to the same length, the longest the model reads."""

    def __init__(self, *corpora: Corpus) -> None:
        super().__init__(*corpora)
        self.lengths: npt.NDArray[np.int64] = np.full_like(self.lengths, corpora[0].settings.max_tokens)

    def batch(self, rows: list[int]) -> Batch:  # type: ignore[override]
        """The given rows, padded. Shapes: as `Rows.batch`, T always the same."""
        found = super().batch(rows)
        missing = int(self.lengths[0]) - found.input_ids.shape[1]
        return Batch(
            nn.functional.pad(found.input_ids, (0, missing), value=self.pad_token_id),
            nn.functional.pad(found.attention_mask, (0, missing)),
            found.labels,
            found.rows,
            found.further,
        )


def train_plainly(
    model: nn.Module,
    rows: PaddedRows,
    validation: Rows,
    settings: TrainingSettings,
    report: Report,
    judge: Judge,
    objective: Objective = true_labels,
) -> None:
    """Train in place for `epochs` with a linear schedule; of the settings only the optimiser's are read."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    torch.manual_seed(settings.seed)
    generator = np.random.default_rng(settings.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    steps = -(-len(rows) // settings.rows_per_step)
    total = int(np.ceil(steps * settings.epochs))
    schedule = get_scheduler("linear", optimizer, int(settings.warmup_fraction * total), total)
    due = {-(-steps * (index + 1) // settings.evaluations_per_epoch) for index in range(steps)}
    chosen, order = validation.take(settings.validation_rows), generator.permutation(len(rows))
    for done in range(total):
        place = done % steps
        if done and place == 0:
            order = generator.permutation(len(rows))
        model.train()
        start = place * settings.rows_per_step
        batch = rows.batch(order[start : start + settings.rows_per_step].tolist()).to(device)
        loss = objective(model, batch).mean()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        report(done + 1, total, f"loss {float(loss.detach()):.4f}")
        if place + 1 in due:
            model.eval()
            with torch.inference_mode():
                judge(model, validation, chosen)
