"""Runs one command and leaves nothing of it behind, however its caller ends.

Started by `loadtests.process`, never imported by a server: it needs nothing but the standard library. It
writes `PID SECONDS` (monotonic clock, just before the exec) to standard output, and lives until the
command ends or its standard input is closed, which the kernel does even for a caller that was killed. Then
it asks the command to leave, and kills every descendant that is still there: as their subreaper it finds
those too that had detached themselves.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


def descendants(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """Every living process below `pid`, parents before their children."""
    children: dict[int, list[int]] = {}
    for stat in proc.glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        if fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = list(children.get(pid, []))
    for process in found:  # grows as it goes
        found += children.get(process, [])
    return found


def main(grace_seconds: float, command: list[str]) -> int:
    """Run the command until it ends or the caller does. Returns its exit code, or 0 when it was stopped."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake, waker = os.pipe()
    for end in (wake, waker):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    started = time.monotonic()
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),
    )
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), f"{child.pid} {started!r}\n".encode())
    try:
        code = _wait(child.pid, wake)
        if code is None:
            code = _ask_to_leave(child.pid, grace_seconds)
    finally:
        _kill_all()
    return code


def _wait(child: int, wake: int) -> int | None:
    """The exit code of the child, or None when the caller is gone or wants us to stop."""
    while True:
        readable, _, _ = select.select([sys.stdin, wake], [], [])
        if (code := _reap(child)) is not None:
            return code
        if sys.stdin in readable or any(byte != signal.SIGCHLD for byte in os.read(wake, 1024)):
            return None


def _ask_to_leave(child: int, grace_seconds: float) -> int:
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGTERM)
    give_up = time.monotonic() + grace_seconds
    while time.monotonic() < give_up and _reap(child) is None:
        time.sleep(0.01)
    return 0


def _kill_all() -> None:
    while processes := descendants(os.getpid()):
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        _reap(0)
        time.sleep(0.005)


def _reap(child: int) -> int | None:
    """Take the exit codes of all that ended; return the child's if it is among them."""
    code = None
    while True:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if process == 0:
            return code
        if process == child:
            code = os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    # a shell's convention: killed by signal N is 128 + N
    result = main(float(sys.argv[1]), sys.argv[2:])
    sys.exit(result if result >= 0 else 128 - result)
