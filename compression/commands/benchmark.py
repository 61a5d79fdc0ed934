"""Variants beside BERT-base and a linear model, in one run.

With a sub-command, one part of bertpress beside other ways to do the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

from compression.commands import Command, engine, ladder, register, techniques, training

# A file of its own each; its options come after its name.
_PARTS: Mapping[str, Command] = {
    "engine": engine,
    "ladder": ladder,
    "techniques": techniques,
    "training": training,
}


def add(parser: argparse.ArgumentParser) -> None:
    """Its options, and its sub-commands."""
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
    if _PARTS:
        register(parser, _PARTS, required=False)


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from compression import console
    from compression.benchmark import main

    console.quiet()
    return main(options.models, options.data, options.rounds, options.texts, options.json)
