"""One table: every server with its best setting, measured in turns."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from statistics import median

from app.errors import SettingsError
from loadtests.peers.peer import Peer, Setting
from loadtests.peers.run import ALLOWED_SHARE, wrong_share
from loadtests.peers.visit import Bench, Trial, Visit, try_setting, visit

# Of the slowest server's closed loop: a rate that all of them sustain.
EQUAL_SHARE = 0.5


@dataclass
class Table:
    """All there is to say of one table."""

    title: str
    facts: dict[str, str] = field(default_factory=dict)
    trials: list[Trial] = field(default_factory=list)
    chosen: dict[str, Setting] = field(default_factory=dict)
    equal_rates: dict[str, float] = field(default_factory=dict)
    visits: list[Visit] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)


def best_setting(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the highest throughput, as the geometric mean over the lengths of text.

    One that gives other labels than the bare engine to more texts than may fail is taken only when all do.
    """
    tried = [trial for trial in trials if trial.error is None]
    right = [trial for trial in tried if max(map(wrong_share, trial.lengths.values())) <= ALLOWED_SHARE]
    return max(
        right or tried,
        key=lambda trial: prod(run.answered_rate for run in trial.lengths.values()),
        default=None,
    )


def equal_rates(trials: Sequence[Trial]) -> dict[str, float]:
    """For each length a rate that the slowest of the servers bears easily."""
    lengths = trials[0].lengths
    return {
        length: EQUAL_SHARE * min(trial.lengths[length].answered_rate for trial in trials)
        for length in lengths
    }


async def fill(
    table: Table,
    bench: Bench,
    peers: Sequence[tuple[Peer, Sequence[Setting]]],
    rounds: int,
    save: Callable[[], None],
) -> None:
    """Try the settings of every server, then visit each once a round, every other round backwards.

    `save` is called after each visit, so that what was measured outlives what goes wrong later.

    Raises:
        SettingsError: not a single server runs.
    """
    running = []
    for peer, settings in peers:
        trials = [await _try(bench, peer, setting) for setting in settings]
        table.trials += trials
        best = best_setting(trials)
        if best is None:
            table.failures[peer.name] = trials[-1].error or ""
        else:
            table.chosen[peer.name] = best.setting
            running.append((peer, best))
    if not running:
        raise SettingsError(f"none of the servers runs; {telling_line(' '.join(table.failures.values()))}")
    table.equal_rates = equal_rates([best for _, best in running])
    for number in range(rounds):
        for peer, best in running if number % 2 == 0 else running[::-1]:
            started = time.monotonic()
            try:
                before = [earlier for earlier in table.visits if earlier.peer == peer.name]
                table.visits.append(await visit(bench, peer, best.setting, table.equal_rates, before))
            except SettingsError as error:
                table.failures[peer.name] = str(error)
            say(f"  round {number + 1}: {peer.name}, {time.monotonic() - started:.0f} s")
            save()


async def _try(bench: Bench, peer: Peer, setting: Setting) -> Trial:
    try:
        trial = await try_setting(bench, peer, setting)
    except SettingsError as error:
        say(f"  {peer.name}, {setting}: {telling_line(str(error))}")
        return Trial(peer.name, setting, {}, str(error))
    rates = ", ".join(f"{run.answered_rate:.1f} {length}/s" for length, run in trial.lengths.items())
    say(f"  {peer.name}, {setting}: {rates}")
    return trial


def medians(values: Sequence[float | None]) -> float | None:
    """The median, None standing for infinity; None where that is the median, or there are no values."""
    ordered = [float("inf") if value is None else value for value in values]
    middle = median(ordered) if ordered else float("inf")
    return None if middle == float("inf") else middle


def telling_line(words: str) -> str:
    """The last line that names an error, else the last line, of a server's log."""
    lines = [line.strip() for line in words.splitlines() if line.strip()] or ["no reason given"]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (errors or lines)[-1][:200]


def say(words: str) -> None:
    """Progress, for whoever waits."""
    print(words, file=sys.stderr, flush=True)
