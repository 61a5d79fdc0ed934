"""From what was measured to Markdown. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from app.errors import DataError
from loadtests.peers.run import ALLOWED_SHARE, DEADLINE_MS, Run, failed_share, wrong_share
from loadtests.peers.table import Table, medians, telling_line
from loadtests.peers.visit import LengthFigures, Trial, Visit

OURS = "bertpress"
MEGABYTE = 1e6
_MARKER = "<!-- {name}: {edge} -->"

Value = Callable[[Visit], float | None]


def markdown(table: Table, lengths: Sequence[str]) -> str:
    """The table, the settings tried, and who could not be measured."""
    rows = [_row(table, name, lengths) for name in table.chosen if _visits(table, name)]
    parts = [
        _grid(_header(table, lengths), rows),
        "",
        *_ratios(table, lengths),
        "",
        _settings(table, lengths),
    ]
    parts += [f"\n{name} was not measured: {telling_line(why)}" for name, why in table.failures.items()]
    return "\n".join(parts)


def write(page: Path, name: str, text: str) -> None:
    """Put a text between the page's markers of that name.

    Raises:
        DataError: the page has no such markers.
    """
    begin, end = (_MARKER.format(name=name, edge=edge) for edge in ("begin", "end"))
    before, found, rest = page.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise DataError(f"{page} has no lines `{begin}` and `{end}` to write between")
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def columns(lengths: Sequence[str]) -> dict[str, tuple[Value, bool]]:
    """What is compared: how to read it from a visit, and whether more is better."""
    compared: dict[str, tuple[Value, bool]] = {}
    for length in lengths:
        compared |= {
            f"{length}, sustained": (_figure(length, lambda figures: figures.sustained.rate), True),
            f"{length}, p99 at equal rate": (_figure(length, lambda figures: figures.equal.p99_ms), False),
            f"{length}, goodput at twice": (_figure(length, lambda figures: figures.overload.goodput), True),
        }
    compared["memory"] = (lambda visit: visit.loaded_bytes, False)
    compared["cold start"] = (lambda visit: visit.cold_start_seconds, False)
    return compared


def advantage(table: Table, value: Value, more_is_better: bool) -> tuple[str, float] | None:
    """The best other server, and how many times better than it we are; None with nobody to compare."""
    figures = {name: medians([value(visit) for visit in _visits(table, name)]) for name in table.chosen}
    ours = figures.pop(OURS, None)
    others = {name: figure for name, figure in figures.items() if figure}
    if not ours or not others:
        return None
    best = (max if more_is_better else min)(others, key=lambda name: others[name])
    return best, ours / others[best] if more_is_better else others[best] / ours


def _header(table: Table, lengths: Sequence[str]) -> list[str]:
    cells = ["server"]
    for length in lengths:
        cells += [
            f"{length}: req/s at p99 < {DEADLINE_MS[length]} ms",
            f"{length}: p99 at {table.equal_rates[length]:.0f}/s",
            f"{length}: goodput at twice its capacity (failed)",
        ]
    return [*cells, "memory", "start to first answer"]


def _row(table: Table, name: str, lengths: Sequence[str]) -> list[str]:
    visits = _visits(table, name)

    def over(value: Value) -> float | None:
        return medians([value(visit) for visit in visits])

    cells = [f"**{name}**" if name == OURS else name]
    for length in lengths:
        sustained = over(_figure(length, lambda figures: figures.sustained.rate))
        p99 = over(_figure(length, lambda figures: figures.equal.p99_ms))
        goodput = over(_figure(length, lambda figures: figures.overload.goodput))
        share = over(_figure(length, lambda figures: figures.overload.goodput / figures.closed.answered_rate))
        failed = over(_figure(length, lambda figures: failed_share(figures.overload)))
        cells += [
            f"{sustained:.0f}" if sustained else "none",
            f"{p99:.0f} ms" if p99 is not None else f"over {ALLOWED_SHARE:.0%} failed",
            f"{goodput or 0:.0f}/s, {share or 0:.0%} ({failed or 0:.0%})",
        ]
    memory, start = over(lambda visit: visit.loaded_bytes), over(lambda visit: visit.cold_start_seconds)
    return [*cells, f"{(memory or 0) / MEGABYTE:.0f} MB", f"{start or 0:.1f} s"]


def _ratios(table: Table, lengths: Sequence[str]) -> list[str]:
    """How we stand to the best other server, line by line, better or worse."""
    lines = []
    for title, (value, more_is_better) in columns(lengths).items():
        standing = advantage(table, value, more_is_better)
        if standing is not None:
            lines.append(f"{title}: {standing[1]:.2f} times the best other ({standing[0]})")
    return ["; ".join(lines) + "."] if lines else []


def _settings(table: Table, lengths: Sequence[str]) -> str:
    header = ["server", "setting", *(f"{length}/s, 16 in flight (other label, failed)" for length in lengths)]
    return _grid(header, [_trial(table, trial, lengths) for trial in table.trials])


def _trial(table: Table, trial: Trial, lengths: Sequence[str]) -> list[str]:
    chosen = trial.error is None and table.chosen.get(trial.peer) == trial.setting
    mark = " (taken)" if chosen else ""
    if trial.error is not None:
        cells = [f"did not run: {telling_line(trial.error)}", *("" for _ in lengths[1:])]
    else:
        cells = [_rate_and_wrong(trial.lengths[length]) for length in lengths]
    return [trial.peer, f"{trial.setting}{mark}", *cells]


def _rate_and_wrong(run: Run) -> str:
    wrong = wrong_share(run)
    return f"{run.answered_rate:.0f} ({wrong:.1%}, {failed_share(run) - wrong:.1%})"


def _visits(table: Table, name: str) -> list[Visit]:
    return [visit for visit in table.visits if visit.peer == name]


def _figure(length: str, read: Callable[[LengthFigures], float | None]) -> Value:
    return lambda visit: read(visit.lengths[length])


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def facts(entries: Mapping[str, str]) -> str:
    """What the run was: one line each."""
    return "\n".join(f"- {name}: {value}" for name, value in entries.items())
