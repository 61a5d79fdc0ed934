from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

import pytest

from app.errors import SettingsError
from loadtests import soak
from loadtests.soak import Sample, draw, judge, random_text
from tests.app.tiny import publish


def samples(*megabytes: int) -> list[Sample]:
    return [Sample(number * 10, float(number), size * 1_000_000) for number, size in enumerate(megabytes)]


def test_growth_is_counted_from_the_warm_up_to_the_end() -> None:
    # 101 samples: 20 MB at first, 100 from the warm-up on, 104 at the end, and one peak between
    curve = samples(*[20] * 10, *[100] * 40, 500, *[100] * 40, *[104] * 10)

    creep = judge(curve)

    assert (creep.first_bytes, creep.warm_bytes, creep.last_bytes) == (20_000_000, 100_000_000, 104_000_000)
    assert creep.peak_bytes == 500_000_000
    assert creep.growth == pytest.approx(0.04)


def test_texts_are_parts_of_the_texts_there_are_from_one_word_up() -> None:
    candidates = [" ".join(str(number) for number in range(300)), "only three words"]
    random = Random(0)
    texts = [random_text(candidates, random) for _ in range(2000)]

    assert all(any(text in candidate for candidate in candidates) for text in texts)
    counts = [len(text.split()) for text in texts]
    assert min(counts) == 1
    assert max(counts) == 300
    assert sum(count < 20 for count in counts) > sum(count > 100 for count in counts) > 100


def test_the_curve_is_drawn(tmp_path: Path) -> None:
    curve = samples(*range(100, 200))

    draw(curve, judge(curve), tmp_path / "curve.png")

    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_there_is_no_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    curve = samples(*[100] * 100)

    with pytest.raises(SettingsError, match="the curve needs matplotlib"):
        draw(curve, judge(curve), tmp_path / "curve.png")


def test_a_real_service_is_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("BERTPRESS_DATA", raising=False)
    monkeypatch.setattr(soak, "MOST_GROWTH", 10.0)  # so short a run is all warm-up
    publish(tmp_path / "models")
    flags = ["--models", str(tmp_path / "models"), "--name", "tiny", "--requests", "800"]

    assert soak.main([*flags, "--json", str(tmp_path / "soak.json")]) == 0

    assert "800 requests in" in capsys.readouterr().out
    document = json.loads((tmp_path / "soak.json").read_text())
    assert document["failed"] == 0
    assert document["samples"][-1]["requests"] == 800
    assert document["peak_bytes"] >= document["last_bytes"] > 10_000_000


@pytest.mark.parametrize(
    ("last_megabytes", "failed", "code"), [(104, 0, 0), (106, 0, 1), (90, 0, 0), (100, 1, 1)]
)
def test_the_exit_code_says_whether_memory_crept_or_a_request_failed(
    last_megabytes: int, failed: int, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    curve = samples(*[100] * 60, *[last_megabytes] * 41)
    monkeypatch.setattr(soak, "measure", lambda *_: (curve, failed))

    assert soak.main([]) == code


def test_too_few_requests_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.main(["--requests", "10"]) == 1
    assert "10 requests are too few" in capsys.readouterr().err


def test_every_flag_says_what_it_does() -> None:
    assert all(action.help for action in soak._parser()._actions)
