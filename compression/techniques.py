"""What each technique gives by itself: every arm of the recipe `techniques` trained and judged in one run.

All arms start from one teacher and see the same few texts as often, so that what differs between two of them
is the technique. Few texts and few epochs: the figures rank techniques where there is little of both, they do
not say what a technique can give at its best.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from compression import builds, judged, pipeline, recipe
from compression.assessment import Figure
from compression.data import DataSettings
from compression.markdown import table as markdown_table
from compression.pipeline import Request
from compression.recipe import TEACHER
from compression.stages.base import Input
from compression.training import Report

RECIPE = "techniques"
# What a row of the table says of a stage of the recipe; in the order of the table.
ARMS: Mapping[str, str] = {
    TEACHER: "the teacher, fp32",
    "student": "half of its layers, untaught",
    "true-labels": "half of its layers, true labels alone",
    "soft-labels": "half of its layers, soft labels, T = 2, and 0.3 times true ones",
    "hidden-states": "the same and the cosine of hidden states (DistilBERT)",
    "tinybert": "embeddings, states and attention first, then soft labels (TinyBERT)",
    "minilm": "soft labels and relations of queries, keys and values (MiniLMv2)",
    "two-teachers": "soft labels of teacher and linear model, 7 : 3",
    "unlabelled": "soft labels on as many unlabelled texts again",
    "averaged-weights": "soft labels, averaged weights (0.99)",
    "slower-lower-layers": "soft labels, each layer learns 0.8 times as fast as the one above",
    "pruned-raw": "half of the heads, three fifths of the neurons gone (Taylor), nothing learned after",
    "pruned-taylor": "the same, one epoch after",
    "pruned-magnitude": "the same by magnitude, one epoch after",
    "pruned-gates": "the same by learned gates, one epoch after",
    "fewer-layers": "half of the layers gone by importance, one epoch after",
    "narrower": "half of the hidden width gone, one epoch after",
    "sparse-magnitude": "70 % of the weights zero by magnitude, one epoch",
    "sparse-movement": "70 % of the weights zero by movement, one epoch",
    "hybrid": "heads and neurons gone, then 70 % of the rest zero",
    "fewer-tokens": "tokens fall away layer by layer to a quarter, one epoch",
    "token-thresholds": "each layer learns which tokens go on, one epoch",
    "early-exit": "exits after layers 2 and 4, where sure",
    "patient-exit": "exits after layers 2, 3 and 4, by patience",
    "fewer-words": "12,500 vocabulary rows of 30,522, nothing learned after",
    "int8": "soft labels, static int8",
    "int4": "soft labels, weights in 4 bits",
    "aware": "soft labels, then rounding while it learns, judged in fp32",
    "aware-int8": "the same in static int8",
}


@dataclass(frozen=True)
class Arm:
    """One row: `seconds` is what its own stage took, `size_bytes` what its weights take on disk."""

    name: str
    what: str
    accuracy: Figure
    retained: float
    seconds: float
    size_bytes: int


@dataclass(frozen=True)
class Found:
    """All rows, how many texts each was judged on, and what could not be made."""

    rows: int
    arms: tuple[Arm, ...]
    refused: tuple[str, ...]


def measure(
    teacher: str, data: Sequence[str], settings: DataSettings, work: Path, report: Callable[[str], Report]
) -> Found:
    """Carry the recipe out, going on where an earlier run stopped, and judge every arm on the test part.

    Raises:
        CompressionError: what is there cannot be compressed.
    """
    request = Request(
        recipe=recipe.load(RECIPE),
        data=tuple(data),
        data_settings=settings,
        unlabelled=None,
        teacher=teacher,
        backbone=None,
        repository=work / "techniques",
        work=work,
    )
    # Without publishing, which would measure what the shipped models' tables show already.
    *_, last = ARMS
    outcome = pipeline.run_stages(*pipeline.start(request, report), until=last)
    arms: list[Arm] = []
    rows = 0
    for name, what in ARMS.items():
        if name not in outcome.results:
            continue
        source = judged.opened(str(outcome.results[name].folder), request.recipe.text, work)
        found, *_ = judged.assessed(source, outcome.datasets[0], work, report)
        rows = found.n
        base = arms[0].accuracy.value if arms else found.accuracy.value
        arms.append(_arm(name, what, found.accuracy, found.accuracy.value / base, outcome.results[name]))
    return Found(rows, tuple(arms), outcome.refused)


def _arm(name: str, what: str, accuracy: Figure, retained: float, result: Input) -> Arm:
    seconds = 0.0 if name == TEACHER else pipeline.seconds_of(result.folder)
    return Arm(name, what, accuracy, retained, seconds, _size(result.folder))


def _size(folder: Path) -> int:
    if (folder / builds.FILE).is_file():
        return builds.read(folder).size_bytes(folder)
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def table(found: Found) -> Table:
    """For a terminal."""
    shown = Table(title=f"each technique by itself, judged on {found.rows:,} texts")
    for column in _COLUMNS:
        shown.add_column(column, justify="left" if column in ("technique", "arm") else "right")
    for arm in found.arms:
        shown.add_row(*_cells(arm))
    return shown


def markdown(found: Found) -> str:
    """For a page."""
    body = markdown_table(_COLUMNS, map(_cells, found.arms))
    refused = "".join(f"\nNot made: {why}.\n" for why in found.refused)
    return f"{body}\n\nJudged on {found.rows:,} texts.\n{refused}"


def document(found: Found) -> dict[str, Any]:
    """For a script."""
    return {"date": datetime.now(UTC).date().isoformat(), **asdict(found)}


def show(found: Found, console: Console) -> None:
    """Print the table and what was refused."""
    console.print(table(found))
    for why in found.refused:
        console.print(f"not made: {why}")


_COLUMNS = ["arm", "technique", "accuracy (95 %)", "retained", "weights", "made in"]


def _cells(arm: Arm) -> list[str]:
    return [
        arm.name,
        arm.what,
        f"{arm.accuracy.value:.2%} ({arm.accuracy.low:.2%} to {arm.accuracy.high:.2%})",
        f"{arm.retained:.1%}",
        f"{arm.size_bytes / 1e6:.1f} MB",
        f"{arm.seconds:.0f} s" if arm.seconds else "-",
    ]
