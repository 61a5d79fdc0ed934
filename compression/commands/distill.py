"""A student that answers as its teachers do.

It learns from soft labels, true labels, and what the first teacher computes on the way. With `--layers` the
student is made first, of so many of the first teacher's layers.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from compression.commands import stage
from compression.commands.stage import Setting

SETTINGS = (
    Setting(
        "distillation.temperature",
        "above 1 shows the student how sure the teacher is of the other labels (default: 2.0)",
        "T",
    ),
    Setting("distillation.soft_weight", "how much the teacher's answers count (default: 1.0)", "W"),
    Setting("distillation.hard_weight", "how much the true labels count (default: 0.3)", "W"),
    Setting(
        "distillation.hidden_weight",
        "above 0: hidden states are compared as well, which needs the teacher at every step (default: 0.0)",
        "W",
    ),
    Setting("distillation.unlabelled_rows", "texts without labels learned from; -1: all (default: 0)"),
    *stage.training("2", "6e-05"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "--teacher",
        required=True,
        action="append",
        metavar="DIR_OR_HUB_ID",
        help="a fine-tuned classifier; given again, the mean of all is taught",
    )
    student = parser.add_mutually_exclusive_group(required=True)
    student.add_argument("--student", metavar="DIR_OR_HUB_ID", help="the classifier that learns")
    student.add_argument(
        "--layers", metavar="N", help="make the student of so many of the first teacher's layers, or a share"
    )
    stage.add(parser, SETTINGS, result="the student")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from compression import api

    def work(**common: Any) -> Path:
        settings = stage.chosen(options, SETTINGS)
        return api.distill(
            options.student, options.teacher, options.output, settings, layers=layers(options), **common
        )

    return stage.carry_out(options, work)


def layers(options: argparse.Namespace) -> Any:
    """What `--layers` says, as a recipe has it."""
    return None if options.layers is None else stage.value(options.layers)
