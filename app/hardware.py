"""What this process may use: CPU features, cores and memory, as the kernel grants them, not as the host has.

Every reader takes the root of the file tree, so that tests can show it another machine.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/")
MIB = 1 << 20
FEATURES = ("avx2", "avx512", "vnni", "bf16", "amx")

# feature -> groups of /proc/cpuinfo flags; one whole group is enough
_CPUINFO_FLAGS = {
    "avx2": (("avx2",),),
    "avx512": (("avx512f", "avx512bw", "avx512dq", "avx512vl"),),
    "vnni": (("avx512_vnni",), ("avx_vnni",)),
    "bf16": (("avx512_bf16",), ("amx_bf16",)),
    "amx": (("amx_tile", "amx_int8"),),
}
# flag of /proc/cpuinfo -> the name numpy gives it after asking the processor itself
_NUMPY_NAMES = {
    "avx2": "AVX2",
    "avx512f": "AVX512F",
    "avx512bw": "AVX512BW",
    "avx512dq": "AVX512DQ",
    "avx512vl": "AVX512VL",
    "avx512_vnni": "AVX512VNNI",
    "avx512_bf16": "AVX512BF16",
}
# Of a virtual core that waits and of one that works: see `estimated_joules`.
WATTS_PER_IDLE_CORE = 0.74
WATTS_PER_BUSY_CORE = 3.5
# mallopt's name for the number of heaps
_M_ARENA_MAX = -8
_POWERCAP = "sys/class/powercap"
# cgroup v1 writes "no limit" as the largest multiple of a page
_UNLIMITED_BYTES = 1 << 60


@dataclass(frozen=True, slots=True)
class Hardware:
    """What this process may use."""

    cpu: str
    features: frozenset[str]
    cores: int
    memory_limit_bytes: int


def detect(root: Path = ROOT, features_override: str | None = None) -> Hardware:
    """Look at the machine once. `features_override` is a comma list that replaces what was found."""
    features = cpu_features(root, processor_features())
    if features_override is not None:
        features = frozenset(part.strip() for part in features_override.split(",") if part.strip())
    return Hardware(cpu_model(root), features, usable_cores(root), memory_limit_bytes(root))


def cpu_model(root: Path = ROOT) -> str:
    """The processor's name, or `unknown`."""
    return _cpuinfo(root).get("model name", "unknown")


def processor_features() -> Mapping[str, bool]:
    """What numpy learned from the CPUID instruction in this very process; empty if it does not say."""
    for module in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):  # numpy 2, numpy 1
        try:
            return dict(importlib.import_module(module).__cpu_features__)
        except (ImportError, AttributeError):
            continue
    return {}


def cpu_features(root: Path = ROOT, processor: Mapping[str, bool] | None = None) -> frozenset[str]:
    """Which of FEATURES the processor has.

    An emulator may pass the host's /proc/cpuinfo through, so a flag that the processor itself denies does
    not count; and once it denied one, flags nobody can confirm do not count either.
    """
    processor = processor or {}
    flags = set(_cpuinfo(root).get("flags", "").split())
    denied = {flag for flag, name in _NUMPY_NAMES.items() if flag in flags and processor.get(name) is False}
    if denied:
        flags &= {flag for flag, name in _NUMPY_NAMES.items() if processor.get(name)}
    return frozenset(
        feature for feature, groups in _CPUINFO_FLAGS.items() if any(flags.issuperset(g) for g in groups)
    )


def usable_cores(root: Path = ROOT, affinity: int | None = None) -> int:
    """Cores this process may keep busy: its affinity (which the cpuset bounds), cut to the cgroup's quota.

    A fraction of a core is left to the event loop: a worker that is throttled answers late.
    """
    allowed = affinity if affinity is not None else len(os.sched_getaffinity(0))
    quota = cpu_quota(root)
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def cpu_quota(root: Path = ROOT) -> float | None:
    """Cores' worth of time the cgroup grants, over all its ancestors; None when it is not limited."""
    quotas = []
    for folder in cgroup_folders(root, "cpu"):
        words = _words(folder / "cpu.max") or [
            *_words(folder / "cpu.cfs_quota_us"),
            *_words(folder / "cpu.cfs_period_us"),
        ]
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]) > 0:
            quotas.append(int(words[0]) / int(words[1]))
    return min(quotas, default=None)


def memory_limit_bytes(root: Path = ROOT) -> int:
    """The smallest of the cgroup's limits and the machine's memory; 0 if neither can be read."""
    limits = []
    for folder in cgroup_folders(root, "memory"):
        words = _words(folder / "memory.max") or _words(folder / "memory.limit_in_bytes")
        if words and words[0].isdigit() and int(words[0]) < _UNLIMITED_BYTES:
            limits.append(int(words[0]))
    limits += [
        int(line.split()[1]) * 1024 for line in _lines(root / "proc/meminfo") if line.startswith("MemTotal:")
    ]
    return min(limits, default=0)


def resident_memory_bytes(root: Path = ROOT) -> int:
    """Resident set of this process; 0 where /proc does not say."""
    words = _words(root / "proc/self/statm")
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") if len(words) > 1 else 0


def return_free_memory() -> None:
    """Collect garbage, and trim. The interpreter stands still while it collects."""
    gc.collect()
    trim_memory()


def trim_memory() -> None:
    """Hand free pages back to the system where the C library can (glibc)."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def use_one_heap() -> None:
    """Have all threads allocate from one heap (glibc), unless MALLOC_ARENA_MAX says otherwise.

    With a heap per thread, what one thread frees serves no other one: a sixth of the memory lies idle.
    Call it before there are threads. Source: mallopt(3), M_ARENA_MAX.
    """
    mallopt: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, 1)


def estimated_joules(
    cores: float,
    seconds: float,
    cpu_seconds: float,
    idle_watts: float = WATTS_PER_IDLE_CORE,
    busy_watts: float = WATTS_PER_BUSY_CORE,
) -> float:
    """Electricity from CPU time: cores * seconds * idle + cpu_seconds * (busy - idle).

    The defaults are for a virtual core of AWS's servers; for GCP 0.71 and 4.26 W are given, for Azure 0.78
    and 3.76. They leave out memory, network and cooling: good for comparing one model with another on the
    same machine, not for a bill.
    Source: Cloud Carbon Footprint, https://www.cloudcarbonfootprint.org/docs/methodology, "Compute", averages
    of SPECpower results.
    """
    return cores * seconds * idle_watts + cpu_seconds * (busy_watts - idle_watts)


class EnergyCounters:
    """The processor's own counters (RAPL): packages and memory of the whole machine, all processes together.

    They wrap every few minutes under load, and must be read before that.
    """

    def __init__(self, zones: Sequence[Path]) -> None:
        """Raises OSError or ValueError where a counter cannot be read."""
        self._last = {zone: _microjoules(zone) for zone in zones}
        self._wraps_at = {zone: int(_text(zone / "max_energy_range_uj")) for zone in zones}
        self._joules = 0.0

    def joules(self) -> float:
        """Since the start; a counter that can no longer be read stands still."""
        self._joules += sum(self._advance(zone) for zone in self._last)
        return self._joules

    def _advance(self, zone: Path) -> float:
        try:
            now = _microjoules(zone)
        except (OSError, ValueError):
            return 0.0
        last, self._last[zone] = self._last[zone], now
        return max(now - last if now >= last else now - last + self._wraps_at[zone], 0) / 1e6


def energy_counters(root: Path = ROOT) -> EnergyCounters | None:
    """The counters, if there are any and this process may read them.

    Since 2020 only root may (CVE-2020-8694); cloud instances rarely show them.
    """
    found = sorted((root / _POWERCAP).glob("intel-rapl*:*"))
    # A package's other zones are part of it, and psys is all of them again.
    zones = [zone for zone in found if " ".join(_words(zone / "name")).startswith(("package", "dram"))]
    try:
        return EnergyCounters(zones) if zones else None
    except (OSError, ValueError):
        return None  # there, and not for us


def _microjoules(zone: Path) -> int:
    return int(_text(zone / "energy_uj"))


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii")


def cgroup_folders(root: Path, controller: str) -> Iterator[Path]:
    """Folders that limit this process, from its own cgroup up to the mount: a parent's limit holds too."""
    for mount_point, mount_root, is_v2 in _cgroup_mounts(root, controller):
        path = _cgroup_path(root, "" if is_v2 else controller)
        if path is None:
            continue
        # Without a cgroup namespace the path is the host's, and what is mounted here is its lower end.
        inner = path[len(mount_root) :] if path.startswith(mount_root) else ""
        top = root / mount_point.lstrip("/")
        folder = top / inner.strip("/")
        yield folder
        while folder != top and top in folder.parents:
            folder = folder.parent
            yield folder


def _cgroup_mounts(root: Path, controller: str) -> Iterator[tuple[str, str, bool]]:
    """Mount point, mounted root, and whether it is cgroup v2."""
    for line in _lines(root / "proc/self/mountinfo"):
        before, _, after = line.partition(" - ")
        kind, _, options = after.partition(" ")
        fields = before.split()
        if len(fields) < 5:
            continue
        is_v2 = kind == "cgroup2"
        if is_v2 or (kind == "cgroup" and controller in options.split()[-1].split(",")):
            yield fields[4], fields[3].rstrip("/"), is_v2


def _cgroup_path(root: Path, controller: str) -> str | None:
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return None


def _cpuinfo(root: Path) -> dict[str, str]:
    """The first processor's entry."""
    entry: dict[str, str] = {}
    for line in _lines(root / "proc/cpuinfo"):
        key, separator, value = line.partition(":")
        if not separator and entry:
            break
        entry[key.strip()] = value.strip()
    return entry


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()
