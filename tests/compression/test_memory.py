from __future__ import annotations

import threading
from pathlib import Path

import pytest

from compression import memory
from compression.memory import Heartbeat, PeakResident, died_of_memory, fitting_budget, oom_kills

MIB = 1 << 20


def test_the_peak_is_seen_after_the_memory_went_back(monkeypatch: pytest.MonkeyPatch) -> None:
    held, seen = [100 * MIB], threading.Event()

    def resident() -> int:
        value = held[0]
        if value > 100 * MIB:
            seen.set()
        return value

    monkeypatch.setattr(memory, "resident_memory_bytes", resident)
    with PeakResident() as peak:
        held[0] = 164 * MIB
        seen.wait()
        held[0] = 100 * MIB
    assert peak.peak_bytes == 164 * MIB


@pytest.mark.parametrize("budget", [2048, 4096, 65536])
@pytest.mark.parametrize("limit_mib", [100, 300, 1000, 100_000])
def test_the_largest_micro_batch_that_fits(budget: int, limit_mib: int) -> None:
    def bytes_of(tokens: int) -> int:
        return 50 * MIB + tokens * MIB // 10

    fitting = fitting_budget(bytes_of, budget, unit=256, available_bytes=limit_mib * MIB)
    assert bytes_of(fitting) <= limit_mib * MIB or fitting == 256
    assert fitting == budget or bytes_of(fitting * 2) > limit_mib * MIB


def test_only_small_micro_batches_are_tried() -> None:
    tried: list[int] = []

    def bytes_of(tokens: int) -> int:
        tried.append(tokens)
        return tokens * MIB

    assert fitting_budget(bytes_of, 65536, unit=256, available_bytes=1000 * MIB) == 512
    assert max(tried) <= 65536 // 8


def test_a_micro_batch_of_one_row_needs_no_trial() -> None:
    def fail(tokens: int) -> int:
        raise AssertionError("tried")

    assert fitting_budget(fail, 300, unit=256, available_bytes=0) == 300


def test_memory_that_seems_to_shrink_is_not_taken_for_a_gain() -> None:
    taken = iter([50 * MIB, 40 * MIB])
    assert fitting_budget(lambda _: next(taken), 2048, unit=64, available_bytes=60 * MIB) == 2048


def test_the_kernels_count_of_kills(tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 12\noom_kill 3\noom_killer_disabled 9\n")
    assert oom_kills(vmstat) == 3
    vmstat.write_text("nr_free_pages 12\n")
    assert oom_kills(vmstat) == 0
    assert oom_kills(tmp_path / "absent") == 0


@pytest.mark.parametrize(
    ("left", "kills_now", "died"),
    [
        (Heartbeat(2048, 100, oom_kills=1), 1, False),
        (Heartbeat(2048, 100, oom_kills=1), 2, True),
        (Heartbeat(2048, 900, oom_kills=1), 1, True),
    ],
)
def test_who_died_of_memory(
    left: Heartbeat, kills_now: int, died: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "oom_kills", lambda: kills_now)
    monkeypatch.setattr(memory, "memory_limit_bytes", lambda: 1000)
    left.write(tmp_path / "running.json")
    assert died_of_memory(tmp_path / "running.json") == (left if died else None)


@pytest.mark.parametrize("body", ["", "{", "[]", '{"micro_batch_tokens": 1}'])
def test_a_heartbeat_that_cannot_be_read_is_none(body: str, tmp_path: Path) -> None:
    (tmp_path / "running.json").write_text(body)
    assert died_of_memory(tmp_path / "running.json") is None


def test_no_heartbeat_no_death(tmp_path: Path) -> None:
    assert died_of_memory(tmp_path / "running.json") is None


def test_a_heartbeat_knows_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "oom_kills", lambda: 7)
    beat = Heartbeat.now(512, peak_bytes=0)
    assert (beat.micro_batch_tokens, beat.oom_kills) == (512, 7)
    assert beat.resident_bytes > 10 * MIB
    assert Heartbeat.now(512, peak_bytes=1 << 50).resident_bytes == 1 << 50


def test_what_is_available_is_a_share_of_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_limit_bytes", lambda: 1000)
    monkeypatch.setattr(memory, "resident_memory_bytes", lambda: 300)
    assert memory.available_bytes() == 500
    monkeypatch.setattr(memory, "resident_memory_bytes", lambda: 900)
    assert memory.available_bytes() == 0
