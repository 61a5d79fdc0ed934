"""A classifier out of a backbone: fine-tuned on the true labels of the data.

What a recipe does under `[teacher]`. Stopped at any moment, the same command goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from compression.commands import stage
from compression.commands.stage import Setting

SETTINGS = (
    *stage.training("2", "6e-05"),
    Setting(
        "training.label_smoothing", "share of each label spread over all classes: less sure (default: 0.0)"
    ),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "--backbone",
        required=True,
        metavar="DIR_OR_HUB_ID",
        help="the pretrained model to fine-tune, or a classifier that is to learn more",
    )
    stage.add(parser, SETTINGS, result="the classifier")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from compression import api

    def work(**common: Any) -> Path:
        return api.train(options.backbone, options.output, stage.chosen(options, SETTINGS), **common)

    return stage.carry_out(options, work)
