"""The training benchmark for a person: what ours takes beside the plain loop, and each ingredient's share."""

from __future__ import annotations

from rich.table import Table

from compression.training_arm import Result
from compression.training_benchmark import Comparison, seconds_to


def comparison_table(found: Comparison) -> Table:
    """The plain loop and ours."""
    to_target = f"seconds to validation loss {found.target_loss:.3f}"
    table = _table("training", "arm", to_target, "seconds an epoch", "tokens/s", "peak memory", "CPU")
    plain_seconds = seconds_to(found.plain.evaluations, found.target_loss)
    table.add_row(found.plain.name, f"{plain_seconds:.1f}", *_cells(found.plain))
    reached = f"{found.ours.seconds:.1f}" if found.ours.reached_target else "not reached"
    table.add_row(found.ours.name, reached, *_cells(found.ours))
    if found.ours.reached_target:
        saved = [f"{found.time_saved:.0%} less", _less(found.ours.seconds_per_epoch, found.plain)]
        table.add_row("saved", *saved, "", f"{found.memory_saved:.0%} less", "")
    return table


def ingredients_table(found: Comparison) -> Table:
    """Ours with one thing changed: how many times its seconds and its memory that takes."""
    table = _table("ours, one thing changed", "arm", "seconds an epoch", "times ours", "tokens/s")
    for column in ("peak memory", "times ours", "seconds to the target"):
        table.add_column(column, justify="right")
    ours = found.ours
    for arm in (ours, *found.ingredients):
        aimed = bool(arm.evaluations) and arm.epochs == ours.epochs
        reached = f"{arm.seconds:.1f}" if arm.reached_target else ("not reached" if aimed else "-")
        table.add_row(
            arm.name,
            f"{arm.seconds_per_epoch:.1f}",
            f"{arm.seconds_per_epoch / ours.seconds_per_epoch:.2f}",
            f"{arm.tokens_per_second:,.0f}",
            f"{_peak(arm) / 1e6:,.0f} MB",
            f"{_peak(arm) / _peak(ours):.2f}",
            reached,
        )
    for name, reason in found.failed.items():
        table.add_row(name, f"failed: {reason[:60]}", "", "", "", "", "")
    return table


def footnote(found: Comparison) -> str:
    """What was compared, and on what."""
    machine, request, ours = found.machine, found.request, found.ours
    stopped = ours.steps / max(1.0, ours.steps_per_epoch * ours.epochs)
    device = machine["gpu"] or machine["cpu"]
    return (
        f"{device} ({', '.join(machine['cpu_features'])}), {machine['cores']} cores, {machine['threads']} "
        f"threads, torch {machine['libraries'].get('torch', '?')}, {machine['measured_on']}. "
        f"{request.reviews} reviews of at most {request.max_tokens} tokens, {request.rows_per_step} a step, "
        f"{request.epochs:g} epochs planned; validation: {request.validation_reviews} reviews. Each arm in a "
        "fresh process, evaluations not counted. Stopping when the loss was reached spared ours "
        f"{1 - stopped:.0%} of its steps."
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title)
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right")
    return table


def _cells(arm: Result) -> list[str]:
    return [
        f"{arm.seconds_per_epoch:.1f}",
        f"{arm.tokens_per_second:,.0f}",
        f"{_peak(arm) / 1e6:,.0f} MB",
        f"{arm.cpu_utilisation:.0%}",
    ]


def _less(ours: float, plain: Result) -> str:
    return f"{1 - ours / plain.seconds_per_epoch:.0%} less"


def _peak(arm: Result) -> int:
    return arm.cuda_peak_bytes or arm.peak_bytes
