from __future__ import annotations

from pathlib import Path

import pytest

from app.energy import Estimate, Power, find_energy
from app.hardware import EnergyCounters


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def zone(root: Path, folder: str, name: str, microjoules: int, wraps_at: int = 10_000_000) -> Path:
    path = root / "sys/class/powercap" / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    return path


def test_the_estimate_is_idle_power_and_work() -> None:
    clock, cpu_clock = Clock(), Clock()
    energy = Estimate(2, 0.5, 3.5, clock, cpu_clock)
    assert energy.joules() == 0.0
    clock.now += 10
    assert energy.joules() == pytest.approx(2 * 10 * 0.5)
    cpu_clock.now += 20
    assert energy.joules() == pytest.approx(2 * 10 * 3.5), "both cores worked all the time"


def test_counters_of_packages_and_memory_are_added(tmp_path: Path) -> None:
    package = zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    other = zone(tmp_path, "intel-rapl:1", "package-1", 0)
    memory = zone(tmp_path, "intel-rapl:0:1", "dram", 100)
    core = zone(tmp_path, "intel-rapl:0:0", "core", 0)
    whole = zone(tmp_path, "intel-rapl:2", "psys", 0)
    energy = find_energy(2, 1, 2, tmp_path)
    assert (energy.source, energy.joules()) == ("rapl", 0.0)
    for path, microjoules in ((package, 6_500_000), (other, 250_000), (memory, 50_100)):
        (path / "energy_uj").write_text(str(microjoules))
    (core / "energy_uj").write_text("9999999")
    (whole / "energy_uj").write_text("9999999")
    assert energy.joules() == pytest.approx(1.5 + 0.25 + 0.05)


def test_a_counter_that_wraps(tmp_path: Path) -> None:
    path = zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000)
    energy = EnergyCounters([path])
    (path / "energy_uj").write_text("500000")
    assert energy.joules() == pytest.approx(1.5)


def test_a_counter_that_goes_away_stands_still(tmp_path: Path) -> None:
    path = zone(tmp_path, "intel-rapl:0", "package-0", 0)
    energy = EnergyCounters([path])
    (path / "energy_uj").write_text("1000000")
    assert energy.joules() == 1.0
    (path / "energy_uj").unlink()
    assert energy.joules() == 1.0


@pytest.mark.parametrize("break_it", ["nothing", "no zone", "unreadable", "not a number"])
def test_without_counters_it_is_estimated(tmp_path: Path, break_it: str) -> None:
    if break_it != "nothing":
        path = zone(tmp_path, "intel-rapl:0", "psys" if break_it == "no zone" else "package-0", 0)
    if break_it == "unreadable":
        (path / "energy_uj").unlink()
        (path / "energy_uj").mkdir()  # even root cannot read a folder
    if break_it == "not a number":
        (path / "energy_uj").write_text("much")
    assert find_energy(2, 1, 2, tmp_path).source == "estimate"


def test_power_is_energy_over_time() -> None:
    clock, cpu_clock = Clock(), Clock()
    power = Power(Estimate(1, 1.0, 5.0, clock, cpu_clock), clock)
    assert power.watts() == 0.0
    clock.now += 10
    cpu_clock.now += 5
    assert power.watts() == pytest.approx(3.0)
    clock.now += 0.5
    assert power.watts() == pytest.approx(3.0), "too soon to tell"
    clock.now += 1.5
    assert power.watts() == pytest.approx(1.0)
