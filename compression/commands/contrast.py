"""Sentences in pairs of opposite sentiment, to train on: negated, contrasted, sarcastic.

Written from templates into a folder that `--data` reads like any other data set. `bertpress pairs` judges on
other sentences, none of which is among these.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="new folder for the data")
    parser.add_argument(
        "--pairs",
        type=int,
        default=8000,
        metavar="N",
        help="different pairs, two rows each; more repeat their templates more often (default: 8000)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another one writes others (default: 0)"
    )


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from compression import contrast

    rows = contrast.write(options.output, contrast.written(options.pairs, options.seed))
    print(f"{options.output}: {rows['train']:,} rows to train on, {rows['validation']:,} to validate on")
    return 0
