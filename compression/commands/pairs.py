"""Variants on sentences minimally edited to the opposite sentiment."""

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
        help="model repository (default: models)",
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="labelled data to fit the linear n-gram model on, which is then shown beside the variants",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores to a file as well")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from compression import console, pairs

    console.quiet()
    return pairs.main(options.models, options.data, options.json)
