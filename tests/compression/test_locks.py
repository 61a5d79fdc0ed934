from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from compression.locks import claim, exclusive

_HOLD = """
import sys, time
from pathlib import Path
from compression.locks import exclusive
with exclusive(Path(sys.argv[1])):
    print("inside", flush=True)
    time.sleep(600)
"""


def _holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "inside\n"
    return process


def test_one_at_a_time(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        with exclusive(tmp_path / "locks" / "a.lock"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.01)
            inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_folder_locks_without_a_file_in_it(tmp_path: Path) -> None:
    holder = _holder(tmp_path)
    waiting = threading.Thread(target=lambda: _pass_through(tmp_path))
    waiting.start()
    waiting.join(0.2)
    assert waiting.is_alive()
    holder.kill()
    holder.communicate()
    waiting.join()
    assert list(tmp_path.iterdir()) == []


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.lock"
    process = _holder(path)
    assert claim(path) is None
    process.kill()
    process.communicate()
    taken = claim(path)
    assert taken is not None
    assert claim(path) is None
    taken.close()
    again = claim(path)
    assert again is not None
    again.close()


def _pass_through(path: Path) -> None:
    with exclusive(path):
        pass
