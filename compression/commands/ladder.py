"""What each step of the compression saves, from BERT-base to the smallest variant, in one run."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    option = parser.add_argument
    option(
        "--teacher",
        type=Path,
        required=True,
        metavar="DIR",
        help="the fp32 classifier the versions come from",
    )
    option("--data", required=True, metavar="PATH", help="labelled data; texts are drawn from the test part")
    option(
        "--models", type=Path, default=Path("models"), metavar="DIR", help="model repository (%(default)s)"
    )
    option(
        "--versions",
        nargs="+",
        default=[
            "sentiment-quality",
            "sentiment-balanced",
            "sentiment-fast",
            "sentiment-cascade",
            "sentiment-ngrams",
        ],
        metavar="NAME",
        help="models whose highest versions are the upper rungs, the slowest one first (%(default)s)",
    )
    option("--texts", type=int, default=500, metavar="N", help="how many texts (%(default)s)")
    option("--rounds", type=int, default=3, metavar="N", help="times over all texts (%(default)s)")
    option("--max-tokens", type=int, default=512, metavar="N", help="tokens the teacher reads (%(default)s)")
    option("--json", type=Path, metavar="FILE", help="write the figures to a file as well")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from compression import console
    from compression.ladder import Asked, main

    console.quiet()
    asked = Asked(
        models=options.models,
        teacher=options.teacher,
        data=options.data,
        versions=tuple(options.versions),
        texts=options.texts,
        rounds=options.rounds,
        max_tokens=options.max_tokens,
    )
    return main(asked, options.json)
