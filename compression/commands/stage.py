"""What the commands of single stages have in common: settings, output folder, the line at the end."""

from __future__ import annotations

import argparse
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compression.commands.options import (
    STANDARD_OUTPUT,
    add_data,
    add_json,
    add_tracking,
    add_work,
    data_settings,
    trackers,
    write_json,
)


@dataclass(frozen=True)
class Setting:
    """A setting of a recipe's stage as an option: `training.epochs` is `--epochs`."""

    key: str
    help: str
    metavar: str = "N"

    @property
    def option(self) -> str:
        """How it is written on the command line."""
        return "--" + self.key.rpartition(".")[2].replace("_", "-")


def training(epochs: str, learning_rate: str) -> tuple[Setting, ...]:
    """How a model is trained, with the defaults of the stage."""
    return (
        Setting("training.epochs", f"times every text is read; more takes longer (default: {epochs})"),
        Setting(
            "training.learning_rate",
            f"how far a step goes: more learns faster and may diverge (default: {learning_rate})",
        ),
        Setting(
            "training.rows_per_step",
            "texts a step learns from; the same on every machine, whatever its memory (default: 32)",
        ),
        Setting(
            "training.precision",
            "fp32, or bf16 where the machine computes faster in it (default: auto)",
            "NAME",
        ),
        Setting("training.seed", "another one gives another model of about the same accuracy (default: 0)"),
    )


def add(
    parser: argparse.ArgumentParser, settings: Sequence[Setting], *, data: bool = True, result: str
) -> None:
    """The options of a single stage; `result` says what is written to `--output`."""
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help=f"new folder for {result}")
    for setting in settings:
        parser.add_argument(setting.option, dest=setting.key, metavar=setting.metavar, help=setting.help)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any other setting of this stage in a recipe, for example training.dropout=0.1",
    )
    add_data(parser, required=data)
    parser.add_argument(
        "--max-tokens",
        type=int,
        default=256,
        metavar="N",
        help="tokens read of a text: its start and its end; fewer is faster (default: 256)",
    )
    if any(setting.key.startswith("training.") for setting in settings):
        add_tracking(parser)
    add_work(parser)
    add_json(parser)


def chosen(options: argparse.Namespace, settings: Sequence[Setting]) -> dict[str, Any]:
    """What was set, nested as in a recipe.

    Raises:
        RecipeError: `--set` without a value.
    """
    given = {setting.key: getattr(options, setting.key) for setting in settings}
    pairs = [(key, text) for key, text in given.items() if text is not None]
    nested: dict[str, Any] = {}
    for key, text in [*pairs, *map(_pair, options.set)]:
        *path, last = key.split(".")
        inner = nested
        for name in path:
            inner = inner.setdefault(name, {})
        inner[last] = value(text)
    return nested


def _pair(text: str) -> tuple[str, str]:
    from app.errors import RecipeError

    key, equals, given = text.partition("=")
    if not equals or not key:
        raise RecipeError(f"--set {text!r} is not KEY=VALUE; for example --set training.dropout=0.1")
    return key, given


def value(text: str) -> Any:
    """A number, a list, true or false as TOML has them; anything else is a name."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def common(options: argparse.Namespace) -> dict[str, Any]:
    """The options every stage has, as the functions of `compression.api` take them."""
    settings = vars(data_settings(options))
    given: dict[str, Any] = {
        "data": options.data or (),
        "data_settings": settings,
        "text": {"max_tokens": options.max_tokens},
        "work": options.work,
        "trackers": trackers(options) if "track" in options else (),
    }
    return given | ({"unlabelled": options.unlabelled} if options.unlabelled else {})


def carry_out(options: argparse.Namespace, work: Callable[..., Any]) -> int:
    """Call a function of `compression.api` with progress shown, and say what came of it."""
    from compression import console, single_stage

    console.quiet()
    output = console.terminal(error=options.json == STANDARD_OUTPUT)
    with console.reports(output) as report:
        folder = work(report=report, **common(options))
    files = single_stage.files_of(folder)
    output.print(f"{folder}: {sum(files.values()) / 1e6:.1f} MB in {len(files)} files", highlight=False)
    write_json({"output": str(folder), "files": files, **single_stage.told(folder)}, options.json)
    return 0
