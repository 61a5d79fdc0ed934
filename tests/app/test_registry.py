"""Load, promote, unload and start, seen through the HTTP interface and the registry's own state."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.errors import ArtifactError
from app.main import create_app
from app.settings import Settings
from tests.app.conftest import Running, Serve, until
from tests.app.tiny import publish

pytestmark = pytest.mark.anyio


async def states(running: Running) -> dict[tuple[str, int], str]:
    models = (await running.http.get("/v1/models")).json()["models"]
    return {(model["name"], model["version"]): model["state"] for model in models}


async def test_the_highest_valid_version_serves_first(
    serve: Serve, repository: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(repository, version=2)
    publish(repository, version=3, probe_shift=1.0)
    publish(repository, version=4)
    (repository / "tiny/4/model.onnx").write_bytes(b"other bytes")
    (repository / "tiny/5").mkdir()
    async with serve() as running:
        assert (await running.predict()).json()["version"] == 2
        assert await states(running) == {
            ("tiny", 1): "available",
            ("tiny", 2): "ready",
            ("tiny", 3): "failed",
            ("tiny", 4): "failed",
            ("tiny", 5): "failed",
        }
    for reason in ("published logits", "published with", "manifest.json cannot be read"):
        assert reason in caplog.text


async def test_the_settings_name_the_model(serve: Serve, repository: Path) -> None:
    publish(repository, "other", 7)
    async with serve() as running:
        assert (await running.predict()).json()["model"] == "other"
    async with serve(default_model="tiny") as running:
        assert (await running.predict()).json()["model"] == "tiny"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"default_model": "absent"}, "BERTPRESS_DEFAULT_MODEL names 'absent'"),
        ({"models": "/none"}, "holds no model"),
    ],
)
async def test_nothing_to_serve_says_why(
    make_settings: Callable[..., Settings], overrides: dict[str, Any], message: str
) -> None:
    failures: list[Exception] = []
    app = create_app(make_settings(**overrides), failures.append)
    async with app.router.lifespan_context(app):
        await app.state.start
    assert isinstance(failures[0], ArtifactError)
    assert message in str(failures[0])


async def test_no_valid_version_names_every_reason(serve: Serve, repository: Path) -> None:
    (repository / "tiny/1/manifest.json").write_text("{}")
    publish(repository, version=2, probe_shift=1.0)
    async with serve(wait=False) as running:
        with pytest.raises(ArtifactError, match=r"no version of tiny can serve: .*probe 0.*manifest\.json"):
            await running.app.state.start
        assert (await running.http.get("/health/live")).status_code == 200
        assert (await running.http.get("/health/ready")).status_code == 503
        assert (await running.predict()).json()["error"]["code"] == "not_ready"


async def test_preloading(serve: Serve, repository: Path, caplog: pytest.LogCaptureFixture) -> None:
    publish(repository, "other", 1)
    publish(repository, "other", 2)
    publish(repository, version=2)
    async with serve(default_model="tiny", preload="other, tiny/1, absent, other/9, other/x") as running:
        loaded = {key for key, state in (await states(running)).items() if state == "ready"}
        assert loaded == {("other", 2), ("tiny", 1), ("tiny", 2)}
        assert (await running.predict(model="other")).json()["version"] == 2
    assert caplog.text.count("not in the repository") == 3


async def test_loading_moves_no_traffic(serve: Serve, repository: Path) -> None:
    async with serve() as running:
        publish(repository, version=2)
        publish(repository, "other", 1)
        for name, version in (("tiny", 2), ("other", 1), ("tiny", 2)):
            reply = await running.admin("load", version, name)
            assert (reply.status_code, reply.json()["state"]) == (200, "ready")
        assert (await running.predict()).json()["version"] == 1
        assert (await running.predict(model="tiny")).json()["version"] == 1
        assert (await running.predict(version=2)).json()["version"] == 2
        assert (await running.predict(model="other")).json()["model"] == "other"


async def test_promoting_moves_it_and_survives_a_restart(serve: Serve, repository: Path) -> None:
    publish(repository, "other", 1)
    publish(repository, "other", 2)
    async with serve(default_model="tiny", preload="other/1") as running:
        assert (await running.admin("promote", 1, "other")).json()["default"]
        assert (await running.predict()).json()["model"] == "other"
    async with serve(default_model="tiny") as running:
        reply = (await running.predict()).json()
        assert (reply["model"], reply["version"]) == ("other", 1)


async def test_a_promoted_version_that_broke_gives_way(serve: Serve, repository: Path) -> None:
    publish(repository, version=2)
    publish(repository, version=3)
    async with serve(preload="tiny/2") as running:
        assert (await running.admin("promote", 2)).status_code == 200
    (repository / "tiny/2/model.onnx").unlink()
    async with serve() as running:
        assert (await running.predict()).json()["version"] == 3


async def test_a_promoted_model_that_is_gone_gives_way(serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(
        json.dumps({"default_model": "gone", "versions": {"gone": 1, "tiny": 9}})
    )
    async with serve() as running:
        assert (await running.predict()).json()["model"] == "tiny"


async def test_a_state_file_that_cannot_be_written(
    serve: Serve, repository: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(repository, version=2)
    async with serve(state=repository / "tiny/1/model.onnx/state.json", preload="tiny/1") as running:
        assert (await running.admin("promote", 1)).status_code == 200
        assert (await running.predict()).json()["version"] == 1
    assert "will not survive a restart" in caplog.text


async def test_the_default_is_not_unloaded(serve: Serve, repository: Path) -> None:
    publish(repository, version=2)
    async with serve() as running:
        reply = await running.admin("unload", 2)
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "conflict")
        assert (await running.predict()).status_code == 200


async def test_unloading_gives_the_engine_back(serve: Serve, repository: Path) -> None:
    publish(repository, version=2)
    async with serve(preload="tiny/1") as running:
        engine = weakref.ref(
            next(v for v in running.parts.registry.loaded if v.key.version == 1).session.engine
        )
        assert (await running.admin("unload", 1)).json()["state"] == "available"
        gc.collect()
        assert engine() is None
        reply = await running.predict(version=1)
        assert (reply.status_code, reply.json()["error"]["code"]) == (409, "not_loaded")
        assert (await running.admin("unload", 1)).status_code == 409
        assert (await running.admin("promote", 1)).status_code == 409


async def test_a_models_own_default_may_go_once_another_model_serves(serve: Serve, repository: Path) -> None:
    publish(repository, "other", 1)
    async with serve(default_model="tiny", preload="other") as running:
        for operation, name in (("promote", "tiny"), ("promote", "other"), ("unload", "tiny")):
            assert (await running.admin(operation, 1, name)).status_code == 200
        assert (await running.predict(model="tiny")).status_code == 409
        assert (await running.predict()).json()["model"] == "other"


async def test_unloading_waits_for_requests(serve: Serve, repository: Path, hold: Any) -> None:
    publish(repository, version=2)
    async with serve(preload="tiny/1") as running:
        old = next(v for v in running.parts.registry.loaded if v.key.version == 1)
        engine = hold(old)
        request = asyncio.ensure_future(running.predict(version=1))
        await asyncio.to_thread(engine.entered.wait)
        unload = asyncio.ensure_future(running.admin("unload", 1))
        await until(lambda: old not in running.parts.registry.loaded)
        assert (await states(running))["tiny", 1] == "draining"
        assert (await running.predict(version=1)).status_code == 409
        assert not unload.done()
        engine.release()
        assert (await request).status_code == 200
        assert (await unload).status_code == 200


@pytest.mark.parametrize("fault", ["checksum", "size", "missing", "probe", "graph", "manifest"])
async def test_a_bad_version_leaves_the_old_one_serving(serve: Serve, repository: Path, fault: str) -> None:
    async with serve() as running:
        folder = publish(repository, version=2, probe_shift=1.0 if fault == "probe" else 0.0)
        break_version(folder, fault)
        reply = await running.admin("load", 2)
        assert reply.status_code == 422
        assert (await states(running))["tiny", 2] == "failed"
        assert (await running.predict()).json()["version"] == 1
        assert (await running.admin("promote", 2)).json()["error"]["code"] == "not_loaded"
        assert 'bertpress_swaps_total{operation="load",outcome="ok"}' not in await running.metrics()


def break_version(folder: Path, fault: str) -> None:
    graph, manifest = folder / "model.onnx", folder / "manifest.json"
    if fault == "checksum":
        graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    elif fault == "size":
        graph.write_bytes(b"")
    elif fault == "missing":
        graph.unlink()
    elif fault == "graph":
        import hashlib

        document = json.loads(manifest.read_text())
        graph.write_bytes(b"no graph")
        document["builds"][0] |= {"bytes": 8, "sha256": hashlib.sha256(b"no graph").hexdigest()}
        manifest.write_text(json.dumps(document))
    elif fault == "manifest":
        manifest.write_text(manifest.read_text().replace('"version": 2', '"version": 3'))


async def test_a_mended_version_loads(serve: Serve, repository: Path) -> None:
    async with serve() as running:
        graph = publish(repository, version=2) / "model.onnx"
        sound = graph.read_bytes()
        graph.write_bytes(b"")
        assert (await running.admin("load", 2)).status_code == 422
        graph.write_bytes(sound)
        assert (await running.admin("load", 2)).json()["reason"].startswith("best of")


async def test_a_swap_under_load_fails_no_request(serve: Serve, repository: Path) -> None:
    publish(repository, version=2)
    async with serve(default_model="tiny", preload="tiny/1") as running:
        done = asyncio.Event()
        replies: list[tuple[int, int]] = []

        async def client() -> None:
            while not done.is_set():
                reply = await running.predict(["a great film", "bad"])
                replies.append((reply.status_code, reply.json().get("version", 0)))

        clients = [asyncio.ensure_future(client()) for _ in range(8)]
        for old, new in [(2, 1), (1, 2)] * 3:
            assert (await running.admin("load", new)).status_code == 200
            assert (await running.admin("promote", new)).status_code == 200
            assert (await running.admin("unload", old)).status_code == 200
        done.set()
        await asyncio.gather(*clients)
    assert {status for status, _ in replies} == {200}
    assert {version for _, version in replies} == {1, 2}


async def test_operations_come_one_at_a_time(serve: Serve, repository: Path) -> None:
    publish(repository, version=2)
    async with serve(preload="tiny/1") as running:
        replies = await asyncio.gather(*(running.admin("load", version) for version in (1, 2, 1, 2)))
        assert [reply.status_code for reply in replies] == [200] * 4


async def test_needs_decide_the_build(serve: Serve, repository: Path) -> None:
    builds = {"wide": {"needs": ("vnni",), "precision": "int8"}, "plain": {}}
    publish(repository, version=2, builds=builds)
    for features, build in (("avx2,vnni", "wide"), ("avx2", "plain")):
        async with serve(cpu_features=features) as running:
            assert running.default.build.name == build
    async with serve(cpu_features="avx2", build="wide") as running:
        assert running.default.build.name == "wide"
