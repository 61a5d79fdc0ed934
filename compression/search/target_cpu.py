"""The CPU a search is for, when it is not this one: what it can, and how long it would take.

`--for-cpu FILE` reads a table of costs measured on that machine by `bertpress cost-table`: latencies of
builds of several shapes beside BERT-base's. For each kind of build a linear model (a constant, layers, dense
and attention multiply-adds, no coefficient below 0) is fitted to the shares of BERT-base's time and asked
about shapes that were not measured. The table that `bertpress benchmark engine --json` wrote there is read as
well; it holds published builds alone. Of a kind of build that fewer than four shapes were measured of, the
roofline below is asked, times the median of what was measured over what it says of those.

`--for-cpu NAME` (or NAME:CORES) has no measurement behind it, and every figure says so. A roofline stands in:

    dense / (cores * rate) + attention / (cores * fp32 rate) + weight bytes / bandwidth + layers * overhead

with `rate` the multiply-adds a core's vector or tile units can start each cycle times 2.5 GHz and one half
(half of the peak is what small matrices reach), 10 GB/s of memory bandwidth a core, and 0.03 ms a layer. It
knows which instructions a CPU has, so it puts VNNI before AVX2 and int8 before fp32; it does not know caches,
clocks or other tenants. Source of the form: Williams, Waterman, Patterson 2009, Roofline.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from app.errors import SearchError
from app.hardware import FEATURES
from compression.search import cost_table
from compression.search.cost_table import CostTable, MeasuredCost
from compression.search.work import BERT_BASE, Shape, Work, work

_GIGAHERTZ, _EFFICIENCY = 2.5, 0.5
_BYTES_PER_SECOND_AND_CORE = 10e9
_LAYER_SECONDS = 3e-5

# Multiply-adds a core can start each cycle: two units of so many lanes; tiles for AMX.
_FP32_PER_CYCLE = {"avx2": 16, "avx512": 32}
_INT8_PER_CYCLE = {"avx2": 32, "avx512": 64, "vnni": 128, "amx": 1024}

KNOWN: Mapping[str, tuple[str, ...]] = {
    "haswell": ("avx2",),
    "milan": ("avx2",),
    "skylake": ("avx2", "avx512"),
    "cascade-lake": ("avx2", "avx512", "vnni"),
    "ice-lake": ("avx2", "avx512", "vnni"),
    "genoa": ("avx2", "avx512", "vnni", "bf16"),
    "sapphire-rapids": ("avx2", "avx512", "vnni", "bf16", "amx"),
}
_CORES = 2


@dataclass(frozen=True)
class Prediction:
    """Milliseconds of a build and of BERT-base, and where they come from."""

    build_ms: float
    baseline_ms: float
    source: str

    @property
    def share(self) -> float:
        """What is optimised."""
        return self.build_ms / self.baseline_ms


@dataclass(frozen=True)
class TargetCpu:
    """A CPU by its features; with a table where it was measured."""

    name: str
    features: frozenset[str]
    cores: int
    table: CostTable | None = None

    @property
    def source(self) -> str:
        """How its figures are found, in one line."""
        if self.table is None:
            return f"estimated for {self.name}, {self.cores} cores; not measured"
        return f"predicted from measurements on {self.table.cpu}, {self.table.threads} threads"

    def predict(self, shape: Shape, build: str, tokens: int) -> Prediction:
        """How long a build of a shape takes there for one text.

        Raises:
            SearchError: the table has no measurement of such builds.
        """
        if self.table is not None:
            return self._from_table(self.table, shape, build, tokens)
        base = self._roofline(work(BERT_BASE, tokens, whole_last_layer=True), "fp32")
        return Prediction(self._roofline(work(shape, tokens), build), base, self.source)

    def _from_table(self, table: CostTable, shape: Shape, build: str, tokens: int) -> Prediction:
        measured = [cost for cost in table.costs if (cost.build, cost.tokens) == (build, tokens)]
        base = table.baseline_ms
        if not measured:
            known = ", ".join(sorted({f"{cost.build} at {cost.tokens} tokens" for cost in table.costs}))
            raise SearchError(
                f"the table of {table.cpu} has no measurement of {build} at {tokens} tokens; it has {known}"
            )
        if len(measured) >= len(work(shape, tokens).terms):
            return Prediction(_fitted(measured, shape, tokens) * base, base, self.source)
        over = statistics.median(
            cost.share * base / self._roofline(work(cost.shape, tokens), build) for cost in measured
        )
        scaled = f"a roofline scaled to {len(measured)} measurements on {table.cpu}, {table.threads} threads"
        return Prediction(over * self._roofline(work(shape, tokens), build), base, scaled)

    @property
    def builds(self) -> frozenset[str] | None:
        """Kinds of builds it can say something of; None for all."""
        return None if self.table is None else frozenset(cost.build for cost in self.table.costs)

    def _roofline(self, done: Work, build: str) -> float:
        """Milliseconds by the formula of the module; weight-only builds compute in fp32."""
        computes_int8 = "int8" in build and "weight-only" not in build
        per_second = self.cores * _GIGAHERTZ * 1e9 * _EFFICIENCY
        fp32 = per_second * self._best(_FP32_PER_CYCLE, 8)
        dense = per_second * self._best(_INT8_PER_CYCLE, 8) if computes_int8 else fp32
        bytes_per_weight = 4.0 if "fp32" in build else 0.5 if "int4" in build else 1.0
        reading = done.weights * bytes_per_weight / (self.cores * _BYTES_PER_SECOND_AND_CORE)
        return 1e3 * (done.dense / dense + done.attention / fp32 + reading + done.layers * _LAYER_SECONDS)

    def _best(self, rates: Mapping[str, int], otherwise: int) -> int:
        return max((rate for name, rate in rates.items() if name in self.features), default=otherwise)


def target(written: str) -> TargetCpu:
    """The CPU of a name (`genoa`, `haswell:4`) or of a cost table's file.

    Raises:
        SearchError: neither of both, or a table that cannot be read.
    """
    if written.endswith(".json"):
        return _of_table(Path(written))
    name, _, cores = written.lower().partition(":")
    if name not in KNOWN or not (cores.isdigit() or not cores) or cores == "0":
        known = ", ".join(KNOWN)
        raise SearchError(
            f"--for-cpu {written[:60]!r}: expected one of {known}, with :CORES behind it if not {_CORES}, or "
            "the .json file that `bertpress cost-table` or `bertpress benchmark engine` wrote on that machine"
        )
    return TargetCpu(name, frozenset(KNOWN[name]), int(cores) if cores else _CORES)


def _of_table(path: Path) -> TargetCpu:
    table = cost_table.read(path)
    unknown = sorted(set(table.features) - set(FEATURES))
    if unknown:
        raise SearchError(
            f"{path}: unknown CPU feature {unknown[0]!r}; expected some of {', '.join(FEATURES)}"
        )
    return TargetCpu(table.cpu, frozenset(table.features), table.threads, table)


def _fitted(measured: Sequence[MeasuredCost], shape: Shape, tokens: int) -> float:
    """The share of BERT-base's time, by least squares over the relative errors."""
    return float(np.dot(_coefficients(measured), work(shape, tokens).terms))


def _coefficients(measured: Sequence[MeasuredCost]) -> npt.NDArray[np.float64]:
    rows = np.array([work(cost.shape, cost.tokens).terms for cost in measured])
    shares = np.array([cost.share for cost in measured])
    scale = np.abs(rows).max(0)
    # Divided by what was measured: a small build counts as much as a large one.
    solution, _ = nnls(rows / scale / shares[:, None], np.ones(len(shares)))
    return np.asarray(solution / scale, dtype=np.float64)
