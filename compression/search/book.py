"""The book of a search: which rates were tried, with what result, and what is to be tried next.

Optuna keeps it in a journal in the work folder, so a search goes on where it was, and several workers may
write in it. Whoever works on a trial holds a lock that the kernel takes from a process that dies: a running
trial whose lock is free was abandoned, and is tried again (its finished stages are not repeated).

Figures are kept beside the book by rates and effort, not by goals: a search with other goals begins with
everything that was ever measured.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from compression.locks import claim, exclusive
from compression.search.goals import Goals
from compression.search.space import Rates, Space

# After so many workers died at a trial it is given up: it is too large for this machine.
_ATTEMPTS = 3
_RANDOM_TRIALS = 8


@dataclass(frozen=True)
class Entry:
    """One finished trial: its figures, or why it has none. `version` where it was published."""

    number: int
    effort: str
    rates: Rates
    values: Mapping[str, Any] | None
    error: str | None = None
    seconds: float = 0.0
    version: str | None = None


@dataclass
class Task:
    """A trial to be carried out; `release` lets another worker have it."""

    trial: Trial
    effort: str
    rates: Rates
    lock: IO[bytes]

    def release(self) -> None:
        """What is not told by now counts as abandoned."""
        self.lock.close()


class _KernelLock(JournalFileOpenLock):
    """Optuna's own locks are files that a killed process leaves behind."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def acquire(self) -> bool:
        """Wait for it."""
        self._lock = exclusive(self._path)
        self._lock.__enter__()
        return True

    def release(self) -> None:
        """Let go."""
        self._lock.__exit__(None, None, None)


def _journal(path: Path) -> JournalFileBackend:
    """The journal, without a last line that a crash of the machine cut short."""
    lock = path.with_suffix(".journal-lock")
    with exclusive(lock), path.open("a+b") as stream:
        stream.seek(0)
        written = stream.read()
        if written and not written.endswith(b"\n"):
            stream.truncate(written.rfind(b"\n") + 1)
    return JournalFileBackend(str(path), _KernelLock(lock))


# Finished trials by effort, and efforts with waiting ones, to an effort and rates to try.
Choose = Callable[[Mapping[str, list[Entry]], frozenset[str]], tuple[str, Rates | None] | None]


class Book:
    """Trials of one search (`identity`: what is searched, and on what) under one set of goals."""

    def __init__(
        self, folder: Path, identity: str, goals: Goals, space: Space, efforts: tuple[str, ...], seed: int
    ) -> None:
        self._folder, self._goals, self._space = folder, goals, space
        self._efforts, self._identity, self._seed = efforts, identity, seed
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        told = f"{hashlib.sha256(space.model_dump_json().encode()).hexdigest()[:8]} {goals.text}"
        with exclusive(folder / "book.lock"):
            storage = JournalStorage(_journal(folder / "book.log"))
            better = {True: StudyDirection.MINIMIZE, False: StudyDirection.MAXIMIZE}
            directions = [better[each.is_cost] for each in goals.objectives]
            self._studies = {
                effort: optuna.create_study(
                    study_name=f"{identity} {effort} {told}",
                    storage=storage,
                    directions=directions,
                    load_if_exists=True,
                )
                for effort in efforts
            }
            self._begin()

    def entries(self, effort: str) -> list[Entry]:
        """Every finished trial of an effort; of rates tried twice the last one."""
        found = {}
        for trial in self._trials(effort):
            entry = _entry(trial, effort)
            if entry is not None:
                found[entry.rates] = entry
        return list(found.values())

    def next(self, choose: Choose) -> Task | None:
        """The next trial for this worker; None where `choose` sees nothing to do.

        `choose` is shown the finished trials of every effort, and which efforts have trials that wait (the
        first ones, and what was stopped). It names an effort, and either rates that are to be tried with it
        or None: what waits, else Optuna's proposal. One worker at a time is asked.
        """
        with exclusive(self._folder / "book.lock"):
            self._reclaim()
            waiting = frozenset(effort for effort in self._efforts if self._waits(effort))
            chosen = choose({effort: self.entries(effort) for effort in self._efforts}, waiting)
            if chosen is None:
                return None
            effort, rates = chosen
            if rates is not None:
                self._enqueue(effort, rates)
            return self._ask(effort)

    def in_hand(self, effort: str, waiting: bool = True) -> set[Rates]:
        """Rates that are tried right now, or (unless told otherwise) wait for it."""
        states = (TrialState.RUNNING, TrialState.WAITING) if waiting else (TrialState.RUNNING,)
        return {
            Rates.model_validate_json(trial.user_attrs["rates"])
            for trial in self._trials(effort)
            if trial.state in states and "rates" in trial.user_attrs
        }

    def tell(self, task: Task, values: Mapping[str, Any], seconds: float, version: str | None) -> None:
        """A trial succeeded, and was published as `version` or not at all."""
        self._keep(task, values)
        trial, told = task.trial, {"values": dict(values), "seconds": round(seconds, 1), "version": version}
        for name, value in told.items():
            trial.set_user_attr(name, value)
        for limit in self._goals.limits:
            trial.set_constraint(limit.text, limit.missed_by(values))
        study = self._studies[task.effort]
        study.tell(trial, [values[each.name] for each in self._goals.objectives])
        task.release()

    def fail(self, task: Task, error: str, seconds: float) -> None:
        """A trial failed; why is part of the book."""
        task.trial.set_user_attr("error", error)
        task.trial.set_user_attr("seconds", round(seconds, 1))
        self._studies[task.effort].tell(task.trial, state=TrialState.FAIL)
        task.release()

    def put_back(self, task: Task) -> None:
        """A trial was stopped through no fault of its own: it waits for whoever asks next."""
        task.trial.set_user_attr("put_back", True)
        with exclusive(self._folder / "book.lock"):
            self._enqueue(task.effort, task.rates, int(task.trial.user_attrs.get("attempt", 1)))
            self._studies[task.effort].tell(task.trial, state=TrialState.FAIL)
        task.release()

    def known(self, task: Task) -> Mapping[str, Any] | None:
        """Figures of the same rates with the same effort, from an earlier search."""
        path = self._kept(task.effort) / f"{_key(task.rates)}.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))["values"]) if path.is_file() else None

    def reference_ms(self, baseline_ms: float) -> float:
        """What the baseline took in the first trial: milliseconds of all trials are told for that minute."""
        path = self._folder / "measured" / f"{self._identity}.json"
        with exclusive(self._folder / "book.lock"):
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps({"baseline_ms": baseline_ms}), encoding="utf-8")
            return float(json.loads(path.read_text(encoding="utf-8"))["baseline_ms"])

    def _begin(self) -> None:
        """A new study is shown what is known, and tries the ends of the space before anything else."""
        cheap = self._studies[self._efforts[0]]
        if cheap.trials:
            return
        first = [self._space.mildest(), self._space.middle(), self._space.strongest()]
        earlier = [
            Rates.model_validate(json.loads(path.read_text(encoding="utf-8"))["rates"])
            for path in sorted(self._kept(self._efforts[0]).glob("*.json"))
        ]
        inside = [rates for rates in earlier if _is_in(rates, self._space)]
        for rates in dict.fromkeys([*first, *inside]):
            self._enqueue(self._efforts[0], rates)

    def _enqueue(self, effort: str, rates: Rates, attempt: int = 1) -> None:
        told = {"rates": rates.model_dump_json(), "attempt": attempt}
        self._studies[effort].enqueue_trial(_indices(rates, self._space), user_attrs=told)

    def _ask(self, effort: str) -> Task:
        study, known = self._studies[effort], self.in_hand(effort) | {e.rates for e in self.entries(effort)}
        # A sampler of its own for each trial: two workers must not draw the same random numbers.
        seed = self._seed + len(self._trials(effort))
        study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=_RANDOM_TRIALS)
        trial = study.ask()
        rates = _proposed(trial, self._space)
        if "rates" not in trial.user_attrs and rates in known:
            # The sampler likes a point that was tried: one that was not is drawn instead.
            study.tell(trial, state=TrialState.FAIL)
            untried = [each for each in self._space.all_rates() if each not in known]
            self._enqueue(effort, random.Random(seed).choice(untried))
            return self._ask(effort)
        if "rates" not in trial.user_attrs:
            trial.set_user_attr("rates", rates.model_dump_json())
            trial.set_user_attr("attempt", 1)
        lock = claim(self._lock(effort, trial.number))
        assert lock is not None  # noqa: S101 - a trial is given out once
        return Task(trial, effort, rates, lock)

    def _reclaim(self) -> None:
        """Trials whose worker died are closed, and tried again unless they killed too many."""
        for effort, study in self._studies.items():
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                lock = claim(self._lock(effort, trial.number))
                if lock is None:
                    continue
                attempt = int(trial.user_attrs.get("attempt", 1))
                if "rates" in trial.user_attrs and attempt < _ATTEMPTS:
                    rates = Rates.model_validate_json(trial.user_attrs["rates"])
                    self._enqueue(effort, rates, attempt + 1)
                study.tell(trial.number, state=TrialState.FAIL)
                lock.close()

    def _keep(self, task: Task, values: Mapping[str, Any]) -> None:
        path = self._kept(task.effort) / f"{_key(task.rates)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{task.trial.number}.partial")
        kept = {"rates": task.rates.model_dump(mode="json"), "values": dict(values)}
        partial.write_text(json.dumps(kept, indent=2), encoding="utf-8")
        partial.replace(path)

    def _waits(self, effort: str) -> bool:
        return any(trial.state == TrialState.WAITING for trial in self._trials(effort))

    def _trials(self, effort: str) -> list[FrozenTrial]:
        return self._studies[effort].get_trials(deepcopy=False)

    def _lock(self, effort: str, number: int) -> Path:
        study = hashlib.sha256(self._studies[effort].study_name.encode()).hexdigest()[:12]
        return self._folder / "claims" / f"{study}-{number}.lock"

    def _kept(self, effort: str) -> Path:
        return self._folder / "measured" / f"{self._identity}-{effort}"


def _entry(trial: FrozenTrial, effort: str) -> Entry | None:
    """A finished trial; None for one that goes on, or that is tried again."""
    told = trial.user_attrs
    finished = trial.state in (TrialState.COMPLETE, TrialState.FAIL)
    if "rates" not in told or told.get("put_back") or not finished:
        return None
    error = told.get("error")
    if trial.state == TrialState.FAIL and error is None:
        if int(told["attempt"]) < _ATTEMPTS:
            return None
        error = f"{told['attempt']} workers ended at it: killed, perhaps for their memory"
    return Entry(
        number=trial.number,
        effort=effort,
        rates=Rates.model_validate_json(told["rates"]),
        values=told.get("values"),
        error=error,
        seconds=float(told.get("seconds", 0.0)),
        version=told.get("version"),
    )


def _proposed(trial: Trial, space: Space) -> Rates:
    """Ordered choices are asked for by their place in the list, so that a sampler knows what lies between."""
    chosen: dict[str, Any] = {}
    for name, choices in space.choices.items():
        if name == "scheme":
            chosen[name] = trial.suggest_categorical(name, choices)
        else:
            chosen[name] = choices[trial.suggest_int(name, 0, len(choices) - 1)]
    return Rates(**chosen)


def _indices(rates: Rates, space: Space) -> dict[str, Any]:
    """The same the other way round."""
    return {
        name: rates.scheme if name == "scheme" else choices.index(getattr(rates, name))
        for name, choices in space.choices.items()
    }


def _is_in(rates: Rates, space: Space) -> bool:
    return all(getattr(rates, name) in choices for name, choices in space.choices.items())


def _key(rates: Rates) -> str:
    return hashlib.sha256(rates.model_dump_json().encode()).hexdigest()[:24]
