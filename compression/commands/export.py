"""A build of a classifier in fp32, or as Hugging Face Optimum makes it.

With `--data` the build is held to the parity gate: if it does not answer as the model does, there is no
output and the exit code is 1. Optimum goes through its ORTOptimizer and ORTQuantizer under the same gate; it
needs bertpress[compress,optimum], here or in the environment that --optimum-python names.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from compression.commands import stage
from compression.commands.stage import Setting

SETTINGS = (
    Setting("format", "onnx, or torchscript; bertpress's own exporter alone (default: onnx)", "NAME"),
    Setting("optimization", "Optimum's level, O1 to O3: more is fused (default: O2)", "LEVEL"),
    Setting(
        "quantization",
        "Optimum's preset: avx2, avx512, avx512_vnni, or none for fp32 (default: avx512)",
        "NAME",
    ),
    Setting("opset", "version of ONNX's operators, 17 to 20 (default: 17)"),
)


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--model", required=True, metavar="DIR_OR_HUB_ID", help="the classifier to export")
    parser.add_argument(
        "--exporter",
        choices=("bertpress", "optimum"),
        default="bertpress",
        help="who writes the graph (default: bertpress)",
    )
    parser.add_argument(
        "--optimum-python", metavar="FILE", help="interpreter that has bertpress[compress,optimum]"
    )
    stage.add(parser, SETTINGS, data=False, result="the build")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    from compression import api

    def work(**common: Any) -> Path:
        settings = stage.chosen(options, SETTINGS)
        if options.optimum_python is not None:
            settings["python"] = options.optimum_python
        return api.export(options.model, options.output, settings, exporter=options.exporter, **common)

    return stage.carry_out(options, work)
