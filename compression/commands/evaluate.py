"""A classifier, a build, a published version or a checkpoint judged on labelled texts.

Accuracy, F1 and AUC with 95 % intervals by the bootstrap, calibration, and, beside a teacher, what is
retained of its accuracy and how many labels changed. Judged on the test part, or on validation where there
is none; of a model with several heads each one for which the data have a column.
"""

from __future__ import annotations

import argparse

from compression.commands import stage
from compression.commands.options import (
    STANDARD_OUTPUT,
    add_data,
    add_json,
    add_slices,
    add_work,
    write_json,
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "--model",
        required=True,
        metavar="DIR_OR_HUB_ID",
        help="a classifier's folder or hub id, a build's folder, models/NAME/VERSION, or, of a training that "
        "is not done, its folder (the best weights so far) or a checkpoint in it",
    )
    parser.add_argument(
        "--teacher", metavar="DIR_OR_HUB_ID", help="judge it on the same texts, and the model against it"
    )
    add_data(parser)
    add_slices(parser)
    parser.add_argument(
        "--build",
        metavar="NAME",
        help="which build of a published version (default: its first)",
    )
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=256,
        metavar="N",
        help="tokens read of a text; a published version reads what its manifest says (default: 256)",
    )
    add_work(parser)
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from dataclasses import asdict

    from compression import api, console

    console.quiet()
    output = console.terminal(error=options.json == STANDARD_OUTPUT)
    with console.reports(output) as report:
        found = api.evaluate(
            options.model, options.teacher, options.build, report=report, **stage.common(options)
        )
    output.print(console.assessments(found))
    for each in found:
        if each.slices:
            output.print(console.kinds_of_texts(each))
    write_json([asdict(each) for each in found], options.json)
    return 0
