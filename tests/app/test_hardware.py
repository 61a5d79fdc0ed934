from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from app import hardware

VNNI_FLAGS = (
    "fpu avx2 avx512f avx512bw avx512dq avx512vl avx512_vnni avx_vnni avx512_bf16 amx_tile amx_int8 amx_bf16"
)
HASWELL = {"AVX2": True, "AVX512F": False, "AVX512VNNI": False, "AVX512BF16": False}
V2_MOUNT = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, body in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(body)
    return root


def cpuinfo(flags: str) -> dict[str, str]:
    entry = f"processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: {flags}\n\n"
    return {"proc/cpuinfo": entry + entry.replace("Some CPU", "Another")}


def test_all_features_are_found(tmp_path: Path) -> None:
    root = write(tmp_path, cpuinfo(VNNI_FLAGS))
    assert hardware.cpu_features(root) == {"avx2", "avx512", "vnni", "bf16", "amx"}
    assert hardware.cpu_features(root) == set(hardware.FEATURES)
    assert hardware.cpu_model(root) == "Some CPU"


@pytest.mark.parametrize("flag", ["avx512_vnni", "avx_vnni"])
def test_either_vnni_is_vnni(tmp_path: Path, flag: str) -> None:
    assert hardware.cpu_features(write(tmp_path, cpuinfo(f"avx2 {flag}"))) == {"avx2", "vnni"}


def test_a_cpuinfo_of_another_machine_is_not_believed(tmp_path: Path) -> None:
    root = write(tmp_path, cpuinfo(VNNI_FLAGS))
    assert hardware.cpu_features(root, HASWELL) == {"avx2"}


def test_avx_vnni_alone_is_believed_where_nothing_is_denied(tmp_path: Path) -> None:
    root = write(tmp_path, cpuinfo("avx2 avx_vnni"))
    assert hardware.cpu_features(root, HASWELL) == {"avx2", "vnni"}


def test_no_cpuinfo_means_no_features(tmp_path: Path) -> None:
    assert hardware.cpu_features(tmp_path) == frozenset()
    assert hardware.cpu_model(tmp_path) == "unknown"


def test_the_processor_is_asked() -> None:
    assert all(isinstance(value, bool) for value in hardware.processor_features().values())


def test_a_setting_replaces_the_features(tmp_path: Path) -> None:
    root = write(tmp_path, cpuinfo(VNNI_FLAGS))
    assert hardware.detect(root, "avx2, amx").features == {"avx2", "amx"}
    assert hardware.detect(root, "").features == frozenset()


def test_without_cgroup_the_affinity_counts(tmp_path: Path) -> None:
    assert hardware.usable_cores(tmp_path, affinity=6) == 6
    assert hardware.usable_cores(tmp_path) == len(os.sched_getaffinity(0))
    assert hardware.cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("cpu_max", "cores"),
    [("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("max 100000", 8), ("", 8), ("x y", 8)],
)
def test_quota_of_cgroup_v2(tmp_path: Path, cpu_max: str, cores: int) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/\n",
            "proc/self/mountinfo": V2_MOUNT,
            "sys/fs/cgroup/cpu.max": cpu_max,
        },
    )
    assert hardware.usable_cores(root, affinity=8) == cores


def test_a_parents_limit_holds_too(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/container\n",
            "proc/self/mountinfo": V2_MOUNT,
            "proc/meminfo": "MemTotal:       16000000 kB\n",
            "sys/fs/cgroup/pod/cpu.max": "300000 100000",
            "sys/fs/cgroup/pod/container/cpu.max": "400000 100000",
            "sys/fs/cgroup/pod/memory.max": "max",
            "sys/fs/cgroup/pod/container/memory.max": "1000000",
        },
    )
    assert hardware.cpu_quota(root) == 3
    assert hardware.memory_limit_bytes(root) == 1_000_000


V1_MOUNTS = (
    "31 30 0:27 /docker/abc /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    "32 30 0:28 /docker/abc /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "33 30 0:29 / /proc rw - proc proc rw\n"
    "short line\n"
)


def test_cgroup_v1_without_a_namespace(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=x:/docker/abc\n",
            "proc/self/mountinfo": V1_MOUNTS,
            "proc/meminfo": "MemTotal:       2000 kB\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "1000000",
        },
    )
    assert hardware.usable_cores(root, affinity=4) == 2
    assert hardware.memory_limit_bytes(root) == 1_000_000


def test_cgroup_v1_unlimited(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/\n3:cpu:/\n",
            "proc/self/mountinfo": "31 30 0:27 / /cg rw - cgroup cgroup rw,cpu,memory\n",
            "proc/meminfo": "MemTotal:       2000 kB\n",
            "cg/cpu.cfs_quota_us": "-1",
            "cg/cpu.cfs_period_us": "100000",
            "cg/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert hardware.usable_cores(root, affinity=4) == 4
    assert hardware.memory_limit_bytes(root) == 2000 * 1024


def test_resident_memory(tmp_path: Path) -> None:
    root = write(tmp_path, {"proc/self/statm": "100 25 3 1 0 4 0\n"})
    assert hardware.resident_memory_bytes(root) == 25 * os.sysconf("SC_PAGE_SIZE")
    assert hardware.resident_memory_bytes(tmp_path / "nowhere") == 0
    assert hardware.resident_memory_bytes() > 0


def test_memory_can_be_returned_at_any_time() -> None:
    hardware.return_free_memory()
    hardware.trim_memory()


# Allocates in four threads at once, and counts the heaps of the process by malloc_info(3).
_HEAPS = """
import ctypes, sys, threading
from app.hardware import use_one_heap

if sys.argv[1] == "one":
    use_one_heap()
libc = ctypes.CDLL(None)
together = threading.Barrier(4)

def allocate():
    together.wait()
    libc.malloc(1000)
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.fdopen.restype = ctypes.c_void_p
output = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, output)
libc.fflush(output)
"""


@pytest.mark.parametrize(
    ("argument", "environment", "one"),
    [("one", {}, True), ("many", {}, False), ("one", {"MALLOC_ARENA_MAX": "8"}, False)],
)
def test_all_threads_allocate_from_one_heap(argument: str, environment: dict[str, str], one: bool) -> None:
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("this C library is not glibc")
    command = [sys.executable, "-c", _HEAPS, argument]
    found = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    assert (found.stdout.count("<heap nr=") == 1) is one


def test_this_machine() -> None:
    machine = hardware.detect()
    assert machine.cores >= 1
    assert machine.memory_limit_bytes > 0
