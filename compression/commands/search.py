"""The compression rate that finds itself: tries rates, measures them, publishes the best.

Limits are METRIC=VALUE: at most so much of a cost (size, latency, memory, energy), at least so much of a
quality (accuracy, retention). A floor is never given up; a target is missed by as little as can be. Examples:

  --target size=15MB --floor retention=0.98 --minimise latency
  --floor retention=0.95 --minimise latency --minimise size --maximise retention
  --target latency=40x --target latency=5ms

latency is measured beside BERT-base in PyTorch fp32 in the same minute; 40x is 40 times faster than that.

Every number of layers, share of heads and FFN neurons, vocabulary, quantization scheme that --space names may
be tried. Cheap trials come first, the best third of them is trained in full; what is on the frontier is
published. Stopped (Ctrl-C, a kill, the budget), the same command goes on; started twice, two workers share
the work. Exit code 0: every limit is kept. 3: they cannot be, and the nearest is told.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import SearchError
from compression.commands.options import add_tracking, trackers

if TYPE_CHECKING:
    from compression.data import DataSettings

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


def add(parser: argparse.ArgumentParser) -> None:
    """Its options."""
    _add_goals(parser)
    _add_sources(parser)
    _add_effort(parser)
    add_tracking(parser)
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="DIR",
        help="model repository the frontier is published in",
    )
    parser.add_argument(
        "--name", default="searched", metavar="MODEL", help="name of the published model (default: searched)"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path(".bertpress"),
        metavar="DIR",
        help="the book of the search, finished stages and caches; a search goes on from there and may be "
        "shared by several workers (default: .bertpress)",
    )
    parser.add_argument(
        "--for-cpu",
        metavar="NAME_OR_FILE",
        help="search for another CPU than this one: the .json file that `bertpress cost-table` wrote there, "
        "or haswell, milan, skylake, cascade-lake, ice-lake, genoa or sapphire-rapids, with :CORES behind, "
        "which are estimated, not measured",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every trial to a file as well")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the frontier (.png or .svg)")


def _add_goals(parser: argparse.ArgumentParser) -> None:
    limits = (("--target", "to be reached if it can be"), ("--floor", "never to be given up"))
    for option, told in limits:
        parser.add_argument(
            option,
            action="append",
            default=[],
            metavar="METRIC=VALUE",
            help=f"a limit {told}; may be repeated",
        )
    for option, spelling in (("--minimise", "--minimize"), ("--maximise", "--maximize")):
        parser.add_argument(
            option,
            spelling,
            action="append",
            default=[],
            metavar="METRIC",
            help="an objective; may be repeated",
        )


def _add_sources(parser: argparse.ArgumentParser) -> None:
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--teacher", metavar="DIR_OR_HUB_ID", help="your fine-tuned classifier; its labels are kept"
    )
    source.add_argument(
        "--backbone", metavar="DIR_OR_HUB_ID", help="no teacher yet: fine-tune this model first"
    )
    parser.add_argument(
        "--data",
        required=True,
        action="append",
        metavar="PATH",
        help="as for compress; choices are made on the validation part, and the test part judges",
    )
    parser.add_argument("--unlabelled", metavar="FILE", help="more texts, without labels, for full trials")
    parser.add_argument(
        "--text-column", default="text", metavar="NAME", help="column of the texts (default: text)"
    )
    parser.add_argument(
        "--label-column", default="label", metavar="NAME", help="column of the labels (default: label)"
    )
    parser.add_argument("--labels", metavar="A,B,...", help="names of the classes in order, with --backbone")
    parser.add_argument(
        "--limit-rows", type=int, metavar="N", help="at most so many rows of each split, full trials too"
    )
    parser.add_argument(
        "--recipe",
        metavar="FILE_OR_NAME",
        help="where settings that are not searched come from: text length, epochs, learning rates, parity "
        "gate (default: default)",
    )
    parser.add_argument(
        "--space", type=Path, metavar="FILE", help="TOML file of what may be chosen; see docs/search.md"
    )


def _add_effort(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="cheap trials of all workers together (default: 30, or as many as the budget allows)",
    )
    parser.add_argument(
        "--budget",
        metavar="TIME",
        help="time of this worker, as 30m or 2h; its second half is for full trials of what is promising",
    )
    parser.add_argument(
        "--cheap-rows", type=int, metavar="N", help="labelled rows a cheap trial learns from (default: 2000)"
    )
    parser.add_argument(
        "--cheap-epochs",
        type=float,
        metavar="SHARE",
        help="share of the recipe's epochs a cheap trial is distilled for (default: 0.5)",
    )
    parser.add_argument(
        "--cheap-recovery",
        type=float,
        metavar="SHARE",
        help="share of the recipe's epochs after a pruning in a cheap trial; 0: no recovery (default: 0.25)",
    )
    parser.add_argument(
        "--judged-rows",
        type=int,
        metavar="N",
        help="validation texts a full trial is judged on, at most; a cheap one on a quarter (default: 2000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the proposals and subsets (default: 0)")


def run(options: argparse.Namespace) -> int:
    """Do it; returns the exit code."""
    if importlib.util.find_spec("optuna") is None:
        raise SearchError("optuna is not installed; run: pip install 'bertpress[compress,search]'")
    from compression import console, recipe
    from compression.search import goals, outcome, run, space, target_cpu
    from compression.search.worker import Limits

    console.quiet()
    wanted = goals.goals(options.target, options.floor, options.minimise, options.maximise)
    budget = None if options.budget is None else seconds(options.budget)
    trials = 30 if options.trials is None and budget is None else options.trials
    request = run.Request(
        goals=wanted,
        space=space.load(options.space),
        recipe=recipe.load(options.recipe),
        model=options.name,
        data=tuple(options.data),
        data_settings=_data_settings(options),
        unlabelled=options.unlabelled,
        teacher=options.teacher,
        backbone=options.backbone,
        repository=options.output,
        work=options.work,
        limits=Limits(trials, budget),
        **run.efforts(options.cheap_rows, options.cheap_epochs, options.cheap_recovery, options.judged_rows),
        seed=options.seed,
        target=None if options.for_cpu is None else target_cpu.target(options.for_cpu),
        trackers=trackers(options),
    )
    shown = console.terminal()
    with console.reports(shown) as report:
        found = run.search(request, report, lambda line: shown.print(line, highlight=False, markup=False))
    shown.print(outcome.table(found))
    for failure in outcome.failures(found):
        shown.print(f"failed: {failure}", highlight=False, markup=False)
    shown.print(outcome.verdict(found), highlight=False, markup=False)
    if options.json is not None:
        outcome.write_json(found, options.json)
    if options.picture is not None:
        from compression.search import picture

        picture.draw(outcome.as_json(found), options.picture)
    return found.exit_code


def seconds(written: str) -> float:
    """`90`, `90s`, `30m` or `2h` in seconds.

    Raises:
        SearchError: not a time.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([smh]?)\s*", written.lower())
    if match is None or float(match[1]) <= 0:
        raise SearchError(f"{written[:40]!r} is not a time; write 90s, 30m or 2h")
    return float(match[1]) * _SECONDS[match[2]]


def _data_settings(options: argparse.Namespace) -> DataSettings:
    from compression.data import DataSettings

    return DataSettings(
        text_column=options.text_column,
        label_column=options.label_column,
        label_names=tuple(options.labels.split(",")) if options.labels else None,
        limit_rows=options.limit_rows,
    )
