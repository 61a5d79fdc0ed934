"""What builds cost on this CPU, as a file for `search --for-cpu` on another machine.

Random models of the teacher's width and of several depths are exported, quantized in every scheme and timed
beside BERT-base in PyTorch fp32, all taking turns. Run it on the machine that will serve, take the file to
the one that trains.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the table, as .json")
    parser.add_argument(
        "--hidden-size", type=int, default=384, metavar="N", help="of the teacher (default: 384, MiniLM's)"
    )
    parser.add_argument("--heads", type=int, default=12, metavar="N", help="of each layer (default: 12)")
    parser.add_argument(
        "--ffn", type=int, default=1536, metavar="N", help="width of each FFN (default: 1536)"
    )
    parser.add_argument("--layers", type=int, default=6, metavar="N", help="of the teacher (default: 6)")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    import tempfile

    from app.errors import SearchError
    from compression import console
    from compression.search import measure_cpu
    from compression.search.space import Scheme

    console.quiet()
    shown = console.terminal()
    asked = {name: getattr(options, name) for name in ("hidden_size", "heads", "ffn", "layers")}
    for name, value in asked.items():
        if value < 1:
            raise SearchError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    if options.hidden_size % options.heads:
        raise SearchError(f"--hidden-size {options.hidden_size} is not a multiple of --heads {options.heads}")
    with tempfile.TemporaryDirectory() as scratch:
        table = measure_cpu.measure(
            **asked,
            schemes=get_args(Scheme),
            scratch=Path(scratch),
            tell=lambda line: shown.print(line, highlight=False),
        )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(table.model_dump_json(indent=2) + "\n", encoding="utf-8")
    measured = f"BERT-base {table.baseline_ms:.1f} ms, {len(table.costs)} builds"
    shown.print(
        f"{table.cpu}, {table.threads} threads: {measured}; written to {options.output}", highlight=False
    )
    return 0
