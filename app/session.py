"""An opened build on so many threads, and what its passes cost."""

from __future__ import annotations

from dataclasses import dataclass

from app.cost import CostModel
from app.engines import Engine


@dataclass(eq=False, slots=True)
class Session:
    """`threads` is how many cores one pass keeps busy; passes of one session may run at once.

    Rows are padded to a multiple of `length_step`, where the model reads as many tokens.
    """

    engine: Engine
    threads: int
    cost: CostModel
    length_step: int = 1
