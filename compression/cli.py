"""`bertpress`: the offline suite at a command line. A known error is one line and exit code 1."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Mapping, Sequence

from app.errors import BertpressError
from compression.commands import (
    Command,
    augment,
    benchmark,
    cascade,
    compare,
    compress,
    contrast,
    cost_table,
    distill,
    evaluate,
    export,
    pairs,
    pretrain,
    prune,
    quantize,
    register,
    report,
    search,
    train,
)

_COMMANDS: Mapping[str, Command] = {
    "compress": compress,
    "train": train,
    "pretrain": pretrain,
    "distill": distill,
    "prune": prune,
    "quantize": quantize,
    "export": export,
    "evaluate": evaluate,
    "benchmark": benchmark,
    "cascade": cascade,
    "compare": compare,
    "contrast": contrast,
    "augment": augment,
    "pairs": pairs,
    "search": search,
    "cost-table": cost_table,
    "report": report,
}

_NEEDED = ("accelerate", "onnx", "onnxruntime", "pyarrow", "rich", "safetensors", "torch", "transformers")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(arguments)
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        print(  # noqa: T201
            f"bertpress: {', '.join(missing)} not installed; run: pip install 'bertpress[compress]'",
            file=sys.stderr,
        )
        return 1
    try:
        return int(options.run(options))
    except BertpressError as error:
        print(f"bertpress: {error}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        print("bertpress: stopped; the same command goes on where it was", file=sys.stderr)  # noqa: T201
        return 130


def parser() -> argparse.ArgumentParser:
    """The options of every command."""
    options = argparse.ArgumentParser(prog="bertpress", description=__doc__)
    register(options, _COMMANDS)
    return options


if __name__ == "__main__":
    sys.exit(main())
