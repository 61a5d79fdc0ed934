"""From a classifier to published, verified variants."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--teacher", metavar="DIR_OR_HUB_ID", help="your fine-tuned classifier; its labels are kept"
    )
    source.add_argument(
        "--backbone", metavar="DIR_OR_HUB_ID", help="no teacher yet: fine-tune this model first"
    )
    parser.add_argument(
        "--data",
        required=True,
        action="append",
        metavar="PATH",
        help="Parquet/CSV/TSV/JSONL file, a folder of them named after their split (train, validation, "
        "test, unsupervised), aclImdb/, or a hub name; given again, all are trained on and judged each by "
        "itself",
    )
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
        "--unlabelled", metavar="FILE", help="more texts, without labels, for the student to learn from"
    )
    parser.add_argument(
        "--text-column", default="text", metavar="NAME", help="column of the texts (default: text)"
    )
    parser.add_argument(
        "--label-column", default="label", metavar="NAME", help="column of the labels (default: label)"
    )
    parser.add_argument(
        "--head",
        action="append",
        default=[],
        metavar="NAME",
        help="another column of labels, such as a rating, that the same encoder answers beside the first; "
        "may be repeated; a --teacher brings its own",
    )
    parser.add_argument("--labels", metavar="A,B,...", help="names of the classes in order, with --backbone")
    parser.add_argument(
        "--limit-rows", type=int, metavar="N", help="at most so many rows of each split: a quick trial"
    )
    parser.add_argument(
        "--torchscript", action="store_true", help="publish a TorchScript build beside the others"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(".bertpress"),
        metavar="DIR",
        help="finished stages, checkpoints and caches; a run goes on from there (default: .bertpress)",
    )


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from compression import console, pipeline, recipe
    from compression.data import DataSettings

    console.quiet()
    chosen = recipe.named(recipe.load(options.recipe), options.name)
    request = pipeline.Request(
        recipe=recipe.with_torchscript(chosen) if options.torchscript else chosen,
        data=tuple(options.data),
        data_settings=DataSettings(
            text_column=options.text_column,
            label_column=options.label_column,
            label_names=tuple(options.labels.split(",")) if options.labels else None,
            limit_rows=options.limit_rows,
            further_columns=tuple(options.head),
        ),
        unlabelled=options.unlabelled,
        teacher=options.teacher,
        backbone=options.backbone,
        repository=options.output,
        work=options.work,
    )
    output = console.terminal()
    with console.reports(output) as report:
        outcome = pipeline.run(request, report)
    for dataset in outcome.datasets:
        output.print(console.data_line(dataset), highlight=False)
    output.print(console.summary(outcome.published))
    for reason in outcome.refused:
        print(f"bertpress: refused: {reason}", file=sys.stderr)
    return 1 if outcome.refused else 0
