from __future__ import annotations

import time
from pathlib import Path

import pytest

from compression import energy
from compression.energy import Meter


class Machine:
    """Time, CPU time and a counter that advance only when work is done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.cpu, self.joules = 100.0, 10.0, 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "process_time", lambda: self.cpu)

    def work(self, seconds: float, cpu_seconds: float, joules: float) -> None:
        self.now += seconds
        self.cpu += cpu_seconds
        self.joules += joules


def counters(root: Path, microjoules: int) -> Path:
    zone = root / "sys/class/powercap/intel-rapl:0"
    zone.mkdir(parents=True)
    (zone / "name").write_text("package-0\n")
    (zone / "energy_uj").write_text(f"{microjoules}\n")
    (zone / "max_energy_range_uj").write_text("100000000\n")
    return zone


def test_an_estimate_is_idle_power_and_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine = Machine(monkeypatch)
    source = energy.meter(tmp_path, cores=2, idle_watts=0.5, busy_watts=4.5)
    calls = {
        "large": lambda: machine.work(0.2, 0.4, 0),
        "small": lambda: machine.work(0.1, 0.1, 0),
    }
    found = energy.measure(calls, source, turns=3, seconds_per_turn=1.0)
    # Both cores wait 0.2 s at 0.5 W, and 0.4 CPU seconds cost 4 W more.
    assert found["large"].joules_per_1000 == pytest.approx(1000 * (2 * 0.2 * 0.5 + 0.4 * 4.0))
    assert found["large"].watts == pytest.approx(9.0)
    assert found["small"].joules_per_1000 == pytest.approx(1000 * (2 * 0.1 * 0.5 + 0.1 * 4.0))
    assert found["small"].predictions >= 3 * 10
    assert (found["small"].source, found["small"].watts_per_busy_core) == ("estimate", 4.5)
    assert found["small"].text == "500.0 J, 5.0 W (estimated)"
    assert "0.5 W a virtual core that waits and 4.5 W one that works" in energy.footnote([*found.values()])


def test_counters_are_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine, zone = Machine(monkeypatch), counters(tmp_path, 1_000_000)
    source = energy.meter(tmp_path)

    def work() -> None:
        machine.work(0.5, 0.1, 0)
        (zone / "energy_uj").write_text(str(int((zone / "energy_uj").read_text()) + 3_000_000))

    found = energy.measure({"ours": work}, source, turns=2, seconds_per_turn=1.0)["ours"]
    assert (found.source, found.joules_per_1000, found.watts) == ("rapl", 3000.0, 6.0)
    assert found.watts_per_idle_core is None
    assert found.text == "3,000.0 J, 6.0 W (measured)"
    assert "RAPL" in energy.footnote([found])


def test_all_take_turns_and_a_batch_is_many_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    machine, made = Machine(monkeypatch), []

    def call(name: str) -> None:
        made.append(name)
        machine.work(1.0, 1.0, 8.0)

    source = Meter("rapl", lambda: machine.joules)
    calls = {"a": lambda: call("a"), "b": lambda: call("b")}
    found = energy.measure(calls, source, predictions_per_call=16, turns=2, seconds_per_turn=0.5)
    assert made == ["a", "b"] * 3, "once to warm up, then two turns"
    assert (found["a"].predictions, found["a"].joules_per_1000) == (32, 500.0)


def test_nothing_measured_says_nothing() -> None:
    assert energy.footnote([]) == ""


def test_the_estimate_of_real_work_is_within_what_the_coefficients_allow(tmp_path: Path) -> None:
    source = energy.meter(tmp_path, cores=1, idle_watts=1.0, busy_watts=3.0)
    found = energy.measure({"sum": lambda: sum(range(20_000))}, source, turns=1, seconds_per_turn=0.05)
    assert 1.0 <= found["sum"].watts <= 3.2
