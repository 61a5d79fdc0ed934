"""Sentences in pairs of opposite sentiment, to train on: negated, contrasted, sarcastic.

Pairs that were written one by one, and more from templates, in a folder that `--data` reads like any other
data set. `bertpress pairs` judges on other sentences, none of which is among these.
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
        help="pairs from templates beside those written one by one, two rows each; more repeat their "
        "templates more often (default: 8000)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="another one fills templates otherwise (default: 0)"
    )


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from compression import contrast

    chosen = [*contrast.collected(), *contrast.filled(options.pairs, options.seed)]
    rows = contrast.write(options.output, chosen)
    print(f"{options.output}: {rows['train']:,} rows to train on, {rows['validation']:,} to validate on")
    return 0
