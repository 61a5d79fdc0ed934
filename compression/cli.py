"""`bertpress`: the offline suite at a command line. A known error is one line and exit code 1."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from app.errors import BertpressError

_NEEDED = ("accelerate", "onnx", "onnxruntime", "pyarrow", "rich", "safetensors", "torch", "transformers")

# A log has no width of its own; the summary table needs this much.
_LOG_WIDTH = 150


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(arguments)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(  # noqa: T201
            f"bertpress: {', '.join(missing)} not installed; run: pip install 'bertpress[compress]'",
            file=sys.stderr,
        )
        return 1
    try:
        return int(options.run(options))
    except BertpressError as error:
        print(f"bertpress: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        print("bertpress: stopped; the same command goes on where it was", file=sys.stderr)  # noqa: T201
        return 130


def parser() -> argparse.ArgumentParser:
    """The options of every command."""
    options = argparse.ArgumentParser(prog="bertpress", description=__doc__)
    commands = options.add_subparsers(required=True, metavar="COMMAND")
    _add_compress(commands.add_parser("compress", help="from a classifier to published, verified variants"))
    _add_benchmark(
        commands.add_parser("benchmark", help="variants beside BERT-base and a linear model, in one run")
    )
    _add_pairs(
        commands.add_parser("pairs", help="variants on sentences minimally edited to the opposite sentiment")
    )
    return options


def _add_compress(parser: argparse.ArgumentParser) -> None:
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
    parser.set_defaults(run=_compress)


def _add_benchmark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models",
        type=Path,
        default=Path("models"),
        metavar="DIR",
        help="model repository (default: models)",
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="labelled data for accuracy and throughput; without it made-up ids of like length are timed",
    )
    parser.add_argument(
        "--rounds", type=int, default=15, metavar="N", help="timed calls per model and length (default: 15)"
    )
    parser.add_argument(
        "--texts", type=int, default=200, metavar="N", help="texts for throughput (default: 200)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to a file as well")
    parser.set_defaults(run=_benchmark)


def _add_pairs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models",
        type=Path,
        default=Path("models"),
        metavar="DIR",
        help="model repository (default: models)",
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="labelled data to fit the linear n-gram model on, which is then shown beside the variants",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores to a file as well")
    parser.set_defaults(run=_pairs)


def _compress(options: argparse.Namespace) -> int:
    from rich.console import Console

    from compression import console, pipeline, recipe
    from compression.data import DataSettings

    _quiet()
    chosen = recipe.named(recipe.load(options.recipe), options.name)
    request = pipeline.Request(
        recipe=recipe.with_torchscript(chosen) if options.torchscript else chosen,
        data=tuple(options.data),
        data_settings=DataSettings(
            text_column=options.text_column,
            label_column=options.label_column,
            label_names=tuple(options.labels.split(",")) if options.labels else None,
            limit_rows=options.limit_rows,
        ),
        unlabelled=options.unlabelled,
        teacher=options.teacher,
        backbone=options.backbone,
        repository=options.output,
        work=options.work,
    )
    output = Console()
    if not output.is_terminal:
        output = Console(width=_LOG_WIDTH)
    with console.reports(output) as report:
        outcome = pipeline.run(request, report)
    for dataset in outcome.datasets:
        output.print(console.data_line(dataset), highlight=False)
    output.print(console.summary(outcome.published))
    for reason in outcome.refused:
        print(f"bertpress: refused: {reason}", file=sys.stderr)  # noqa: T201
    return 1 if outcome.refused else 0


def _quiet() -> None:
    """Progress is ours to show: transformers' own bars and load reports would tear it."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _benchmark(options: argparse.Namespace) -> int:
    from compression.benchmark import main as benchmark

    _quiet()
    return benchmark(options.models, options.data, options.rounds, options.texts, options.json)


def _pairs(options: argparse.Namespace) -> int:
    from compression import pairs

    _quiet()
    return pairs.main(options.models, options.data, options.json)


if __name__ == "__main__":
    sys.exit(main())
