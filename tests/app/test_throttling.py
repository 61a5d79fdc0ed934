from __future__ import annotations

from pathlib import Path

import pytest

from app.throttling import Throttling, ThrottlingReader

V2 = "usage_usec 9\nnr_periods 40\nnr_throttled 7\nthrottled_usec 2500000\nnr_bursts 0\n"
V1 = "nr_periods 40\nnr_throttled 7\nthrottled_time 2500000000\n"


def machine(root: Path, cgroup: str, mountinfo: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": cgroup, "proc/self/mountinfo": mountinfo, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def v2(root: Path, files: dict[str, str]) -> Path:
    mount = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n"
    return machine(root, "0::/pod/box\n", mount, files)


def test_cgroup_v2(tmp_path: Path) -> None:
    root = v2(tmp_path, {"sys/fs/cgroup/pod/box/cpu.stat": V2})
    assert ThrottlingReader(root).read() == Throttling(40, 7, 2.5)


def test_cgroup_v1(tmp_path: Path) -> None:
    mount = "31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    root = machine(tmp_path, "3:cpu,cpuacct:/\n", mount, {"sys/fs/cgroup/cpu/cpu.stat": V1})
    assert ThrottlingReader(root).read() == Throttling(40, 7, 2.5)


def test_the_group_that_was_stopped_longest_counts(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/pod/box/cpu.stat": "nr_periods 900\nnr_throttled 0\nthrottled_usec 0\n",
        "sys/fs/cgroup/pod/cpu.stat": V2,
    }
    assert ThrottlingReader(v2(tmp_path, files)).read() == Throttling(40, 7, 2.5)


def test_it_is_read_again_each_time(tmp_path: Path) -> None:
    root = v2(tmp_path, {"sys/fs/cgroup/pod/cpu.stat": V2})
    reader = ThrottlingReader(root)
    (root / "sys/fs/cgroup/pod/cpu.stat").write_text(V2.replace("2500000", "3000000"))
    assert reader.read().throttled_seconds == 3.0


@pytest.mark.parametrize("text", ["", "usage_usec 12\n", "nr_periods x\n", "nr_periods\n"])
def test_what_says_nothing_counts_nothing(tmp_path: Path, text: str) -> None:
    root = v2(tmp_path, {"sys/fs/cgroup/pod/cpu.stat": text})
    assert ThrottlingReader(root).read() == Throttling(0, 0, 0.0)


def test_a_file_that_goes_away(tmp_path: Path) -> None:
    root = v2(tmp_path, {"sys/fs/cgroup/pod/cpu.stat": V2})
    reader = ThrottlingReader(root)
    (root / "sys/fs/cgroup/pod/cpu.stat").unlink()
    assert reader.read() == ThrottlingReader(tmp_path / "nowhere").read() == Throttling(0, 0, 0.0)


def test_this_machine() -> None:
    found = ThrottlingReader().read()
    assert 0 <= found.throttled_periods <= max(found.periods, found.throttled_periods)
    assert found.throttled_seconds >= 0
