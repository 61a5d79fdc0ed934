"""How much memory a server holds: all of its processes, pages they share counted once."""

from __future__ import annotations

from pathlib import Path

from loadtests.guard import descendants

_PROC = Path("/proc")


def tree_bytes(pid: int, proc: Path = _PROC) -> int:
    """Memory of a process and all below it.

    A process alone counts with its resident size. Of several, each counts with its proportional set size,
    so that a page they share counts once; what they share with processes outside counts in part.
    """
    tree = [pid, *descendants(pid, proc)]
    if len(tree) == 1:
        return _reading(proc / str(pid) / "status", "VmRSS:") or 0
    return sum(_proportional_bytes(proc / str(process)) for process in tree)


def _proportional_bytes(process: Path) -> int:
    """The proportional set size, or the resident size where the kernel does not tell; 0 if it has ended."""
    proportional = _reading(process / "smaps_rollup", "Pss:")
    return proportional if proportional is not None else _reading(process / "status", "VmRSS:") or 0


def _reading(path: Path, key: str) -> int | None:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    values = [int(line.split()[1]) * 1024 for line in lines if line.startswith(key)]
    return values[0] if values else None
