"""Latencies measured on one machine, as a search for its CPU reads them.

`bertpress cost-table` writes them; the table that `bertpress benchmark engine --json` writes of published
builds is read as well.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field, ValidationError

from app.errors import SearchError
from compression import baseline
from compression.engine_benchmark import EngineTable, Entry
from compression.search.work import TOKENS, Shape
from compression.settings import Settings


class MeasuredCost(Settings):
    """One build's latency, as a share of what BERT-base took in the same minute."""

    build: str
    hidden_size: int = Field(ge=1)
    attention: tuple[int, ...]
    ffn: tuple[int, ...]
    tokens: int = Field(ge=1)
    share: float = Field(gt=0)

    @property
    def shape(self) -> Shape:
        """The shape that was measured."""
        return Shape(self.hidden_size, self.attention, self.ffn)


class CostTable(Settings):
    """What was measured on one machine."""

    cpu: str
    features: tuple[str, ...]
    threads: int = Field(ge=1)
    runtime: str
    measured_on: str
    baseline_ms: float = Field(gt=0)
    costs: tuple[MeasuredCost, ...] = Field(min_length=1)


def read(path: Path) -> CostTable:
    """Open a table of either kind.

    Raises:
        SearchError: it cannot be read, is neither, or lacks what a search needs.
    """
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(written, dict) and "entries" in written:
            return of_engine_table(EngineTable.model_validate(written), path)
        return CostTable.model_validate(written)
    except OSError as error:
        raise SearchError(f"{path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise SearchError(f"{path} is no cost table: {where}: {problem['msg']}") from error
    except ValueError as error:
        raise SearchError(f"{path} is not valid JSON: {error}") from error


def of_engine_table(table: EngineTable, source: Path) -> CostTable:
    """The ONNX builds of a table as shares of BERT-base's time in the same run.

    Raises:
        SearchError: BERT-base is not in it, it has no ONNX build of a known shape, or another length of text.
    """
    base = next((entry for entry in table.entries if entry.model == baseline.NAME), None)
    if base is None:
        raise SearchError(f"{source} has no {baseline.NAME} to compare with; measure without --no-baseline")
    baseline_ms = _median_ms(base, source)
    costs = tuple(
        MeasuredCost(
            build=entry.build,
            hidden_size=entry.shape.hidden_size,
            attention=entry.shape.attention,
            ffn=entry.shape.ffn,
            tokens=TOKENS,
            share=_median_ms(entry, source) / baseline_ms,
        )
        for entry in table.entries
        if entry.shape is not None and entry.engine == "onnx"
    )
    if not costs:
        raise SearchError(
            f"{source} has no ONNX build whose shape it states; measure again with this bertpress, or take "
            "`bertpress cost-table`"
        )
    return CostTable(
        cpu=table.cpu,
        features=table.cpu_features,
        threads=table.threads,
        runtime=table.runtime,
        measured_on=table.measured_on,
        baseline_ms=baseline_ms,
        costs=costs,
    )


def _median_ms(entry: Entry, source: Path) -> float:
    for point in entry.latency:
        if point.tokens == TOKENS:
            return point.median_ms
    measured = ", ".join(str(point.tokens) for point in entry.latency)
    raise SearchError(f"{source} was measured at {measured} tokens; a search needs --tokens {TOKENS}")
