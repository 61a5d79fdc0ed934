"""One worker of a search: asks the book for a trial, carries it out, tells the book, until there is no more.

Cheap trials come first; of all that succeeded the best third is trained in full, as soon as it is the best
third, so that workers never wait for each other (asynchronous successive halving with two rungs).
Source: Li et al. 2020, A System for Massively Parallel Hyperparameter Tuning (ASHA).
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from app.artifact import Manifest
from app.errors import DiskFullError, ParityError, SearchError
from compression import pipeline
from compression.disk import full_disk_named
from compression.search.book import Book, Entry, Task
from compression.search.goals import Goals, frontier, ranked
from compression.search.judging import Yardstick
from compression.search.recipes import BUILT, Effort, Template, recipe_of
from compression.search.space import Rates, Space
from compression.stages.base import Context, Input
from compression.training import Report

# Of so many cheap trials one is trained in full.
KEEP_ONE_OF = 3
# From this share of a time budget on, all that was tried cheaply is trained before more is tried.
_TRYING_SHARE = 0.5
# So many trials of both efforts say what full training adds to a cheap one.
_ENOUGH_TO_LEARN_FROM = 3
_QUALITIES = ("accuracy", "retention")
# A search in which so many trials failed and none succeeded has another problem than its rates.
_HOPELESS = 5


class OutOfTimeError(Exception):
    """The budget is spent; the trial in hand is left for the next run."""


@dataclass(frozen=True)
class Limits:
    """When a worker stops: cheap trials of all workers together, and seconds of its own."""

    trials: int | None
    budget_seconds: float | None


@dataclass(frozen=True)
class Bench:
    """What trials of one effort are carried out with."""

    effort: Effort
    context: Context
    yardstick: Yardstick


class Worker:
    """Works until the limits are reached, or everything was tried."""

    def __init__(
        self,
        cheap: Bench,
        full: Bench,
        given: Mapping[str, Input],
        common: Template,
        goals: Goals,
        space: Space,
        book: Book,
        limits: Limits,
        tell: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cheap, self._full, self._given, self._common = cheap, full, given, common
        self._goals, self._space, self._book, self._limits = goals, space, book, limits
        self._tell, self._clock, self._started = tell, clock, clock()

    def run(self) -> str:
        """Carry trials out; returns why it ended.

        Raises:
            SearchError: many trials failed and none succeeded.
            DiskFullError: there is no room left.
        """
        while (task := self._book.next(self._choose)) is not None:
            try:
                self._carry_out(task)
            except OutOfTimeError:
                break
            finally:
                task.release()
        return "the budget is spent" if self._share_spent() >= 1 else "everything worth it was tried"

    def _choose(
        self, entries: Mapping[str, list[Entry]], waiting: frozenset[str]
    ) -> tuple[str, Rates | None] | None:
        """What to do next: train a promising trial in full, or try another point cheaply."""
        if self._share_spent() >= 1:
            return None
        cheap, full = entries[self._cheap.effort.name], entries[self._full.effort.name]
        _check_hope([*cheap, *full])
        if self._full.effort.name in waiting:
            return self._full.effort.name, None
        promoted = {entry.rates for entry in full} | self._book.in_hand(self._full.effort.name)
        order = ranked(expected(cheap, full, max(self._space.layers)), self._goals)
        # Rounded up, the best third of one is one: from the first trial on there is something to leave.
        best = order if self._is_late() else order[: math.ceil(len(order) / KEEP_ONE_OF)]
        candidates = [rates for rates in best if rates not in promoted]
        if candidates:
            return self._full.effort.name, candidates[0]
        return (self._cheap.effort.name, None) if self._may_try_more(cheap) else None

    def _may_try_more(self, cheap: list[Entry]) -> bool:
        begun = {entry.rates for entry in cheap} | self._book.in_hand(self._cheap.effort.name, waiting=False)
        most = self._space.points if self._limits.trials is None else self._limits.trials
        return len(begun) < min(most, self._space.points)

    def _carry_out(self, task: Task) -> None:
        started = self._clock()
        self._tell(f"{task.effort} trial {task.trial.number}: {task.rates.text}")
        bench = self._cheap if task.effort == self._cheap.effort.name else self._full
        version = None
        try:
            values = dict(self._book.known(task) or self._measured(task.rates, bench))
            if bench is self._full and self._is_worth(task.rates, values):
                version, added = self._published(task.rates)
                values |= added
        except (OutOfTimeError, DiskFullError, KeyboardInterrupt):
            self._book.put_back(task)
            raise
        except Exception as error:  # torch, onnxruntime and the kernel each raise their own
            told = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            self._tell(f"{task.effort} trial {task.trial.number} failed: {told}")
            self._book.fail(task, told, self._clock() - started)
            return
        self._book.tell(task, values, self._clock() - started, version)
        self._tell(f"{task.effort} trial {task.trial.number}: {self._figures(values)}")

    def _measured(self, rates: Rates, bench: Bench) -> dict[str, Any]:
        recipe = recipe_of(rates, bench.effort, self._common)
        context = replace(bench.context, recipe=recipe, report=self._watched(bench.context.report))
        with full_disk_named(context.work, context.repository):
            outcome = pipeline.run_stages(context, self._given, until=BUILT)
            if outcome.refused:
                raise ParityError(outcome.refused[0])
            measured = bench.yardstick.measure(outcome.results[BUILT].folder)
        in_ms = measured.latency * self._book.reference_ms(measured.baseline_ms)
        return measured.fields | {"latency-ms": in_ms}

    def _published(self, rates: Rates) -> tuple[str, dict[str, Any]]:
        """The whole recipe, its stages being there already: gate, quality on test, costs, version."""
        recipe = recipe_of(rates, self._full.effort, self._common)
        context = replace(self._full.context, recipe=recipe, report=self._watched(self._full.context.report))
        with full_disk_named(context.work, context.repository):
            outcome = pipeline.run_stages(context, self._given)
        if outcome.refused:
            raise ParityError(outcome.refused[0])
        manifest = outcome.published[0].manifest
        return f"{manifest.name}/{manifest.version}", _of_version(manifest)

    def _is_worth(self, rates: Rates, values: Mapping[str, Any]) -> bool:
        """Whether it is on the frontier, or while nothing keeps the limits the nearest to them."""
        others = {e.rates: e.values for e in self._book.entries(self._full.effort.name) if e.values}
        points: dict[Rates, Mapping[str, Any]] = {**others, rates: values}
        keeping = {name: each for name, each in points.items() if not self._goals.missed(each)}
        if keeping:
            return rates in keeping and rates in frontier(keeping, self._goals.axes)
        return ranked(points, self._goals)[0] == rates

    def _watched(self, report: Callable[[str], Report]) -> Callable[[str], Report]:
        """Every report of progress looks at the clock."""

        def watched(title: str) -> Report:
            told = report(title)

            def step(done: int, total: int, note: str) -> None:
                if self._share_spent() >= 1:
                    raise OutOfTimeError
                told(done, total, note)

            return step

        return watched

    def _figures(self, values: Mapping[str, Any]) -> str:
        return ", ".join(f"{axis.name} {axis.text(values[axis.name])}" for axis in self._goals.axes)

    def _is_late(self) -> bool:
        return self._limits.budget_seconds is not None and self._share_spent() >= _TRYING_SHARE

    def _share_spent(self) -> float:
        budget = self._limits.budget_seconds
        return 0.0 if budget is None else (self._clock() - self._started) / budget


def expected(
    cheap: Sequence[Entry], full: Sequence[Entry], teacher_layers: int
) -> dict[Rates, Mapping[str, Any]]:
    """Figures of the cheap trials, their quality raised by what full training added so far (the median)."""
    short = {entry.rates: entry.values for entry in cheap if entry.values}
    whole = {entry.rates: entry.values for entry in full if entry.values}
    trained = [rates for rates in short if rates in whole and rates.is_trained(teacher_layers)]
    added = dict.fromkeys(_QUALITIES, 0.0)
    if len(trained) >= _ENOUGH_TO_LEARN_FROM:
        added = {n: statistics.median(whole[r][n] - short[r][n] for r in trained) for n in _QUALITIES}
    return {rates: {**values, **{n: values[n] + added[n] for n in added}} for rates, values in short.items()}


def _of_version(manifest: Manifest) -> dict[str, Any]:
    """What a publication adds: the size of all its files, and quality on texts no choice was made on."""
    quality = manifest.quality[0]
    return {
        "size": float(manifest.bytes),
        "published_split": quality.split,
        "published_texts": quality.n,
        "published_accuracy": quality.accuracy,
        "published_accuracy_low": quality.accuracy_interval_95[0],
        "published_accuracy_high": quality.accuracy_interval_95[1],
        "published_retention": quality.retention,
    }


def _check_hope(entries: list[Entry]) -> None:
    failed = [entry.error for entry in entries if entry.error]
    if len(failed) >= _HOPELESS and len(failed) == len(entries):
        raise SearchError(f"all of {len(failed)} trials failed, the last one with {failed[-1]}")
