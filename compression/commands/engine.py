"""Latency, throughput, memory and energy of every published build, beside BERT-base, in one run.

All builds take turns; medians and 90th percentiles. `bertpress benchmark engine`.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "--models",
        type=Path,
        default=Path("models"),
        metavar="DIR",
        help="model repository (default: models)",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        nargs="+",
        default=[32, 128, 256],
        metavar="N",
        help="lengths of text (default: 32 128 256)",
    )
    parser.add_argument(
        "--rounds", type=int, default=15, metavar="N", help="timed calls of each (default: 15)"
    )
    parser.add_argument("--no-baseline", action="store_true", help="leave BERT-base out")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table to a file as well")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from rich.console import Console
    from rich.table import Table

    from compression import console, engine_benchmark

    console.quiet()
    found = engine_benchmark.measure(options.models, options.tokens, options.rounds, not options.no_baseline)
    table = Table(title="one text: median (90th percentile) ms; batches: rows a second")
    table.add_column("build")
    for name in (
        "size",
        *(f"{length} tokens" for length in options.tokens),
        *(f"16 x {length}" for length in options.tokens),
        "peak memory",
        "energy per 1,000",
    ):
        table.add_column(name, justify="right")
    for entry in found.entries:
        table.add_row(
            f"{entry.model} {entry.build}",
            f"{entry.size_bytes / 1e6:.1f} MB",
            *(f"{point.median_ms:.2f} ({point.p90_ms:.2f})" for point in entry.latency),
            *(f"{point.rows_per_second:.0f}/s" for point in entry.throughput),
            f"{entry.peak_resident_bytes / 1e6:.0f} MB",
            f"{entry.joules_per_1000:.1f} J ({'measured' if entry.energy_source == 'rapl' else 'estimated'})",
        )
    output = Console(width=190)
    output.print(table)
    features = ", ".join(found.cpu_features)
    output.print(f"{found.cpu} ({features}), {found.threads} threads, {found.measured_on}", highlight=False)
    if options.json is not None:
        engine_benchmark.write(found, options.json)
    return 0
