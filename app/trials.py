"""What passes of a session really take: called as background work, on cores that are held for it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from app.session import Session
from app.tokenizer import Ids

# Below this, the first pass of a shape, which allocates, is followed by a second that shows what it costs.
_SHORT_SECONDS = 0.03
_ROUND_SECONDS = 0.05


def pass_seconds(session: Session, ids: Ids, rows: int) -> float:
    """Seconds of one pass over so many rows of these ids; (T,)."""
    batch = np.tile(ids, (rows, 1))  # (B, T)
    mask = np.ones_like(batch)
    taken = []
    for _ in range(2):
        started = time.perf_counter()
        session.engine.logits(batch, mask)
        taken.append(time.perf_counter() - started)
        if taken[0] > _SHORT_SECONDS:
            break
    return min(taken)


def texts_per_second(session: Session, ids: Ids, rows: int, passes: int) -> float:
    """Texts a second while so many passes run at once for a moment."""
    batch = np.tile(ids, (rows, 1))
    mask = np.ones_like(batch)
    started = time.perf_counter()

    def work() -> int:
        done = 0
        while not done or time.perf_counter() - started < _ROUND_SECONDS:
            session.engine.logits(batch, mask)
            done += rows
        return done

    with ThreadPoolExecutor(passes, thread_name_prefix="bertpress-trial") as pool:
        texts = sum(future.result() for future in [pool.submit(work) for _ in range(passes)])
    return texts / (time.perf_counter() - started)
