"""A cascade told to a person."""

from __future__ import annotations

from rich.table import Table

from app.artifact import CascadeFigures, CascadeManifest


def table(manifest: CascadeManifest) -> Table:
    """A row for each tier and one for the whole, on the rows it was fitted on and on each test part."""
    shown = Table(title=f"{manifest.name}/{manifest.version}: floor {manifest.floor.accuracy:.2%}")
    shown.add_column("tier")
    columns = ["its answer stands from", "ms a text"]
    for figures in (manifest.fitted, *manifest.quality):
        columns += [f"{figures.dataset} {figures.split}: share", "accuracy"]
    for column in columns:
        shown.add_column(column, justify="right")
    every = (manifest.fitted, *manifest.quality)
    for index, tier in enumerate(manifest.tiers):
        cells = [f"{tier.name}/{tier.version}", "-" if tier.threshold is None else f"{tier.threshold:.4f}"]
        cells.append(f"{tier.cost_ms:.2f}")
        for figures in every:
            cells += [f"{figures.shares[index]:.1%}", f"{figures.alone[index]:.2%} alone"]
        shown.add_row(*cells)
    whole = ["cascade", "", f"{manifest.fitted.cost_ms:.2f}"]
    for figures in every:
        whole += [f"{figures.cost_ms:.2f} ms", _accuracy(figures)]
    shown.add_section()
    shown.add_row(*whole)
    return shown


def _accuracy(figures: CascadeFigures) -> str:
    low, high = figures.accuracy_interval_95
    return f"{figures.accuracy:.2%} ({low:.2%} to {high:.2%})"
