"""What a training run keeps on disk: whose folder it is, checkpoints, the best weights so far, a heartbeat.

Everything is written under a partial name and renamed, so what was cut short cannot be seen. The checkpoint
before the last is kept as well: where the newest cannot be read (a disk that lost bytes), the run goes on
from that one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from app.errors import TrainingError
from compression.memory import Heartbeat, died_of_memory

_KEPT_CHECKPOINTS = 2
BEST_FILE = "best.safetensors"


class RunFolder:
    """The folder of one training run."""

    def __init__(self, folder: Path, accelerator: Accelerator) -> None:
        self._folder, self._accelerator = folder, accelerator
        self.path = folder
        self._best, self._heartbeat = folder / BEST_FILE, folder / "running.json"

    def claim(self, identity: Mapping[str, Any]) -> None:
        """A folder belongs to one run: the same settings on the same rows.

        Raises:
            TrainingError: it is another's.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / "run.json"
        if not path.is_file():
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(identity), encoding="utf-8")
            partial.replace(path)
        elif json.loads(path.read_text(encoding="utf-8")) != identity:
            raise TrainingError(
                f"{self._folder} holds another training run; remove it or give another folder"
            )

    def save_checkpoint(self, epoch: int, step: int) -> None:
        """Write one; all but the newest two go."""
        target = self._folder / f"checkpoint-{epoch:04d}-{step:08d}"
        partial = self._folder / "checkpoint.partial"
        shutil.rmtree(partial, ignore_errors=True)
        self._accelerator.save_state(str(partial))
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        for older in self._checkpoints()[:-_KEPT_CHECKPOINTS]:
            shutil.rmtree(older)

    def restore(self) -> bool:
        """Load the newest checkpoint that can be read; False if there is none at all.

        Raises:
            TrainingError: there are some, and none can be read.
        """
        found = self._checkpoints()
        broken: TrainingError | None = None
        for checkpoint in reversed(found):
            try:
                self._accelerator.load_state(str(checkpoint))
            except Exception as error:  # torch, safetensors and pickle each raise their own
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                broken = TrainingError(f"{checkpoint} cannot be read ({reason}); remove it to go on without")
                continue
            # Removed, or it would be the newest again after the next kill.
            for unreadable in found[found.index(checkpoint) + 1 :]:
                shutil.rmtree(unreadable)
            return True
        if broken is not None:
            raise broken
        return False

    def keep_best(self, weights: Mapping[str, torch.Tensor]) -> None:
        """Remember these weights as the best so far."""
        partial = self._folder / "best.partial"
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, partial)
        partial.replace(self._best)

    def best(self) -> dict[str, torch.Tensor] | None:
        """The best weights, if any were kept."""
        return load_file(self._best, device=str(self._accelerator.device)) if self._best.is_file() else None

    def beat(self, micro_batch_tokens: int) -> None:
        """Leave word that the run is alive."""
        Heartbeat.now(micro_batch_tokens, 0).write(self._heartbeat)

    def finish(self, outcome: Mapping[str, Any]) -> None:
        """The run ended by itself; how it went is kept for people to read."""
        path = self._folder / "history.json"
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(outcome, indent=2), encoding="utf-8")
        partial.replace(path)
        self._heartbeat.unlink(missing_ok=True)

    def died_of_memory(self) -> Heartbeat | None:
        """The last heartbeat of a run that was killed for its memory, else None."""
        return died_of_memory(self._heartbeat)

    def _checkpoints(self) -> list[Path]:
        return sorted(self._folder.glob("checkpoint-*"), key=lambda path: path.name)
