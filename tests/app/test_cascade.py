"""Cascades served: what each text is answered by, and what holds for the tiers meanwhile."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.artifact import CascadeManifest, read, read_any
from app.errors import ManifestError
from tests.app.conftest import Running, Serve, until
from tests.app.tiny import publish, publish_cascade

pytestmark = pytest.mark.anyio

TEXTS = ["a great film", "this movie was terrible and boring", "good", "bad", "it is not", "watch the movie"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Three models; the tests lay cascades over them."""
    root = tmp_path / "models"
    for version in (1, 2, 3):
        publish(root, version=version)
    return root


def predictions(reply: httpx.Response) -> list[dict[str, Any]]:
    assert reply.status_code == 200, reply.text
    found: list[dict[str, Any]] = reply.json()["predictions"]
    return found


async def alone(running: Running, version: int) -> list[dict[str, Any]]:
    """What a tier answers when it is asked by its own name."""
    return predictions(await running.predict(TEXTS, model="tiny", version=version))


def rewrite(folder: Path, **fields: object) -> None:
    """Change a manifest where it stands."""
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


async def states(running: Running) -> dict[str, str]:
    models = (await running.http.get("/v1/models")).json()["models"]
    return {f"{model['name']}/{model['version']}": model["state"] for model in models}


def middle(rows: list[dict[str, Any]]) -> float:
    """A score that some of the texts reach and others do not."""
    scores = sorted(row["score"] for row in rows)
    return float(scores[len(scores) // 2 - 1] + scores[len(scores) // 2]) / 2


def told(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What was answered by whom; a score may differ in its last digits with the company in the batch."""
    return [(row["label"], row["tier"], row["tokens"], round(row["score"], 5)) for row in rows]


async def test_each_text_of_a_batch_takes_its_own_way(serve: Serve, repository: Path) -> None:
    async with serve(default_model="tiny", preload="tiny/1, tiny/2, tiny/3") as running:
        own = {version: await alone(running, version) for version in (1, 2, 3)}
        publish_cascade(
            repository, [("tiny", 1, middle(own[1])), ("tiny", 2, middle(own[2])), ("tiny", 3, None)]
        )
        assert (await running.admin("load", 1, "cascade")).status_code == 200
        found = predictions(await running.predict(TEXTS, model="cascade"))
        expected = []
        for index in range(len(TEXTS)):
            tier = next(v for v in (1, 2, 3) if v == 3 or own[v][index]["score"] >= middle(own[v]))
            expected.append({**own[tier][index], "tier": f"tiny/{tier}"})
        assert told(found) == told(expected)
        assert len({row["tier"] for row in found}) > 1
        # Asked one by one they are answered alike.
        singly = [predictions(await running.predict(text, model="cascade"))[0] for text in TEXTS]
        assert told(singly) == told(found)
        shares = {row["tier"]: sum(other["tier"] == row["tier"] for other in found) for row in found}
        exposed = await running.metrics()
        for tier, texts in shares.items():
            labels = f'model="cascade",tier="{tier}",version="1"'
            assert f"bertpress_cascade_texts_total{{{labels}}} {2 * texts:.1f}" in exposed
        assert 'bertpress_requests_total{model="cascade",outcome="ok",version="1"} 7.0' in exposed


async def test_what_the_first_tier_is_sure_of_goes_no_further(
    serve: Serve, repository: Path, hold: Any
) -> None:
    publish_cascade(repository, [("tiny", 1, 0.0), ("tiny", 2, None)])
    async with serve(default_model="cascade") as running:
        second = hold(running.parts.registry.loaded[1])  # would never answer
        rows = predictions(await running.predict(["good", "good", "bad"]))
        assert [row["tier"] for row in rows] == ["tiny/1"] * 3
        assert second.shapes == []


async def test_it_can_be_the_default_and_every_dialect_asks_it(serve: Serve, repository: Path) -> None:
    publish_cascade(repository, [("tiny", 1, 1.0), ("tiny", 2, None)])
    async with serve(default_model="cascade") as running:
        ready = (await running.http.get("/health/ready")).json()
        assert (ready["model"], ready["version"]) == ("cascade", 1)
        (row,) = predictions(await running.predict("good"))
        assert row["tier"] == "tiny/2"
        face = (await running.http.post("/", json={"inputs": "good"})).json()
        assert face[0][0] == {"label": row["label"], "score": row["score"]}
        inference = (await running.http.post("/predict", json={"inputs": "good"})).json()
        assert inference[0] == {"label": row["label"], "score": row["score"]}
        body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]}
        open_inference = (await running.http.post("/v2/models/cascade/infer", json=body)).json()
        outputs = {output["name"]: output["data"] for output in open_inference["outputs"]}
        assert outputs["label"] == [row["label"]]
        described = (await running.http.get("/v2/models/cascade")).json()
        assert (described["platform"], described["versions"]) == ("bertpress_cascade", ["1"])
        assert (await running.http.get("/info")).json()["max_input_length"] == 32
        exposed = await running.metrics()
        assert 'bertpress_model_default{model="cascade",version="1"} 1.0' in exposed
        # Grafana finds the models by this one.
        info = 'build="tiny/1 > tiny/2",engine="cascade",model="cascade",precision="fp32",version="1"'
        assert f"bertpress_model_info{{{info}}} 1.0" in exposed
        listed = (await running.http.get("/v1/models")).json()["models"]
        (entry,) = [model for model in listed if model["name"] == "cascade"]
        assert entry["tiers"] == [
            {"name": "tiny", "version": 1, "threshold": 1.0},
            {"name": "tiny", "version": 2, "threshold": None},
        ]
        assert (entry["default"], entry["bytes"], entry["labels"]) == (True, 0, ["negative", "positive"])


async def test_a_text_that_may_not_be_cut_is_refused_by_its_place(serve: Serve, repository: Path) -> None:
    publish_cascade(repository, [("tiny", 1, 1.0), ("tiny", 2, None)])
    async with serve(default_model="cascade") as running:
        texts = [["good"], ["bad " * 100]]
        reply = await running.http.post("/predict", json={"inputs": texts})
        assert reply.status_code == 413
        assert "inputs[1]" in reply.text
        cut = await running.http.post("/predict", json={"inputs": texts, "truncate": True})
        assert cut.status_code == 200


async def test_a_tier_that_is_needed_stays(serve: Serve, repository: Path) -> None:
    publish_cascade(repository, [("tiny", 1, 0.9), ("tiny", 2, None)])
    async with serve(default_model="tiny", preload="cascade") as running:
        refused = await running.admin("unload", 1)
        assert refused.status_code == 409
        assert "tiny/1 is a tier of cascade/1" in refused.text
        assert (await running.predict("good", model="cascade")).status_code == 200
        assert (await running.admin("unload", 1, "cascade")).status_code == 200
        assert (await running.admin("unload", 1)).status_code == 200
        found = await states(running)
        assert (found["cascade/1"], found["tiny/1"], found["tiny/2"]) == ("available", "available", "ready")
        assert (await running.predict("good", model="cascade")).status_code == 409


async def test_a_cascade_waits_for_its_requests_before_it_goes(
    serve: Serve, repository: Path, hold: Any
) -> None:
    publish_cascade(repository, [("tiny", 1, 1.0), ("tiny", 2, None)])
    async with serve(default_model="tiny", preload="cascade") as running:
        held = [hold(variant) for variant in running.parts.registry.loaded if variant.key.version != 3]
        asked = asyncio.ensure_future(running.predict("good", model="cascade"))
        await asyncio.to_thread(held[0].entered.wait)
        gone = asyncio.ensure_future(running.admin("unload", 1, "cascade"))
        await until(lambda: not running.parts.registry.catalog.cascades)
        assert not gone.done()
        for engine in held:
            engine.release()
        assert predictions(await asked)[0]["tier"] == "tiny/2"
        assert (await gone).status_code == 200


@pytest.mark.parametrize("fault", ["other", "missing", "bytes", "probes"])
async def test_a_tier_that_is_not_the_one_it_was_fitted_on_is_refused_and_the_old_one_serves(
    serve: Serve, repository: Path, fault: str
) -> None:
    publish_cascade(repository, [("tiny", 1, 1.0), ("tiny", 2, None)])
    publish(repository, "next", version=4)
    publish(repository, "next", version=5, probe_shift=1.0 if fault == "probes" else 0.0)
    publish_cascade(repository, [("next", 4, 1.0), ("next", 5, None)], version=2)
    if fault == "other":
        rewrite(repository / "next/5", calibration_temperature=2.0)
    elif fault == "missing":
        (repository / "next/5").rename(repository / "elsewhere")
    elif fault == "bytes":
        (repository / "next/5/model.onnx").write_bytes(b"other bytes")
    said = {
        "other": "is not the version that cascade/2 was fitted on",
        "missing": "asks next/5, which the repository does not have",
        "bytes": "published with",
        "probes": "published logits",
    }
    async with serve(default_model="tiny", preload="cascade/1") as running:
        refused = await running.admin("load", 2, "cascade")
        assert refused.status_code == 422
        assert said[fault] in refused.text
        found = await states(running)
        # Nothing stays behind of what was loaded for nothing.
        assert (found["cascade/1"], found["cascade/2"], found["next/4"]) == ("ready", "failed", "available")
        assert predictions(await running.predict("good", model="cascade"))[0]["tier"] == "tiny/2"


async def test_a_tier_in_memory_that_was_replaced_on_disk_is_refused(serve: Serve, repository: Path) -> None:
    async with serve(default_model="tiny") as running:
        rewrite(repository / "tiny/3", calibration_temperature=2.0)
        publish_cascade(repository, [("tiny", 1, 1.0), ("tiny", 3, None)])
        refused = await running.admin("load", 1, "cascade")
        assert refused.status_code == 422
        assert "in memory from another manifest" in refused.text


async def test_tiers_answer_the_same_labels(serve: Serve, repository: Path) -> None:
    publish(repository, "stars", labels=("one", "two"))
    publish_cascade(repository, [("stars", 1, 0.9), ("tiny", 2, None)])
    async with serve(default_model="tiny") as running:
        refused = await running.admin("load", 1, "cascade")
        assert (refused.status_code, "tiers have the same labels" in refused.text) == (422, True)


async def test_a_cascade_is_no_tier(serve: Serve, repository: Path) -> None:
    publish_cascade(repository, [("tiny", 1, 1.0), ("tiny", 2, None)])
    publish_cascade(repository, [("cascade", 1, 0.9), ("tiny", 2, None)], version=2)
    async with serve(default_model="tiny") as running:
        refused = await running.admin("load", 2, "cascade")
        assert (refused.status_code, "is a cascade itself" in refused.text) == (422, True)


async def test_cascades_are_swapped_while_requests_flow(serve: Serve, repository: Path) -> None:
    publish_cascade(repository, [("tiny", 1, 1.0), ("tiny", 2, None)])
    async with serve(default_model="cascade") as running:
        answered: list[httpx.Response] = []
        swapped = asyncio.Event()

        async def ask() -> None:
            while not swapped.is_set():
                answered.append(await running.predict(TEXTS))

        asking = [asyncio.ensure_future(ask()) for _ in range(4)]
        publish_cascade(repository, [("tiny", 2, 0.0), ("tiny", 3, None)], version=2)
        for operation, version in (("load", 2), ("promote", 2), ("unload", 1)):
            assert (await running.admin(operation, version, "cascade")).status_code == 200
        assert (await running.admin("unload", 1)).status_code == 200
        swapped.set()
        await asyncio.gather(*asking)
        assert {reply.status_code for reply in answered} == {200}
        by = {(reply.json()["version"], row["tier"]) for reply in answered for row in predictions(reply)}
        assert by <= {(1, "tiny/2"), (2, "tiny/2")}
        assert (await running.predict()).json()["version"] == 2


async def test_a_cascade_that_was_promoted_serves_after_a_restart(serve: Serve, repository: Path) -> None:
    publish_cascade(repository, [("tiny", 1, 1.0), ("tiny", 2, None)])
    async with serve(default_model="tiny", preload="cascade") as running:
        assert (await running.admin("promote", 1, "cascade")).json()["default"]
        assert (await running.admin("unload", 1, "cascade")).status_code == 409
    async with serve(default_model="tiny") as running:
        assert predictions(await running.predict("good"))[0]["tier"] == "tiny/2"


async def test_figures_that_were_measured_later_make_no_other_version(serve: Serve, repository: Path) -> None:
    publish_cascade(repository, [("tiny", 1, 1.0), ("tiny", 2, None)])
    rewrite(repository / "tiny/1", description="Measured on another machine since.", cost=[])
    async with serve(default_model="cascade") as running:
        assert predictions(await running.predict("good"))[0]["tier"] == "tiny/2"


@pytest.mark.parametrize("field", ["heads", "tokenizer", "calibration_temperature", "builds", "files"])
def test_the_identity_covers_what_answers_depend_on(repository: Path, field: str) -> None:
    before = read(repository / "tiny/1")
    changed = {
        "heads": (before.heads[0].model_copy(update={"labels": ("bad", "good")}),),
        "tokenizer": before.tokenizer.model_copy(update={"max_tokens": 31}),
        "calibration_temperature": 2.0,
        "builds": (before.builds[0].model_copy(update={"sha256": "0" * 64}),),
        "files": (before.files[0].model_copy(update={"sha256": "0" * 64}),),
    }
    assert before.model_copy(update={field: changed[field]}).identity != before.identity
    assert before.model_copy(update={"description": "x", "version": 9}).identity == before.identity
    card = before.files[0].model_copy(update={"file": "README.md"})
    assert before.model_copy(update={"files": (*before.files, card)}).identity == before.identity


def test_its_manifest_is_read_by_its_kind(repository: Path) -> None:
    folder = publish_cascade(repository, [("tiny", 1, 0.5), ("tiny", 2, None)])
    assert isinstance(read_any(folder), CascadeManifest)
    with pytest.raises(ManifestError, match="is a cascade"):
        read(folder)


@pytest.mark.parametrize(
    ("tiers", "message"),
    [
        ([("tiny", 1, None), ("tiny", 2, None)], "every tier but the last has a threshold"),
        ([("tiny", 1, 0.5), ("tiny", 2, 0.5)], "every tier but the last has a threshold"),
        ([("tiny", 1, 0.5), ("tiny", 1, None)], "stands twice"),
        ([("tiny", 1, 1.5), ("tiny", 2, None)], "less than or equal to 1"),
        ([("tiny", 1, None)], "at least 2"),
    ],
)
def test_cascades_that_make_no_sense(
    repository: Path, tiers: list[tuple[str, int, float | None]], message: str
) -> None:
    folder = publish_cascade(repository, [("tiny", 1, 0.5), ("tiny", 2, None)])
    document = json.loads((folder / "manifest.json").read_text())
    one = document["tiers"][0]
    document["tiers"] = [{**one, "name": n, "version": v, "threshold": t} for n, v, t in tiers]
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ManifestError, match=message):
        read_any(folder)
