"""What each technique gives by itself: every arm of the recipe `techniques` from one teacher, judged.

Some twenty trainings; a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse

from compression.commands.options import (
    STANDARD_OUTPUT,
    add_data,
    add_json,
    add_work,
    data_settings,
    writable,
    write_json,
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "--teacher", required=True, metavar="DIR_OR_HUB_ID", help="the classifier every arm starts from"
    )
    add_data(parser)
    parser.add_argument(
        "--markdown", type=writable, metavar="FILE", help="write the table as Markdown as well"
    )
    add_work(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from compression import console, techniques

    console.quiet()
    output = console.terminal(error=options.json == STANDARD_OUTPUT)
    with console.reports(output) as report:
        found = techniques.measure(
            options.teacher, options.data, data_settings(options), options.work, report
        )
    techniques.show(found, output)
    if options.markdown is not None:
        options.markdown.write_text(techniques.markdown(found), encoding="utf-8")
    write_json(techniques.document(found), options.json)
    return 0
