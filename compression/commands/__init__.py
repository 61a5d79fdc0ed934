"""The commands of `bertpress`, one file each: `add(parser)` gives the options, `run(options)` does the work.

The first line of a file's docstring is what `bertpress --help` says of it, all of it what its own `--help`
says. A file imports what it needs inside `run`, so that the help is there at once and without the extra.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Protocol


class Command(Protocol):
    """A file of this package."""

    __doc__: str | None

    def add(self, parser: argparse.ArgumentParser) -> None:
        """Give the parser the command's options."""

    def run(self, options: argparse.Namespace) -> int:
        """Do the work; returns the exit code."""


def register(
    parser: argparse.ArgumentParser, commands: Mapping[str, Command], *, required: bool = True
) -> None:
    """Give a parser its sub-commands; the one that is chosen is `options.run`."""
    chosen = parser.add_subparsers(required=required, metavar="COMMAND")
    for name, command in commands.items():
        told = (command.__doc__ or "").strip()
        below = chosen.add_parser(
            name,
            help=told.partition("\n")[0],
            description=told,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add(below)
        below.set_defaults(run=command.run)
