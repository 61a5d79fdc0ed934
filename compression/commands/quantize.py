"""A build in fewer bits, held to the parity gate on the validation texts of the data.

If it does not answer as the PyTorch model does, there is no output and the exit code is 1.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from compression.commands import stage
from compression.commands.stage import Setting

SETTINGS = (
    Setting(
        "method",
        "static fixes the scales of activations beforehand, per-token and dynamic as they come, weight-only "
        "and blocks leave activations in fp32 (default: static)",
        "NAME",
    ),
    Setting("weight_bits", "8, or 4 with method blocks: half the size, less exact (default: 8)"),
    Setting(
        "reduced_range",
        "false: eight bits instead of seven, more exact and wrong on CPUs without VNNI (default: true)",
        "BOOLEAN",
    ),
    Setting("rounding", "compensated (GPTQ) looks at texts, nearest does not (default: nearest)", "NAME"),
    Setting("calibration_rows", "texts the scales are fixed on (default: 128)"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--build", required=True, metavar="DIR", help="what `bertpress export` wrote")
    stage.add(parser, SETTINGS, data=False, result="the build")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from compression import api

    def work(**common: Any) -> Path:
        return api.quantize(options.build, options.output, stage.chosen(options, SETTINGS), **common)

    return stage.carry_out(options, work)
