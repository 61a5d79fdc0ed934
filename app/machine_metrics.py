"""What /metrics tells of the machine: CPU time, throttling, energy."""

from __future__ import annotations

import time

from app.energy import Power, find_energy
from app.hardware import Hardware
from app.metrics import Metrics
from app.settings import Settings
from app.throttling import ThrottlingReader


def add_machine_metrics(metrics: Metrics, machine: Hardware, settings: Settings) -> None:
    """Register them; all are read when somebody scrapes."""
    metrics.add_counter(
        "process_cpu_seconds", "CPU time of this process.", (), lambda: [((), time.process_time())]
    )
    metrics.add_gauge("usable_cores", "Cores this process may keep busy.", (), lambda: [((), machine.cores)])
    _add_throttling(metrics)
    _add_energy(metrics, machine, settings)


def _add_throttling(metrics: Metrics) -> None:
    reader = ThrottlingReader()
    metrics.add_counter(
        "cpu_periods",
        "Scheduling periods of the cgroup in which it wanted CPU time.",
        (),
        lambda: [((), reader.read().periods)],
    )
    metrics.add_counter(
        "cpu_throttled_periods",
        "Scheduling periods in which the cgroup was stopped at its quota.",
        (),
        lambda: [((), reader.read().throttled_periods)],
    )
    metrics.add_counter(
        "cpu_throttled_seconds",
        "Time the cgroup was stopped at its quota.",
        (),
        lambda: [((), reader.read().throttled_seconds)],
    )


def _add_energy(metrics: Metrics, machine: Hardware, settings: Settings) -> None:
    energy = find_energy(machine.cores, settings.watts_per_idle_core, settings.watts_per_busy_core)
    power = Power(energy)
    metrics.add_counter(
        "energy_joules",
        "Electricity since the start: rapl, of the whole machine's processors and memory; estimate, of the "
        "usable cores from CPU time.",
        ("source",),
        lambda: [((energy.source,), energy.joules())],
    )
    metrics.add_gauge(
        "power_watts",
        "Electricity a second, between the last two readings; see energy_joules.",
        ("source",),
        lambda: [((energy.source,), power.watts())],
    )
