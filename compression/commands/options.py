"""Options that several commands have in common, and what becomes of them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from compression.data import DataSettings

STANDARD_OUTPUT = Path("-")


def add_teacher(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """The classifier everything is compared with, or the backbone it is made of."""
    source = parser.add_mutually_exclusive_group(required=required)
    source.add_argument(
        "--teacher", metavar="DIR_OR_HUB_ID", help="your fine-tuned classifier; its labels are kept"
    )
    source.add_argument(
        "--backbone", metavar="DIR_OR_HUB_ID", help="no teacher yet: fine-tune this model first"
    )


def add_data(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """What is trained on and judged on."""
    parser.add_argument(
        "--data",
        required=required,
        action="append",
        metavar="PATH",
        help="Parquet/CSV/TSV/JSONL file, a folder of them named after their split (train, validation, "
        "test, unsupervised), aclImdb/, or a hub name; given again, all are trained on and judged each by "
        "itself",
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


def add_slices(parser: argparse.ArgumentParser) -> None:
    """Which kinds of texts are judged by themselves."""
    parser.add_argument(
        "--slice",
        action="append",
        default=[],
        metavar="NAME",
        help="a column (a rating, a source) whose values are judged each by itself as well; nothing learns "
        "it; may be repeated",
    )


def data_settings(options: argparse.Namespace) -> DataSettings:
    """How the data are read, from the options of `add_data`."""
    from compression.data import DataSettings

    return DataSettings(
        text_column=options.text_column,
        label_column=options.label_column,
        label_names=tuple(options.labels.split(",")) if options.labels else None,
        limit_rows=options.limit_rows,
        further_columns=tuple(options.head),
        slice_columns=tuple(options.slice) if "slice" in options else (),
    )


def add_work(parser: argparse.ArgumentParser) -> None:
    """Where a run keeps what it goes on from."""
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(".bertpress"),
        metavar="DIR",
        help="finished stages, checkpoints and caches; a run goes on from there (default: .bertpress)",
    )


def add_tracking(parser: argparse.ArgumentParser) -> None:
    """Who is told of a training's figures."""
    parser.add_argument(
        "--track",
        action="append",
        default=[],
        metavar="NAMES",
        help="tell wandb, tensorboard or mlflow (or several, with commas) of every training's figures as "
        "well; they are in the work folder's metrics.jsonl files anyway",
    )


def trackers(options: argparse.Namespace) -> tuple[str, ...]:
    """The names given to `--track`, each once."""
    given = [name.strip() for names in options.track for name in names.split(",")]
    return tuple(dict.fromkeys(name for name in given if name))


def add_json(parser: argparse.ArgumentParser) -> None:
    """The result for a script."""
    parser.add_argument(
        "--json",
        type=writable,
        nargs="?",
        const=STANDARD_OUTPUT,
        metavar="FILE",
        help="write the result as JSON to a file; without a name to standard output, and what a person reads "
        "to standard error",
    )


def writable(text: str) -> Path:
    """A file to be written at the end, refused at once where it cannot be."""
    path = Path(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{path.parent} is not a folder; make it first")
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; name a file")
    return path


def write_json(value: Any, file: Path | None) -> None:
    """Write a result where `--json` asks for it."""
    if file is None:
        return
    body = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    if file == STANDARD_OUTPUT:
        sys.stdout.write(body)
    else:
        file.write_text(body, encoding="utf-8")
