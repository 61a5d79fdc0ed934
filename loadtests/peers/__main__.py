"""Our service and others, side by side, in one run: `python -m loadtests.peers --environments DIR`.

Two tables. `same-build`: the same ONNX file, tokenizer and threads behind all, so that only the serving
differs. `documented`: each as its users would run it, ours with the build it picks for this CPU, theirs with
the float model or what else their documents show.

Each server first shows its settings: the closed loop with 16 requests in flight, both lengths of text; the
one with the highest geometric mean is taken. Then, in rounds, every other one backwards, each is started,
timed to its first right answer, and measured in an open loop: latency counts from the moment a request should
have left. Sustained is the highest rate at which 99 of 100 requests get the right label within the deadline,
found by bisection to 4 %. Failures, wrong labels among them, count as infinitely late.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import uvloop

from app import artifact
from app.artifact import Build
from app.builds import choose_build
from app.errors import BertpressError, SettingsError
from app.hardware import cpu_model, detect
from loadtests.peers import corpus, float_model, ours, report
from loadtests.peers.install import installed_versions, is_installed
from loadtests.peers.known import PEERS
from loadtests.peers.peer import Launch, Peer, Setting, sibling_python
from loadtests.peers.report import OURS
from loadtests.peers.table import Table, fill, say
from loadtests.peers.visit import Bench

TABLES = ("same-build", "documented")
LENGTHS = ("short", "long")
# Runs with long texts last longer by this: fewer requests fit in a second.
LONG_FACTOR = 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, and write them where asked."""
    options = _parser().parse_args(arguments)
    try:
        return measure(options)
    except BertpressError as error:
        print(f"peers: {error}", file=sys.stderr)
        return 1


def measure(options: argparse.Namespace) -> int:
    """Fill the tables asked for. The exit code is 1 if a server that is installed could not be measured.

    Raises:
        BertpressError: there is nothing to measure, or nothing to measure it with.
    """
    names = options.peers or list(PEERS)
    present = [name for name in names if is_installed(options.environments, PEERS[name])]
    missing = [name for name in names if name not in present]
    if missing:
        say(f"not installed in {options.environments}, so left out: {', '.join(missing)}")
    started = time.strftime("%Y-%m-%d")
    tables: list[Table] = []

    def save() -> None:
        if options.json is not None:
            options.json.write_text(
                json.dumps([asdict(table) for table in tables], indent=1), encoding="utf-8"
            )

    with tempfile.TemporaryDirectory() as scratch:
        for title in options.tables:
            bench = _bench(options, title, present, Path(scratch))
            table = Table(title, _facts(options, bench, present, started))
            tables.append(table)
            say(f"{title}: trying settings")
            began = time.monotonic()
            uvloop.run(fill(table, bench, _servers(title, present), options.rounds, save))
            table.facts["took"] = f"{(time.monotonic() - began) / 60:.1f} minutes"
            table.facts["load generator"] = f"at most {_client_share(table):.1%} of the machine's CPU"
            save()
            _publish(table, options.write)
    return 1 if any(table.failures for table in tables) else 0


def _publish(table: Table, page: Path | None) -> None:
    text = "\n".join([report.facts(table.facts), "", report.markdown(table, LENGTHS)])
    print(f"\n## {table.title}\n\n{text}", flush=True)
    if page is not None:
        report.write(page, table.title, text)


def _servers(title: str, present: Sequence[str]) -> list[tuple[Peer, Sequence[Setting]]]:
    peers = [ours.PEER, *(PEERS[name] for name in present)]
    return [(peer, peer.same_build if title == "same-build" else peer.documented) for peer in peers]


def _bench(options: argparse.Namespace, title: str, present: Sequence[str], scratch: Path) -> Bench:
    folder = artifact.newest_folder(options.models, options.name)
    manifest = artifact.read(folder)
    build = choose_build(manifest, detect().features, {"onnx"}, options.build).build
    if title == "same-build":
        corpora = corpus.prepare(folder, [build.name], options.texts, None)
        return _with_corpora(options, folder, None, build, corpora)
    files = [one.file for one in manifest.builds if one.engine == "onnx"]
    floating = options.float_model or float_model.write(folder, files, scratch / "float")
    python = _python_with_transformers(options.environments, present)
    setting = Setting(engine="transformers")
    launch = Launch(python, floating.resolve(), "", "", 0, scratch, setting)
    return _with_corpora(options, folder, floating, build, corpus.prepare(folder, [], options.texts, launch))


def _with_corpora(
    options: argparse.Namespace,
    folder: Path,
    floating: Path | None,
    build: Build,
    corpora: dict[str, corpus.Corpus],
) -> Bench:
    return Bench(
        environments=options.environments,
        model=folder.resolve(),
        float_model=(floating or folder).resolve(),
        build_name=build.name,
        build_file=build.file,
        corpora=corpora,
        seconds={"short": options.seconds, "long": options.seconds * LONG_FACTOR},
        rest_seconds=options.rest,
    )


def _python_with_transformers(environments: Path, present: Sequence[str]) -> Path:
    if not present:
        raise SettingsError("the float model needs an installed peer: python -m loadtests.peers.install")
    return sibling_python(environments, present[0])


def _facts(options: argparse.Namespace, bench: Bench, present: Sequence[str], started: str) -> dict[str, str]:
    versions = {name: installed_versions(options.environments, PEERS[name]) for name in present}
    cores = len(os.sched_getaffinity(0))
    texts = "; ".join(
        f"{length}: {len(part.texts)}, of {part.mean_tokens:.0f} tokens on average, {part.left_out} left out"
        for length, part in bench.corpora.items()
    )
    facts = {
        "command": f"`{_command(options)}`",
        "date": started,
        "machine": f"{cpu_model()}, {cores} cores",
        "texts": texts,
        "runs": f"{options.rounds} rounds, medians; {options.seconds:g} s a run with short texts, "
        f"{options.seconds * LONG_FACTOR:.1f} s with long ones; {options.rest:g} s of rest before them",
        "model": f"{options.name}, build {bench.build_name}",
        OURS: f"python {platform.python_version()}, onnxruntime {version('onnxruntime')}",
    }
    return facts | {
        name: ", ".join(f"{package} {number}" for package, number in found.items())
        for name, found in versions.items()
    }


def _command(options: argparse.Namespace) -> str:
    """The run as anyone can repeat it: what was asked for, not where this machine keeps it."""
    data = "BERTPRESS_DATA=... " if os.environ.get("BERTPRESS_DATA") else ""
    asked = ["--environments", ".peers", "--tables", *options.tables]
    asked += ["--peers", *options.peers] if options.peers else []
    asked += ["--name", options.name, "--rounds", f"{options.rounds}", "--seconds", f"{options.seconds:g}"]
    return f"{data}python -m loadtests.peers {shlex.join(asked)}"


def _client_share(table: Table) -> float:
    runs = [
        run
        for visit in table.visits
        for figures in visit.lengths.values()
        for run in (figures.closed, figures.equal, figures.overload)
    ]
    return max((run.client_cpu_share for run in runs), default=0.0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.peers",
        description=__doc__,
        epilog="Texts: SST-2's sentences and IMDB's reviews where BERTPRESS_DATA names the folder that holds "
        "sst2/ and imdb/ (needs pyarrow), else loadtests/texts.txt.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--environments", type=Path, required=True, metavar="DIR", help="where the peers were installed")
    add("--tables", nargs="+", choices=TABLES, default=TABLES, help="which to fill (both)")
    add("--peers", nargs="+", choices=list(PEERS), help="whom to measure beside us (all installed)")
    add("--models", type=Path, default=Path("models"), help="the model repository (%(default)s)")
    add("--name", default="sentiment-quality", help="the model; its highest version (%(default)s)")
    add("--build", help="the ONNX build of the first table (the best that this CPU can run)")
    add("--float-model", type=Path, metavar="DIR", help="for the second table; made from the build if absent")
    add("--seconds", type=float, default=2.0, help="length of a run with short texts (%(default)s)")
    add("--rest", type=float, default=10.0, help="seconds a started server is left alone (%(default)s)")
    add("--rounds", type=int, default=2, help="visits to each server (%(default)s)")
    add("--texts", type=int, default=600, help="at most so many texts of either length (%(default)s)")
    add("--json", type=Path, metavar="FILE", help="keep all figures, after each visit")
    add("--write", type=Path, metavar="PAGE", help="put the tables between the page's markers")
    return parser


if __name__ == "__main__":
    sys.exit(main())
