"""A backbone that has read the texts of your domain: masked-language modelling before it is fine-tuned.

Labels are not looked at; unlabelled texts are read as well.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from compression.commands import stage
from compression.commands.stage import Setting

SETTINGS = (
    *stage.training("1", "0.0001"),
    Setting("masked_share", "share of the tokens that are to be guessed (default: 0.15)"),
    Setting("unlabelled_rows", "texts without labels that are read too; -1: all (default: -1)"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument(
        "--backbone", required=True, metavar="DIR_OR_HUB_ID", help="the pretrained model to train further"
    )
    stage.add(parser, SETTINGS, result="the backbone")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from compression import api

    def work(**common: Any) -> Path:
        return api.pretrain(options.backbone, options.output, stage.chosen(options, SETTINGS), **common)

    return stage.carry_out(options, work)
