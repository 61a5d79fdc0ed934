"""What an engine gives with nothing before it: `loadtests.engine_ratio` runs this in a process of its own.

Standard input: JSON with folder, build, texts, schedule, tokenize, seconds and in_flight; standard output:
texts a second. Every worker takes the next of the requests in flight the moment it is free: there is no queue
to wait in, no protocol, no other thread. What is being computed is in flight as well: its place is free for
another request when it is answered. Sessions are opened as the service opens them.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

from app import artifact
from app.engines import Engine, load_engine
from app.tokenizer import Ids, Tokenizer, pad

WARM_UP_SECONDS = 0.5


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
    """A fixed number of requests under way: what is answered is replaced by the next of an endless supply."""

    def __init__(self, supply: Iterator[Ids], count: int) -> None:
        self._supply = supply
        self._waiting = [next(supply) for _ in range(count)]
        self._lock = threading.Lock()

    def take(self, rows: int) -> list[Ids]:
        """The oldest request and the `rows - 1` nearest to it in length."""
        with self._lock:
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
            self._waiting += [next(self._supply) for _ in range(rows)]


def texts_per_second(
    passes: Sequence[Callable[[], int]], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Run each of the passes over and over in a thread of its own; each says how many texts it did."""
    done, errors = [0] * len(passes), []
    started = clock()

    def work(number: int) -> None:
        try:
            while clock() - started < seconds:
                done[number] += passes[number]()
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
    in_flight = InFlight(supply(), order["in_flight"])

    def one_by_one(engine: Engine) -> Callable[[], int]:
        own = supply()
        return lambda: len(engine.logits(*pad([next(own)], manifest.tokenizer.pad_token_id)))

    def batched(engine: Engine) -> Callable[[], int]:
        def one_pass() -> int:
            done = len(engine.logits(*pad(in_flight.take(schedule.rows), manifest.tokenizer.pad_token_id)))
            in_flight.answered(done)
            return done

        return one_pass

    passes = [(one_by_one if schedule.rows == 1 else batched)(engine) for engine in engines]
    texts_per_second(passes, WARM_UP_SECONDS)
    print(texts_per_second(passes, order["seconds"]))


def rows_of(
    texts: Sequence[str], encode: Callable[[str], Ids], tokenize: bool
) -> Callable[[], Iterator[Ids]]:
    """What gives every worker the texts in turn: encoded as they are taken, or all of them beforehand.

    All workers together go through the texts once before any comes again.
    """
    turn = cycle(range(len(texts)))
    if tokenize:
        return lambda: (encode(texts[index]) for index in turn)
    encoded = [encode(text) for text in texts]
    return lambda: (encoded[index] for index in turn)


if __name__ == "__main__":
    main()
