"""The frontier as a picture: what quality costs, every trial a point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_GREY, _BLUE, _ORANGE = "#b8bcc2", "#1f5fa8", "#d9730d"
_COSTS = ("latency", "size", "memory", "energy")


def draw(told: Mapping[str, Any], path: Path) -> None:
    """Draw what `outcome.as_json` told; the ending of the file name decides the format.

    One panel for each cost that was named (latency and size where none was), quality upwards: retention
    unless accuracy alone was named.
    """
    named = [name for name in _COSTS if name in told["axes"]] or ["latency", "size"]
    quality = "accuracy" if "accuracy" in told["axes"] and "retention" not in told["axes"] else "retention"
    figure = Figure(figsize=(6.4 * len(named), 5.2), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(named), squeeze=False, sharey=True)[0]
    for panel, cost in zip(panels, named, strict=True):
        _panel(panel, told, cost, quality)
    panels[0].set_ylabel(f"{quality} on validation (%)")
    panels[0].legend(loc="lower left", frameon=False, fontsize=9)
    figure.suptitle(str(told["goals"]), fontsize=11)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def _panel(panel: Axes, told: Mapping[str, Any], cost: str, quality: str) -> None:
    full = [entry for entry in told["full"] if entry["values"]]
    frontier = sorted((e for e in full if e["on_frontier"]), key=lambda entry: _cost(entry, cost))
    groups = (
        ([e for e in told["cheap"] if e["values"]], "cheap trials", _GREY, "o", 22),
        ([e for e in full if not e["on_frontier"]], "trained in full", _ORANGE, "D", 34),
        (frontier, "frontier", _BLUE, "o", 60),
    )
    for entries, label, color, marker, size in groups:
        panel.scatter(
            [_cost(entry, cost) for entry in entries],
            [100 * entry["values"][quality] for entry in entries],
            s=size,
            c=color,
            marker=marker,
            label=f"{label} ({len(entries)})",
            zorder=3 if color == _BLUE else 2,
            edgecolors="white",
            linewidths=0.6,
        )
    _stairs(panel, frontier, cost, quality)
    _names(panel, frontier, cost, quality)
    if cost == "latency":
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panel.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if _first_digit(value) in "235" else "")
        panel.set_xlabel(f"times faster than BERT-base ({_how(full)})")
    else:
        panel.set_xlabel(
            {"size": "size of all files (MB)", "memory": "peak memory (MB)"}.get(cost, "J per 1,000")
        )
        panel.invert_xaxis()
    panel.grid(color="#e6e8eb", linewidth=0.7, which="both" if cost == "latency" else "major")
    panel.set_axisbelow(True)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)
    _view(panel, full, quality)


def _cost(entry: Mapping[str, Any], cost: str) -> float:
    """To the right is cheaper: times faster, or megabytes on an axis that runs backwards."""
    value = float(entry["values"][cost])
    if cost == "latency":
        return 1 / value
    return value / 1e6 if cost in ("size", "memory") else value


def _stairs(panel: Axes, frontier: Sequence[Mapping[str, Any]], cost: str, quality: str) -> None:
    """The best quality to be had at each cost: with more than two axes the frontier alone is a cloud."""
    ordered = sorted(frontier, key=lambda e: _cost(e, cost), reverse=cost == "latency")
    best, corners = 0.0, []
    for entry in ordered:
        value = 100 * entry["values"][quality]
        if value > best:
            corners.append((_cost(entry, cost), value))
            best = value
    if corners:
        panel.step(*zip(*corners, strict=True), where="post", color=_BLUE, linewidth=1.2, alpha=0.6, zorder=1)


def _names(panel: Axes, frontier: Sequence[Mapping[str, Any]], cost: str, quality: str) -> None:
    """The version's number beside its point."""
    for entry in frontier:
        if entry["version"]:
            panel.annotate(
                str(entry["version"]).rpartition("/")[2],
                (_cost(entry, cost), 100 * entry["values"][quality]),
                xytext=(5, 5),
                textcoords="offset points",
                fontsize=8,
                color=_BLUE,
            )


def _view(panel: Axes, full: Sequence[Mapping[str, Any]], quality: str) -> None:
    """What was trained in full fills the picture; cheap trials far below are cut off."""
    values = [100 * entry["values"][quality] for entry in full]
    if values:
        margin = max(0.5, 0.15 * (max(values) - min(values)))
        panel.set_ylim(min(values) - margin, max(values) + margin)


def _how(full: Sequence[Mapping[str, Any]]) -> str:
    return str(full[0]["values"].get("latency_source", "measured")) if full else "measured"


def _first_digit(value: float) -> str:
    return f"{value:e}"[0]
