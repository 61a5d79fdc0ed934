"""Installs peers, each in its own environment: `python -m loadtests.peers.install [NAME ...] --into DIR`.

PyTorch comes first, as its CPU build where the package index has one, so that no peer pulls the CUDA build;
then the peer, with the onnxruntime that is installed here: the same runtime behind all.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from app.errors import BertpressError, SettingsError
from loadtests.peers.known import PEERS
from loadtests.peers.peer import Peer, sibling_python

TORCH = "torch==2.13.0"
_PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
# Written last: an environment without it is half an installation.
_COMPLETE = ".requirements"


def main(arguments: Sequence[str] | None = None) -> int:
    """Install what is missing; the exit code is 1 if a peer could not be installed."""
    options = _parser().parse_args(arguments)
    failed = 0
    for name in options.peers or PEERS:
        started = time.monotonic()
        try:
            fresh = install(PEERS[name], options.into, options.python, options.torch)
        except BertpressError as error:
            print(f"install: {name}: {error}", file=sys.stderr)
            failed += 1
            continue
        version = installed_versions(options.into, PEERS[name])[PEERS[name].distribution]
        seconds = f" in {time.monotonic() - started:.0f} s" if fresh else ", as it was"
        print(f"{name}: {PEERS[name].distribution} {version}{seconds}", flush=True)
    return 1 if failed else 0


def install(peer: Peer, environments: Path, python: str, torch: str) -> bool:
    """Install a peer; False if it is installed already, with the very same requirements.

    Raises:
        SettingsError: the environment or a package could not be installed; with the end of pip's words.
    """
    runtime = f"onnxruntime=={importlib.metadata.version('onnxruntime')}"
    steps = [[torch], [*peer.requirements, runtime, "tokenizers"]]
    complete, wanted = environments / peer.name / _COMPLETE, repr((python, steps))
    if is_installed(environments, peer) and complete.read_text(encoding="utf-8") == wanted:
        return False
    _run([python, "-m", "venv", "--clear", str(environments / peer.name)])
    for step in steps:
        _run([str(sibling_python(environments, peer.name)), *_PIP, *step])
    complete.write_text(wanted, encoding="utf-8")
    return True


def is_installed(environments: Path, peer: Peer) -> bool:
    """Whether an installation of the peer was completed there."""
    return (environments / peer.name / _COMPLETE).is_file()


def installed_versions(environments: Path, peer: Peer) -> dict[str, str]:
    """Versions of what matters in a peer's environment, by distribution; absent ones are left out."""
    names = [peer.distribution, "onnxruntime", "tokenizers", "torch", "transformers", "optimum"]
    query = (
        "import importlib.metadata as m, sys\n"
        "print('python', sys.version.split()[0])\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(name, m.version(name))\n"
        "    except m.PackageNotFoundError: pass\n"
    )
    words = _run([str(sibling_python(environments, peer.name)), "-c", query, *names])
    return dict(line.split() for line in words.splitlines())


def _run(command: list[str]) -> str:
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SettingsError(f"{command[0]}: {error.strerror}") from error
    if finished.returncode != 0:
        raise SettingsError(f"{' '.join(command[:6])} ...: {finished.stderr.strip()[-600:]}")
    return finished.stdout


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.peers.install",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("peers", nargs="*", choices=[[], *PEERS], metavar="NAME", help=f"{', '.join(PEERS)}")
    parser.add_argument("--into", type=Path, required=True, metavar="DIR", help="one folder in it per peer")
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter of the environments (%(default)s)"
    )
    parser.add_argument(
        "--torch", default=TORCH, help="requirement that gives PyTorch for CPUs (%(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
