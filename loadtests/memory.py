"""How much memory a server holds: all of its processes, pages they share counted once."""

from __future__ import annotations

from pathlib import Path

from loadtests.guard import descendants

_PROC = Path("/proc")


def tree_bytes(pid: int, proc: Path = _PROC) -> int:
    """Proportional set size of a process and all below it.

    A page that several processes map counts once in the sum. Where the kernel does not tell a process's
    proportional set size, its resident size counts, shared pages and all.
    """
    return sum(process_bytes(process, proc) for process in [pid, *descendants(pid, proc)])


def process_bytes(pid: int, proc: Path = _PROC) -> int:
    """Proportional set size of one process, or its resident size; 0 if it has ended."""
    for name, key in (("smaps_rollup", "Pss:"), ("status", "VmRSS:")):
        try:
            lines = (proc / str(pid) / name).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith(key):
                return int(line.split()[1]) * 1024
    return 0
