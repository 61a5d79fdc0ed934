"""A run as one HTML file: what was published, what each stage did, where student and teacher disagree.

`bertpress compress` writes it at its end, into its --work folder; this writes it again.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "run_folder", type=Path, metavar="RUN", help="the --work folder of a run, .bertpress say"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where to write it (default: RUN/report.html)"
    )
    parser.add_argument(
        "--text-characters",
        type=int,
        default=240,
        metavar="N",
        help="most characters shown of a text that is not yours to show (default: 240)",
    )


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from compression.reporting import report

    print(report.write(options.run_folder, options.output, options.text_characters))
    return 0
