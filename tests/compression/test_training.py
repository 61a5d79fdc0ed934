from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from app.errors import TrainingError
from compression import memory, run_folder
from compression import training as trainer
from compression.batches import Batch, Rows
from compression.evaluation import Scores
from compression.memory import Heartbeat
from compression.teacher import true_labels
from compression.training import Objective, Progress, Report, TrainingSettings, silent, train
from tests.compression.tiny import logits, random_batch, rows_of, tiny_model, training

ROOT = Path(__file__).parents[2]
# Four steps of sixteen rows in two epochs, an evaluation after each step, a checkpoint after each step.
SHORT = training(
    epochs=2, evaluations_per_epoch=2, checkpoint_seconds=0, dropout=0.3, learning_rate=5e-3, patience=9
)


class Killed(BaseException):
    """Nothing in the product catches this, as nothing catches SIGKILL."""


Weights = dict[str, torch.Tensor]


def run(
    rows: Rows,
    validation: Rows,
    settings: TrainingSettings,
    folder: Path,
    objective: Objective = true_labels,
    report: Report = silent,
) -> tuple[Weights, Progress]:
    """Train a fresh tiny model; gives its weights and how it went."""
    model = tiny_model(layers=1)
    progress = train(model, objective, rows, validation, settings, folder, report)
    return {name: value.clone() for name, value in model.state_dict().items()}, progress


def same(ours: Weights, theirs: Weights) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def close(ours: Weights, theirs: Weights) -> bool:
    """Whether two models answer alike. Their weights need not be: the bias of the attention's keys changes
    nothing, its gradient is rounding noise, and Adam makes steps of that."""
    answers = []
    for weights in (ours, theirs):
        model = tiny_model(layers=1)
        model.load_state_dict(weights)
        answers.append(logits(model, random_batch(rows=32)))
    return torch.allclose(answers[0], answers[1], atol=1e-3)


@pytest.fixture
def short(tmp_path: Path) -> tuple[Rows, Rows]:
    """32 rows to train on and 16 to validate on."""
    return rows_of(32, tmp_path / "data"), rows_of(16, tmp_path / "data", start=32)


def test_it_learns(tmp_path: Path) -> None:
    rows, validation = rows_of(480, tmp_path), rows_of(160, tmp_path, start=480)
    told: list[tuple[int, int, str]] = []
    model = tiny_model()
    progress = train(
        model,
        true_labels,
        rows,
        validation,
        training(epochs=3),
        tmp_path / "run",
        lambda done, total, note: told.append((done, total, note)),
    )
    accuracies = [entry["validation_accuracy"] for entry in progress.history]
    losses = [entry["validation_loss"] for entry in progress.history]
    assert accuracies[-1] > 0.95 > accuracies[0] or accuracies[0] > 0.95
    assert losses[-1] < losses[0] < 1.0
    assert [entry["epoch"] for entry in progress.history] == [1.0, 2.0, 3.0]
    assert not model.training
    every = rows.batch(range(480))
    assert (logits(model, every).argmax(-1) == every.labels).float().mean() > 0.95
    assert [done for done, _, _ in told if done][-1] == 90
    assert {total for _, total, _ in told} == {90}
    assert told[-1][2].startswith("loss ")
    assert "validation 0.9" in told[-1][2] or "validation 1.0" in told[-1][2]


def test_the_mean_of_several_validations_counts(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    train_rows, first = short
    second = rows_of(48, tmp_path / "data", start=48)
    settings = training(validation_rows=12)
    _, progress = run(train_rows, Rows(*first.corpora, *second.corpora), settings, tmp_path / "run")
    model = tiny_model(layers=1)
    train(model, true_labels, train_rows, first, settings, tmp_path / "again")

    def right(rows: Rows) -> float:
        batch = rows.batch(rows.take(12))
        return float((logits(model, batch).argmax(-1) == batch.labels).float().mean())

    (entry,) = progress.history
    assert entry["validation_accuracy"] == pytest.approx((right(first) + right(second)) / 2)


def test_the_size_of_a_micro_batch_changes_nothing(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    plain = training(epochs=2)
    whole, _ = run(*short, plain, tmp_path / "whole")
    for tokens in (1, 40, 100):
        settings = training(epochs=2, micro_batch_tokens=tokens)
        pieces, _ = run(*short, settings, tmp_path / str(tokens))
        assert close(pieces, whole)


def test_a_step_is_the_gradient_of_the_mean_loss(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    settings = training(rows_per_step=32, warmup_fraction=0.0, schedule="constant", micro_batch_tokens=50)
    ours, _ = run(*short, settings, tmp_path / "run")
    model = tiny_model(layers=1)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": 0.01},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
    true_labels(model, short[0].batch(range(32))).mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    theirs = model.state_dict()
    # Adam's first step is the sign of the gradient: where it is almost zero, the sign is noise.
    moved = torch.cat([(ours[name] - theirs[name]).abs().flatten() for name in theirs])
    assert float((moved < 1e-5).float().mean()) > 0.99


def test_gradients_are_clipped(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    # Far below Adam's epsilon a gradient moves nothing.
    tiny_steps, _ = run(*short, training(max_gradient_norm=1e-14, weight_decay=0.0), tmp_path / "run")
    before = tiny_model(layers=1).state_dict()
    assert all(torch.allclose(tiny_steps[name], before[name], atol=1e-6) for name in before)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_can_be_repeated_to_the_bit(precision: str, short: tuple[Rows, Rows], tmp_path: Path) -> None:
    settings = training(precision=precision, dropout=0.2)
    first, _ = run(*short, settings, tmp_path / "first")
    second, _ = run(*short, settings, tmp_path / "second")
    assert same(first, second)
    other, _ = run(*short, settings.model_copy(update={"seed": 1}), tmp_path / "other")
    assert not same(first, other)


def test_a_bf16_run_leaves_an_fp32_model(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    model = tiny_model()
    train(model, true_labels, *short, training(precision="bf16"), tmp_path / "run")
    batch = short[0].batch([0, 1])
    assert logits(model, batch).dtype == torch.float32
    copy = tiny_model()
    copy.load_state_dict(model.state_dict())
    assert torch.equal(logits(model, batch), logits(copy, batch))


def killing_objective(at_call: int) -> Objective:
    calls = 0

    def objective(model: nn.Module, batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == at_call:
            raise Killed
        return true_labels(model, batch)

    return objective


# Two trials of the memory probe come before the four steps.
@pytest.mark.parametrize("at_call", range(1, 7))
def test_killed_while_computing_it_goes_on_to_the_same_weights(
    at_call: int, short: tuple[Rows, Rows], tmp_path: Path
) -> None:
    whole, expected = run(*short, SHORT, tmp_path / "whole")
    with pytest.raises(Killed):
        run(*short, SHORT, tmp_path / "run", killing_objective(at_call))
    resumed, progress = run(*short, SHORT, tmp_path / "run")
    assert same(resumed, whole)
    assert progress.history == expected.history


@contextmanager
def killed_at(operation: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Let nothing be written any more from the n-th change to the disk on; a file may be half there.

    What was done until then is listed.
    """
    done: list[str] = []

    def watched(name: str, change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **kwargs: Any) -> Any:
            done.append(name)
            if len(done) == operation:
                _half(name, args)
                raise Killed
            if len(done) > operation:
                raise Killed
            return change(*args, **kwargs)

        return changed

    with monkeypatch.context() as patched:
        for owner, names in {
            Path: ("rename", "replace", "write_text", "unlink"),
            shutil: ("rmtree",),
            Accelerator: ("save_state",),
            run_folder: ("save_file",),
        }.items():
            for name in names:
                patched.setattr(owner, name, watched(name, getattr(owner, name)))
        yield done


def _half(name: str, args: tuple[Any, ...]) -> None:
    if name == "write_text":
        with args[0].open("w") as stream:
            stream.write(args[1][: len(args[1]) // 2])
    if name == "save_state":
        folder = Path(args[1])
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"half")
    if name == "save_file":
        Path(args[1]).write_bytes(b"half")
    if name == "rmtree" and Path(args[0]).is_dir():
        next(path for path in Path(args[0]).rglob("*") if path.is_file()).open("w").close()


def test_killed_at_any_change_to_the_disk_it_goes_on_to_the_same_weights(
    short: tuple[Rows, Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SHORT.model_copy(update={"epochs": 1})
    with killed_at(10**6, monkeypatch) as operations:
        whole, expected = run(*short, settings, tmp_path / "whole")
    assert {"save_state", "save_file", "rmtree", "rename", "replace", "write_text"} <= set(operations)
    for operation in range(1, len(operations) + 1):
        folder = tmp_path / f"run-{operation}"
        with pytest.raises(Killed), killed_at(operation, monkeypatch):
            run(*short, settings, folder)
        resumed, progress = run(*short, settings, folder)
        assert same(resumed, whole), f"operation {operation}, {operations[operation - 1]}"
        assert progress.history == expected.history


CHILD = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from tests.compression.test_training import SHORT, run
from tests.compression.tiny import rows_of
folder = Path(sys.argv[1])
rows, validation = rows_of(32, folder / "data"), rows_of(16, folder / "data", start=32)
run(rows, validation, SHORT, folder / "run", report=lambda done, total, note: print(done, flush=True))
"""


def test_killed_for_real_it_goes_on_to_the_same_weights(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    whole, expected = run(*short, SHORT, tmp_path / "whole")
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        # The second step is reported once when it is done and once more after its evaluation.
        lines = [child.stdout.readline().strip() for _ in range(3)]
        child.send_signal(signal.SIGKILL)
    assert lines == ["1", "1", "2"]
    assert child.returncode == -signal.SIGKILL
    assert (tmp_path / "run" / "running.json").is_file()
    assert list((tmp_path / "run").glob("checkpoint-*"))
    steps: list[int] = []
    resumed, progress = run(*short, SHORT, tmp_path / "run", report=lambda done, *_: steps.append(done))
    assert steps[0] > 1
    assert same(resumed, whole)
    assert progress.history == expected.history


def test_a_finished_run_is_not_trained_again(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    whole, expected = run(*short, SHORT, tmp_path / "run")
    again, progress = run(*short, SHORT, tmp_path / "run", killing_objective(1))
    assert same(again, whole)
    assert progress == expected
    assert not (tmp_path / "run" / "running.json").exists()


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 1), (1.5, 3), (2, 4)])
def test_the_last_epoch_may_be_a_part_of_one(
    epochs: float, steps: int, short: tuple[Rows, Rows], tmp_path: Path
) -> None:
    settings = SHORT.model_copy(update={"epochs": epochs})
    told: list[tuple[int, int]] = []
    _, progress = run(
        *short, settings, tmp_path / "run", report=lambda done, total, _: told.append((done, total))
    )
    assert max(told) == (steps, steps)
    assert progress.finished
    for at_call in range(3, steps + 3):
        with pytest.raises(Killed):
            run(*short, settings, tmp_path / str(at_call), killing_objective(at_call))
        assert run(*short, settings, tmp_path / str(at_call))[1].history == progress.history


def test_early_stopping_keeps_the_best_weights(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    accuracies = iter([0.5, 0.7, 0.6, 0.7, 0.9])
    seen: list[Weights] = []
    model = tiny_model()

    def judge(*_: object) -> Scores:
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        return Scores(accuracy=next(accuracies), loss=0.5, n=10)

    settings = training(epochs=9, patience=2, evaluations_per_epoch=1)
    progress = train(model, true_labels, *short, settings, tmp_path / "run", judge=judge)
    assert len(progress.history) == 4  # 0.7 was not beaten twice
    assert progress.finished
    assert same(dict(model.state_dict()), seen[1])
    assert not same(seen[1], seen[3])


def test_accuracy_counts_before_loss() -> None:
    better = Scores(accuracy=0.91, loss=3.0, n=100)
    worse = Scores(accuracy=0.90, loss=0.1, n=100)
    surer = Scores(accuracy=0.90, loss=0.05, n=100)
    assert trainer._merit(better) > trainer._merit(surer) > trainer._merit(worse)


@pytest.mark.parametrize(("steps", "evaluations", "due"), [(10, 2, {5, 10}), (3, 2, {2, 3}), (1, 4, {1})])
def test_the_last_evaluation_is_at_the_end_of_the_epoch(steps: int, evaluations: int, due: set[int]) -> None:
    assert trainer._evaluation_steps(steps, evaluations) == due


def test_a_loss_that_is_not_finite(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    calls = 0

    def objective(model: nn.Module, batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = true_labels(model, batch)
        return loss * math.nan if calls > 3 else loss

    with pytest.raises(TrainingError, match=r"became nan in epoch 1, step 2; lower the learning rate \(now"):
        run(*short, SHORT, tmp_path / "run", objective)


def test_a_broken_checkpoint_with_none_before_it_is_named(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(*short, SHORT, tmp_path / "run", killing_objective(5))
    checkpoints = sorted((tmp_path / "run").glob("checkpoint-*"))
    for checkpoint in checkpoints:
        (checkpoint / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(TrainingError) as raised:
        run(*short, SHORT, tmp_path / "run")
    assert str(checkpoints[0]) in str(raised.value)
    assert "remove it to go on without" in str(raised.value)
    assert "\n" not in str(raised.value)
    for checkpoint in checkpoints:
        shutil.rmtree(checkpoint)
    assert same(run(*short, SHORT, tmp_path / "run")[0], run(*short, SHORT, tmp_path / "whole")[0])


@pytest.mark.parametrize("broken", ["model.safetensors", "optimizer.bin", "custom_checkpoint_0.pkl"])
def test_behind_a_broken_checkpoint_stands_the_one_before(
    broken: str, short: tuple[Rows, Rows], tmp_path: Path
) -> None:
    whole, expected = run(*short, SHORT, tmp_path / "whole")
    with pytest.raises(Killed):
        run(*short, SHORT, tmp_path / "run", killing_objective(5))
    _, last = sorted((tmp_path / "run").glob("checkpoint-*"))
    (last / broken).write_bytes(b"broken")
    steps: list[int] = []
    resumed, progress = run(*short, SHORT, tmp_path / "run", report=lambda done, *_: steps.append(done))
    assert steps[0] == 3  # the first two were in the one before
    assert same(resumed, whole)
    assert progress.history == expected.history


AVERAGED = SHORT.model_copy(update={"average_decay": 0.6})


def test_averaged_weights_are_judged_and_kept(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    """Beside the slow way: the weights after every step, and their mean by the definition."""
    after: list[Weights] = []
    judged: list[Weights] = []

    def judge(model: nn.Module, *_: object) -> Scores:
        judged.append({name: value.clone() for name, value in model.state_dict().items()})
        return Scores(accuracy=len(judged) / 10, loss=0.5, n=10)

    def watch(_done: int, _total: int, _note: str) -> None:
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        if not after or not same(weights, after[-1]):
            after.append(weights)

    model = tiny_model(layers=1)
    mean = {name: value.clone() for name, value in model.state_dict().items()}
    train(model, true_labels, *short, AVERAGED, tmp_path / "run", watch, judge)
    assert len(after) == len(judged) == 4
    for step, (weights, seen) in enumerate(zip(after, judged, strict=True), start=1):
        decay = min(0.6, (1 + step) / (10 + step))
        mean = {name: decay * mean[name] + (1 - decay) * weights[name] for name in mean}
        assert all(torch.allclose(seen[name].float(), mean[name].float(), atol=1e-6) for name in mean)
    assert same(dict(model.state_dict()), judged[-1])
    assert not same(judged[-1], after[-1])


@pytest.mark.parametrize("at_call", [3, 5, 6])
def test_a_resumed_run_has_the_same_mean(at_call: int, short: tuple[Rows, Rows], tmp_path: Path) -> None:
    whole, expected = run(*short, AVERAGED, tmp_path / "whole")
    with pytest.raises(Killed):
        run(*short, AVERAGED, tmp_path / "run", killing_objective(at_call))
    resumed, progress = run(*short, AVERAGED, tmp_path / "run")
    assert same(resumed, whole)
    assert progress.history == expected.history


class Scaled(nn.Module):
    """An objective with a parameter of its own; kills itself at the n-th call."""

    def __init__(self, at_call: int = 0) -> None:
        super().__init__()
        self.scale, self.calls, self.at_call = nn.Parameter(torch.tensor([1.0])), 0, at_call

    def forward(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.at_call:
            raise Killed
        return self.scale * true_labels(model, batch)


def test_an_objective_may_learn_too(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    objective = Scaled()
    whole, expected = run(*short, SHORT, tmp_path / "whole", objective)
    assert float(objective.scale.detach()) < 0.99
    with pytest.raises(Killed):
        run(*short, SHORT, tmp_path / "run", Scaled(at_call=5))
    again = Scaled()
    resumed, progress = run(*short, SHORT, tmp_path / "run", again)
    assert torch.equal(again.scale, objective.scale)
    assert same(resumed, whole)
    assert progress.history == expected.history


def test_a_folder_of_another_run(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    run(*short, SHORT, tmp_path / "run")
    for rows, settings in [
        (short[0], SHORT.model_copy(update={"learning_rate": 1e-3})),
        (short[1], SHORT),
    ]:
        with pytest.raises(TrainingError, match="run holds another training run; remove it"):
            run(rows, short[1], settings, tmp_path / "run")


def out_of_memory_above(most_rows: int, asked: list[int]) -> Objective:
    def objective(model: nn.Module, batch: Batch) -> torch.Tensor:
        asked.append(len(batch.labels))
        if len(batch.labels) > most_rows and len(asked) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return true_labels(model, batch)

    return objective


def test_out_of_memory_halves_the_micro_batch_and_nothing_else(
    short: tuple[Rows, Rows], tmp_path: Path
) -> None:
    settings = training(micro_batch_tokens=512)
    whole, _ = run(*short, settings, tmp_path / "whole")
    asked: list[int] = []
    halved, progress = run(*short, settings, tmp_path / "halved", out_of_memory_above(5, asked))
    assert progress.micro_batch_tokens == 64
    # After two trials of the probe: 16 at 512 and at 256 tokens, eleven at 128, then five at 64.
    assert asked[2:6] == [16, 16, 11, 5]
    assert sum(asked[5:]) == 32
    assert close(halved, whole)


def test_out_of_memory_in_the_middle_of_a_step_takes_its_gradients_back(
    short: tuple[Rows, Rows], tmp_path: Path
) -> None:
    settings = training(micro_batch_tokens=64)
    whole, _ = run(*short, settings, tmp_path / "whole")
    calls = 0

    def objective(model: nn.Module, batch: Batch) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return true_labels(model, batch)

    halved, progress = run(*short, settings, tmp_path / "halved", objective)
    assert progress.micro_batch_tokens == 32
    assert close(halved, whole)


def test_one_row_that_does_not_fit(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="one row does not fit into memory; lower max_tokens"):
        run(*short, training(), tmp_path / "run", out_of_memory_above(0, []))


def test_the_probe_halves_the_micro_batch_under_a_small_limit(
    short: tuple[Rows, Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = training(micro_batch_tokens=4096)
    whole, roomy = run(*short, settings, tmp_path / "whole")
    assert roomy.micro_batch_tokens == 4096
    # A made-up process: 1 MB whatever it does, 1 kB for each token of the batch at hand.
    resident = 1_000_000

    class FakePeak:
        def __enter__(self) -> FakePeak:
            return self

        def __exit__(self, *_: object) -> None:
            self.peak_bytes = 1_000_000 + 1_000 * tokens

    tokens = 0

    def objective(model: nn.Module, batch: Batch) -> torch.Tensor:
        nonlocal tokens
        tokens = batch.input_ids.numel()
        return true_labels(model, batch)

    monkeypatch.setattr(trainer, "PeakResident", FakePeak)
    monkeypatch.setattr(trainer, "resident_memory_bytes", lambda: resident)
    monkeypatch.setattr(trainer, "available_bytes", lambda: 600_000)
    tight, progress = run(*short, settings, tmp_path / "tight", objective)
    assert progress.micro_batch_tokens == 512
    assert close(tight, whole)


def beat_of_a_killed_run(
    folder: Path, short: tuple[Rows, Rows], settings: TrainingSettings, at_call: int = 5
) -> Heartbeat:
    with pytest.raises(Killed):
        run(*short, settings, folder, killing_objective(at_call))
    beat = Heartbeat.read(folder / "running.json")
    assert beat is not None
    return beat


@pytest.mark.parametrize(("kills_since", "expected"), [(0, 400), (1, 200)])
def test_killed_for_memory_it_goes_on_with_half(
    kills_since: int,
    expected: int,
    short: tuple[Rows, Rows],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = SHORT.model_copy(update={"micro_batch_tokens": 400, "dropout": 0.0})
    whole, _ = run(*short, settings, tmp_path / "whole")
    monkeypatch.setattr(memory, "oom_kills", lambda: 3)
    assert beat_of_a_killed_run(tmp_path / "run", short, settings).micro_batch_tokens == 400
    monkeypatch.setattr(memory, "oom_kills", lambda: 3 + kills_since)
    resumed, progress = run(*short, settings, tmp_path / "run")
    assert progress.micro_batch_tokens == expected
    assert close(resumed, whole)


def test_killed_for_memory_before_the_first_checkpoint(
    short: tuple[Rows, Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SHORT.model_copy(update={"micro_batch_tokens": 400, "checkpoint_seconds": 1e6})
    monkeypatch.setattr(memory, "oom_kills", lambda: 3)
    beat_of_a_killed_run(tmp_path / "run", short, settings, at_call=4)
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    monkeypatch.setattr(memory, "oom_kills", lambda: 4)
    # Killed again, now without a trial before, and again it halves.
    assert beat_of_a_killed_run(tmp_path / "run", short, settings, at_call=2).micro_batch_tokens == 200
    monkeypatch.setattr(memory, "oom_kills", lambda: 5)
    assert run(*short, settings, tmp_path / "run")[1].micro_batch_tokens == 100


def test_checkpoints_are_as_rare_as_asked_and_two_are_kept(
    short: tuple[Rows, Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[str] = []
    real = Accelerator.save_state

    def save_state(self: Accelerator, folder: str) -> None:
        saved.append(folder)
        real(self, folder)

    monkeypatch.setattr(Accelerator, "save_state", save_state)
    run(*short, SHORT.model_copy(update={"checkpoint_seconds": 1e6}), tmp_path / "rare")
    assert len(saved) == 2  # at the end of each epoch
    run(*short, SHORT, tmp_path / "often")
    assert len(saved) == 2 + 6
    for folder, before_last in (("rare", "checkpoint-0001-00000000"), ("often", "checkpoint-0001-00000002")):
        kept = sorted(path.name for path in (tmp_path / folder).iterdir())
        assert kept == [
            "best.safetensors",
            before_last,
            "checkpoint-0002-00000000",
            "history.json",
            "metrics.jsonl",
            "run.json",
        ]
    history = json.loads((tmp_path / "often" / "history.json").read_text())["history"]
    assert history == run(*short, SHORT, tmp_path / "often")[1].history


def test_dropout_is_what_the_settings_say(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    model = tiny_model()
    train(model, true_labels, *short, training(dropout=0.25), tmp_path / "run")
    assert {module.p for module in model.modules() if isinstance(module, nn.Dropout)} == {0.25}


def test_the_identity_of_a_run_is_readable(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    run(*short, SHORT, tmp_path / "run")
    identity = json.loads((tmp_path / "run" / "run.json").read_text())
    assert identity["settings"]["learning_rate"] == SHORT.learning_rate
    assert identity["rows"] == short[0].fingerprint


def test_no_environment_is_left_changed(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    before = {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE")}
    run(*short, training(), tmp_path / "run")
    assert {name: value for name, value in os.environ.items() if name.startswith("ACCELERATE")} == before


def test_activation_checkpointing_changes_no_weight(short: tuple[Rows, Rows], tmp_path: Path) -> None:
    """Layers are computed anew with the same numbers: dropout draws them again as it drew them first."""
    plain, before = run(*short, SHORT, tmp_path / "plain")
    settings = SHORT.model_copy(update={"activation_checkpointing": True})
    spared, after = run(*short, settings, tmp_path / "spared")
    assert plain.keys() == spared.keys()
    for name, weight in plain.items():
        torch.testing.assert_close(spared[name], weight, atol=1e-6, rtol=1e-5)
    assert after.history == [pytest.approx(entry) for entry in before.history]


def test_compiling_changes_no_weight(
    short: tuple[Rows, Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph that torch captures, run by itself: what a compiler makes of it is not ours to test."""
    monkeypatch.setenv("CXX", "sh")  # the eager backend calls no compiler, so any program will do
    compiled = 0

    def capture(model: nn.Module, **options: Any) -> Any:
        nonlocal compiled
        compiled += 1
        return torch_compile(model, backend="eager", **options)

    torch_compile = torch.compile
    monkeypatch.setattr(torch, "compile", capture)
    plain, before = run(*short, SHORT, tmp_path / "plain")
    assert compiled == 0
    faster, after = run(*short, SHORT.model_copy(update={"compile": True}), tmp_path / "compiled")
    assert compiled == 1
    assert plain.keys() == faster.keys()
    for name, weight in plain.items():
        torch.testing.assert_close(faster[name], weight, atol=1e-6, rtol=1e-5)
    assert after.history == [pytest.approx(entry) for entry in before.history]


def test_compiling_without_a_compiler_is_refused_at_once(
    short: tuple[Rows, Rows], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(
        TrainingError, match="compile needs a C\\+\\+ compiler, and there is no no-such-compiler"
    ):
        run(*short, training(compile=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()
