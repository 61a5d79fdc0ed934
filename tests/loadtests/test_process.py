from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.errors import SettingsError
from loadtests import memory
from loadtests.guard import descendants
from loadtests.process import answers_200, running, unused_port, wait_until

ROOT = Path(__file__).parents[2]
# A server whose helper has left its session, as some servers' workers do.
DETACHED_HELPER = """
import os, pathlib, subprocess, sys, time
helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
pathlib.Path(sys.argv[1]).with_suffix(".partial").write_text(str(helper.pid))
pathlib.Path(sys.argv[1]).with_suffix(".partial").rename(sys.argv[1])
time.sleep(600)
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def until_written(path: Path) -> int:
    while not path.exists():
        time.sleep(0.01)
    return int(path.read_text())


def test_a_helper_in_a_session_of_its_own_is_found_and_ended(tmp_path: Path) -> None:
    with running([sys.executable, "-c", DETACHED_HELPER, str(tmp_path / "pid")]) as process:
        helper = until_written(tmp_path / "pid")
        assert descendants(process.pid) == [helper]
        assert memory.tree_bytes(process.pid) > memory.tree_bytes(helper) / 2 > 0

    assert gone(helper)
    assert gone(process.pid)


def test_nothing_is_left_when_the_block_fails(tmp_path: Path) -> None:
    with (
        pytest.raises(ZeroDivisionError),
        running([sys.executable, "-c", DETACHED_HELPER, str(tmp_path / "pid")]),
    ):
        helper = until_written(tmp_path / "pid")
        raise ZeroDivisionError

    assert gone(helper)


def test_nothing_is_left_when_the_caller_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom loadtests.process import running\n"
        "with running([sys.executable, '-c', *sys.argv[1:]]):\n    import time; time.sleep(600)"
    )
    command = [sys.executable, "-c", script, DETACHED_HELPER, str(tmp_path / "pid")]
    with subprocess.Popen(command, cwd=ROOT) as caller:
        helper = until_written(tmp_path / "pid")
        (guard,) = [pid for pid in descendants(caller.pid) if helper in descendants(pid)][:1]
        caller.send_signal(signal.SIGKILL)

    while not (gone(helper) and gone(guard)):
        time.sleep(0.01)


def test_a_command_that_will_not_leave_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with running([sys.executable, "-c", DEAF], log=log, grace_seconds=0.1) as process:
        wait_until(process, lambda: "deaf" in log.read_text())

    assert gone(process.pid)


def test_a_command_that_ends_says_why() -> None:
    with (
        running([sys.executable, "-c", "import sys; sys.exit('no model')"]) as process,
        pytest.raises(SettingsError, match=r"exit code 1:\nno model"),
    ):
        wait_until(process, lambda: False)


def test_a_command_that_never_answers_is_given_up() -> None:
    with running([sys.executable, "-c", "import time; time.sleep(600)"]) as process:
        url = f"http://127.0.0.1:{unused_port()}"
        with pytest.raises(SettingsError, match="did not answer within"):
            wait_until(process, answers_200(url), give_up_seconds=0.05)


def test_a_command_that_does_not_exist_is_named() -> None:
    with pytest.raises(SettingsError, match="no-such-program"), running(["no-such-program"]):
        pass


def test_it_gets_the_environment_and_folder_it_is_given(tmp_path: Path) -> None:
    script = "import os; print(os.environ['COLOUR'], os.getcwd(), flush=True); import time; time.sleep(600)"
    command = [sys.executable, "-c", script]
    with running(command, environment={"COLOUR": "blue"}, folder=tmp_path) as process:
        wait_until(process, lambda: f"blue {tmp_path}" in process.last_words())


def test_the_start_is_timed_before_the_exec() -> None:
    before = time.monotonic()
    with running([sys.executable, "-c", "pass"]) as process:
        assert before < process.started_seconds < time.monotonic()


def test_memory_is_proportional_where_the_kernel_says_else_resident(tmp_path: Path) -> None:
    for pid, parent in ((7, 1), (8, 7), (9, 8)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a b) c) S {parent} 0")
        (tmp_path / str(pid) / "status").write_text("Name:\tx\nVmRSS:\t    500 kB\n")
    (tmp_path / "7" / "smaps_rollup").write_text("Rss: 300 kB\nPss: 100 kB\n")
    (tmp_path / "8" / "smaps_rollup").write_text("Rss: 300 kB\nPss: 50 kB\n")

    assert descendants(7, tmp_path) == [8, 9]
    assert memory.tree_bytes(7, tmp_path) == (100 + 50 + 500) * 1024
    assert memory.tree_bytes(9, tmp_path) == 500 * 1024  # alone
    assert memory.tree_bytes(10, tmp_path) == 0  # ended
