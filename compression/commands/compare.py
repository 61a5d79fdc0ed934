"""Recipes on one teacher and the same data in one table; or builds as several machines measured them.

  bertpress compare --teacher my-classifier/ --data reviews.csv --recipe distilbert --recipe default
  bertpress compare here.json server.json

Size, accuracy with its 95 % interval, what is retained of the teacher's accuracy, latency, memory, energy.
The teacher and a linear n-gram model are rows of every table. What an earlier run finished is not done
again; a recipe that fails is named below the table. Files are what `bertpress benchmark engine --json`
wrote, here or elsewhere, today or last month.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from compression.commands.options import (
    STANDARD_OUTPUT,
    add_data,
    add_json,
    add_teacher,
    add_tracking,
    add_work,
    data_settings,
    trackers,
    writable,
    write_json,
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "tables",
        nargs="*",
        type=Path,
        metavar="TABLE",
        help="tables of `bertpress benchmark engine --json` to be put side by side; nothing else is done",
    )
    add_teacher(parser, required=False)
    add_data(parser, required=False)
    parser.add_argument(
        "--recipe",
        action="append",
        metavar="FILE_OR_NAME",
        help="a recipe to compare, a TOML file or one that comes with bertpress; given again for each "
        "(default: distilbert, tinybert, mobilebert, default, and optimum where Optimum is installed)",
    )
    parser.add_argument(
        "--optimum-python",
        metavar="FILE",
        help="interpreter that has bertpress[compress,optimum]: Optimum's row is made with it",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder that gets a model repository for each recipe (default: compared/ in --work)",
    )
    parser.add_argument(
        "--rounds", type=int, default=15, metavar="N", help="timed calls per model and length (default: 15)"
    )
    parser.add_argument(
        "--texts", type=int, default=200, metavar="N", help="texts for throughput (default: 200)"
    )
    parser.add_argument(
        "--markdown", type=writable, metavar="FILE", help="write the table as Markdown as well"
    )
    add_tracking(parser)
    add_work(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    _check(options)
    return _tables(options) if options.tables else _recipes(options)


def _check(options: argparse.Namespace) -> None:
    """Raises CompressionError where it is neither of the two."""
    from app.errors import CompressionError

    source = options.teacher or options.backbone
    if options.tables and (source or options.data or options.recipe):
        raise CompressionError(
            f"{options.tables[0]} is a table to be shown; recipes are compared without one, by "
            "--teacher or --backbone, --data and --recipe"
        )
    if not options.tables and not (source and options.data):
        raise CompressionError(
            "give a --teacher or a --backbone, and --data, to compare recipes; or tables that `bertpress "
            "benchmark engine --json` wrote"
        )


def _tables(options: argparse.Namespace) -> int:
    from compression import console, engine_benchmark, engine_comparison

    output = console.terminal(error=options.json == STANDARD_OUTPUT)
    found = [engine_benchmark.read(path) for path in options.tables]
    output.print(engine_comparison.table(found))
    if options.markdown is not None:
        options.markdown.write_text(engine_comparison.markdown(found), encoding="utf-8")
    write_json([each.model_dump(mode="json") for each in found], options.json)
    return 0


def _recipes(options: argparse.Namespace) -> int:
    from compression import comparison, comparison_report, console, recipe
    from compression.pipeline import Request

    console.quiet()
    output = console.terminal(error=options.json == STANDARD_OUTPUT)
    python = options.optimum_python
    recipes = comparison.recipes_of(options.recipe or comparison.default_recipes(python), python)
    request = Request(
        recipe=recipe.load(None),
        data=tuple(options.data),
        data_settings=data_settings(options),
        unlabelled=options.unlabelled,
        teacher=options.teacher,
        backbone=options.backbone,
        repository=options.output or options.work / "compared",
        work=options.work,
        trackers=trackers(options),
    )
    with console.reports(output) as report:
        found = comparison.compare(request, recipes, report, options.rounds, options.texts)
    output.print(comparison_report.table(found))
    for reason in found.refused:
        print(f"bertpress: refused: {reason}", file=sys.stderr)
    if options.markdown is not None:
        options.markdown.write_text(comparison_report.markdown(found), encoding="utf-8")
    write_json(comparison_report.listed(found), options.json)
    return 1 if found.refused else 0
