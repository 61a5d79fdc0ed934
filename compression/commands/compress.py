"""From a classifier to published, verified variants."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from compression.commands.options import (
    add_data,
    add_slices,
    add_teacher,
    add_tracking,
    add_work,
    data_settings,
    trackers,
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    add_teacher(parser)
    add_data(parser)
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="model repository the versions are published in",
    )
    parser.add_argument(
        "--recipe",
        metavar="FILE_OR_NAME",
        help="TOML file, or a recipe that comes with bertpress (default: default)",
    )
    parser.add_argument(
        "--name", metavar="PREFIX", help="publish PREFIX-quality instead of quality, and so on"
    )
    parser.add_argument(
        "--torchscript", action="store_true", help="publish a TorchScript build beside the others"
    )
    add_slices(parser)
    add_tracking(parser)
    add_work(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from compression import console, pipeline, recipe
    from compression.reporting import report as report_file

    console.quiet()
    chosen = recipe.named(recipe.load(options.recipe), options.name)
    request = pipeline.Request(
        recipe=recipe.with_torchscript(chosen) if options.torchscript else chosen,
        data=tuple(options.data),
        data_settings=data_settings(options),
        unlabelled=options.unlabelled,
        teacher=options.teacher,
        backbone=options.backbone,
        repository=options.output,
        work=options.work,
        trackers=trackers(options),
    )
    output = console.terminal()
    with console.reports(output) as report:
        outcome = pipeline.run(request, report)
    for dataset in outcome.datasets:
        output.print(console.data_line(dataset), highlight=False)
    output.print(console.summary(outcome.published))
    if outcome.context is not None:
        output.print(f"report: {report_file.tell(outcome, outcome.context)}", highlight=False, soft_wrap=True)
    for reason in outcome.refused:
        print(f"bertpress: refused: {reason}", file=sys.stderr)
    return 1 if outcome.refused else 0
