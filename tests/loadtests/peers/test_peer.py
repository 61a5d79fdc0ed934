from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from loadtests.peers import ours
from loadtests.peers.known import PEERS
from loadtests.peers.peer import Launch, Peer, Setting
from loadtests.peers.servers.classifier import VARIABLE, Order
from tests.app.tiny import publish

EVERYONE = [ours.PEER, *PEERS.values()]
# What each server answers, as it was seen.
ANSWERS: Mapping[str, Any] = {
    "bertpress": {"predictions": [{"label": "positive", "score": 0.9}]},
    "litserve": {"label": "positive", "score": 0.9},
    "mlserver": {"outputs": [{"name": "label", "data": ["positive"]}]},
    "bentoml": [{"label": "positive", "score": 0.9}],
    "infinity": {"data": [[{"score": 0.9, "label": "positive"}, {"score": 0.1, "label": "negative"}]]},
    "pytriton": {"outputs": [{"name": "label", "data": ["positive"]}]},
}


def launch(folder: Path, setting: Setting) -> Launch:
    return Launch(Path(sys.executable), folder, "onnx-int8", "model.onnx", 4711, folder, setting)


@pytest.mark.parametrize("peer", EVERYONE, ids=lambda peer: peer.name)
def test_the_label_is_found_in_an_answer(peer: Peer) -> None:
    assert peer.label(ANSWERS[peer.name]) == "positive"


def test_the_label_is_found_in_an_answer_of_mlserver_s_own_runtime() -> None:
    answer = {"outputs": [{"data": ['{"label": "positive", "score": 0.9}']}]}

    assert PEERS["mlserver"].label(answer) == "positive"


@pytest.mark.parametrize("peer", EVERYONE, ids=lambda peer: peer.name)
def test_the_text_is_in_the_request_once(peer: Peer) -> None:
    assert json.dumps(peer.body("a tale of two texts", 100)).count("a tale of two texts") == 1


@pytest.mark.parametrize(("name", "limit"), [("bertpress", 100), ("pytriton", 100_000)])
def test_who_can_be_told_is_told_how_long_the_sender_waits(name: str, limit: int) -> None:
    (peer,) = [peer for peer in EVERYONE if peer.name == name]

    assert str(limit) in json.dumps(peer.body("text", 100))


@pytest.mark.parametrize(
    ("peer", "setting"),
    [(peer, setting) for peer in EVERYONE for setting in (*peer.same_build, *peer.documented)],
    ids=lambda part: part.name if isinstance(part, Peer) else str(part),
)
def test_every_setting_makes_a_command_on_the_loopback_interface(
    peer: Peer, setting: Setting, tmp_path: Path
) -> None:
    version = publish(tmp_path)

    started = peer.start(Launch(Path(sys.executable), version, "b", "f", 4711, tmp_path, setting))

    words = " ".join([*started.command, *started.environment.values()])
    assert "4711" in words or "4711" in (tmp_path / "settings.json").read_text()
    assert "0.0.0.0" not in words


def test_mlserver_s_optimum_finds_one_build_alone(tmp_path: Path) -> None:
    version = publish(tmp_path)
    (version / "other.onnx").write_bytes(b"another build")
    setting = Setting(engine="optimum, int8")

    PEERS["mlserver"].start(Launch(Path(sys.executable), version, "b", "model.onnx", 4711, tmp_path, setting))

    told = json.loads((tmp_path / "model-settings.json").read_text())
    folder = Path(told["parameters"]["extra"]["pretrained_model"])
    assert [file.name for file in folder.glob("*.onnx")] == ["model.onnx"]
    assert (folder / "tokenizer.json").read_bytes() == (version / "tokenizer.json").read_bytes()


def test_each_peer_has_several_settings_to_show_its_best() -> None:
    for peer in PEERS.values():
        assert len(set(peer.same_build)) == len(peer.same_build) > 1, peer.name
        assert len(set(peer.documented)) == len(peer.documented) > 1, peer.name
        assert all(setting.engine == "onnx" for setting in peer.same_build)
        assert all(setting.engine != "onnx" for setting in peer.documented)


def test_the_order_arrives_in_the_server_s_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    setting = Setting(workers=2, threads=1, batch=8, wait_ms=5, options=("fast_queue",))
    monkeypatch.setenv(VARIABLE, launch(tmp_path, setting).environment()[VARIABLE])

    assert Order.read() == Order(
        port=4711,
        engine="onnx",
        model=str(tmp_path),
        build="model.onnx",
        workers=2,
        threads=1,
        batch=8,
        wait_ms=5,
        options=("fast_queue",),
    )


def test_a_server_gets_none_of_our_settings_but_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BERTPRESS_PORT", "1")

    environment = launch(tmp_path, Setting()).environment(COLOUR="blue")

    assert environment["COLOUR"] == "blue"
    assert not [name for name in environment if name.startswith("BERTPRESS_")]


def test_our_service_computes_every_answer_and_runs_the_build_of_the_table(tmp_path: Path) -> None:
    version = publish(tmp_path)

    same = ours.PEER.start(launch(version, ours.PEER.same_build[0])).environment
    best = ours.PEER.start(launch(version, ours.PEER.documented[0])).environment

    assert same["BERTPRESS_BUILD"] == "onnx-int8"
    assert "BERTPRESS_BUILD" not in best
    assert best.get("BERTPRESS_COALESCE", "false") == "false"
    assert best.get("BERTPRESS_CACHE_BYTES", "0") == "0"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (Setting(), "onnx, 1 worker, no batching"),
        (Setting(workers=2, threads=1), "onnx, 2 workers x 1 thread, no batching"),
        (Setting("torch", 0, 2, 8, 5, ("x",)), "torch, in process x 2 threads, batches of 8 within 5 ms, x"),
    ],
)
def test_a_setting_is_said_in_words(setting: Setting, words: str) -> None:
    assert str(setting) == words
