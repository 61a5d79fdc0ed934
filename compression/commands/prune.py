"""A classifier without its least important attention heads and FFN neurons, distilled between the steps.

The layers end uneven, and the model is a real one: saved, loaded and exported with its own shapes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from compression.commands import stage
from compression.commands.stage import Setting

SETTINGS = (
    Setting("heads", "share of all attention heads to remove (default: 0.0)", "SHARE"),
    Setting("ffn", "share of all FFN neurons to remove (default: 0.0)", "SHARE"),
    Setting("steps", "removed in so many steps; more is slower and gentler (default: 2)"),
    *stage.training("1", "6e-05"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--model", required=True, metavar="DIR_OR_HUB_ID", help="the classifier to prune")
    parser.add_argument(
        "--teacher",
        action="append",
        metavar="DIR_OR_HUB_ID",
        help="whom it learns from between the steps (default: itself as it was)",
    )
    stage.add(parser, SETTINGS, result="the pruned classifier")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from compression import api

    def work(**common: Any) -> Path:
        settings = stage.chosen(options, SETTINGS)
        return api.prune(options.model, options.output, settings, teachers=options.teacher, **common)

    return stage.carry_out(options, work)
