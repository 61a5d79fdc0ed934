"""What an engine gives with nothing before it: `loadtests.engine_ratio` runs this in a process of its own.

Standard input: JSON with folder, build, texts, count, schedule, tokenize and in_flight; standard output:
texts a second over `count` of them, taken in turn. Every worker takes the next of the requests in flight the
moment it is free: there is no queue to wait in, no protocol, no other thread. What is being computed is in
flight as well: its place is free for another request when it is answered. Sessions are opened as the service
opens them.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from app import artifact
from app.engines import Engine, load_engine
from app.tokenizer import Ids, Tokenizer, pad

# Before it is measured an engine answers a tenth of the texts.
WARM_UP_PARTS = 10


@dataclass(frozen=True, slots=True)
class Schedule:
    """How the cores are used: sessions side by side, threads in each, and texts in a forward pass."""

    sessions: int
    threads: int
    rows: int = 1

    def __str__(self) -> str:
        rows = "one text at a time" if self.rows == 1 else f"batches of {self.rows} of like length"
        sessions = f"{self.sessions} session{'s' * (self.sessions > 1)}"
        return f"{sessions} x {self.threads} thread{'s' * (self.threads > 1)}, {rows}"


class InFlight:
    """So many requests under way at most: what is answered is replaced by the next of the supply."""

    def __init__(self, supply: Iterator[Ids], count: int) -> None:
        self._supply = supply
        self._waiting = list(islice(supply, count))
        self._lock = threading.Lock()

    def take(self, rows: int) -> list[Ids]:
        """The oldest request and the `rows - 1` nearest to it in length; none when there are no more."""
        with self._lock:
            if not self._waiting:
                return []
            oldest = len(self._waiting[0])
            by_distance = sorted(
                range(len(self._waiting)), key=lambda index: (abs(len(self._waiting[index]) - oldest), index)
            )
            chosen = set(by_distance[:rows])
            taken = [self._waiting[index] for index in sorted(chosen)]
            self._waiting = [row for index, row in enumerate(self._waiting) if index not in chosen]
        return taken

    def answered(self, rows: int) -> None:
        """So many requests are over: as many others come."""
        with self._lock:
            self._waiting += islice(self._supply, rows)


def texts_per_second(
    passes: Sequence[Callable[[], int]], clock: Callable[[], float] = time.perf_counter
) -> float:
    """Run each of the passes in a thread of its own until it says that it did no text."""
    done, errors = [0] * len(passes), []
    started = clock()

    def work(number: int) -> None:
        try:
            while answered := passes[number]():
                done[number] += answered
        except Exception as error:  # a thread's error is lost unless it is carried out of it
            errors.append(error)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(len(passes))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return sum(done) / (clock() - started)


def main() -> None:
    """Measure one schedule."""
    order = json.load(sys.stdin)
    folder, schedule = Path(order["folder"]), Schedule(*order["schedule"])
    manifest = artifact.read(folder)
    build = next(one for one in manifest.builds if one.name == order["build"])
    tokenizer = Tokenizer(folder / artifact.TOKENIZER_FILE, manifest.tokenizer)
    supply = rows_of(order["texts"], lambda text: tokenizer.encode(text).input_ids, order["tokenize"])
    engines = [
        load_engine(build.engine, folder / build.file, schedule.threads) for _ in range(schedule.sessions)
    ]

    def logits(engine: Engine, rows: list[Ids]) -> int:
        return len(engine.logits(*pad(rows, manifest.tokenizer.pad_token_id))) if rows else 0

    def one_by_one(engine: Engine, own: Iterator[Ids]) -> Callable[[], int]:
        return lambda: logits(engine, list(islice(own, 1)))

    def batched(engine: Engine, in_flight: InFlight) -> Callable[[], int]:
        def one_pass() -> int:
            done = logits(engine, in_flight.take(schedule.rows))
            in_flight.answered(done)
            return done

        return one_pass

    def passes(count: int) -> list[Callable[[], int]]:
        rows = supply(count)
        if schedule.rows == 1:
            return [one_by_one(engine, rows()) for engine in engines]
        in_flight = InFlight(rows(), order["in_flight"])
        return [batched(engine, in_flight) for engine in engines]

    texts_per_second(passes(max(order["count"] // WARM_UP_PARTS, 1)))
    print(texts_per_second(passes(order["count"])))


def rows_of(
    texts: Sequence[str], encode: Callable[[str], Ids], tokenize: bool
) -> Callable[[int], Callable[[], Iterator[Ids]]]:
    """What gives the workers so many texts in turn: encoded as they are taken, or all of them beforehand.

    All workers together go through the texts once before any comes again.
    """
    encoded = [] if tokenize else [encode(text) for text in texts]

    def supply(count: int) -> Callable[[], Iterator[Ids]]:
        turn = islice(cycle(range(len(texts))), count)
        return lambda: (encode(texts[index]) if tokenize else encoded[index] for index in turn)

    return supply


if __name__ == "__main__":
    main()
