"""A cascade of published versions: cheap tiers first, thresholds fitted for a floor of accuracy.

Every text is answered by the first tier that is sure enough of it. The thresholds are the cheapest that hold
the floor on the validation part of the data (carved out of the training part where there is none, the same
rows that `compress` holds out); the test part, where there is one, judges the result. The cascade is
published beside its tiers, which it names by version and checksum and does not copy.
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
        help="model repository of the tiers and of the cascade (default: models)",
    )
    parser.add_argument(
        "--tier",
        required=True,
        action="append",
        metavar="NAME[/VERSION]",
        help="a published version, the newest where none is named; given again, the cheapest first",
    )
    parser.add_argument(
        "--data",
        required=True,
        action="append",
        metavar="PATH",
        help="labelled data as for `compress`; given again, the thresholds hold for all of it together",
    )
    floor = parser.add_mutually_exclusive_group(required=True)
    floor.add_argument(
        "--accuracy", type=_share, metavar="SHARE", help="accuracy to hold on validation, such as 0.92"
    )
    floor.add_argument(
        "--retention", type=_share, metavar="SHARE", help="share of the last tier's accuracy to hold"
    )
    parser.add_argument(
        "--name", default="cascade", help="what it is published as (default: cascade)", metavar="NAME"
    )
    parser.add_argument("--description", default="", metavar="TEXT", help="a line for the manifest")
    parser.add_argument(
        "--text-column", default="text", metavar="NAME", help="column of the texts (default: text)"
    )
    parser.add_argument(
        "--label-column", default="label", metavar="NAME", help="column of the labels (default: label)"
    )
    parser.add_argument(
        "--limit-rows", type=int, metavar="N", help="at most so many rows of each split: a quick trial"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the manifest to a file as well")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from pydantic import ValidationError

    from app.errors import RecipeError
    from compression import console
    from compression.cascade.publishing import CascadeRequest, make
    from compression.cascade.table import table
    from compression.data import DataSettings

    console.quiet()
    try:
        request = CascadeRequest(
            repository=options.models,
            tiers=tuple(options.tier),
            data=tuple(options.data),
            name=options.name,
            accuracy_floor=options.accuracy,
            retention_floor=options.retention,
            description=options.description,
        )
    except ValidationError as error:
        raise RecipeError(f"--name {options.name[:100]!r}: {error.errors()[0]['msg']}") from error
    settings = DataSettings(
        text_column=options.text_column, label_column=options.label_column, limit_rows=options.limit_rows
    )
    output = console.terminal()
    with console.reports(output) as report:
        published = make(request, settings, report)
    output.print(table(published.manifest))
    output.print(f"published as {published.folder}", highlight=False, soft_wrap=True)
    if options.json is not None:
        options.json.write_text(published.manifest.model_dump_json(indent=2), encoding="utf-8")
    return 0


def _share(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share between 0 and 1")
    return value
