"""What the suite publishes, the service serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app import artifact
from app.engines import load_engine
from app.main import create_app
from app.settings import Settings
from app.tokenizer import Tokenizer
from compression.evaluation import probabilities
from tests.compression.finished import Finished

pytestmark = pytest.mark.anyio
TEXTS = ["i found the film dull and the story long", "wonderful", "at last a gripping plot " * 20]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(
    ("model", "build"),
    [
        ("small", "onnx-int8-reduced"),
        ("small", "onnx-fp32"),
        ("whole", "onnx-fp32"),
        ("whole", "torchscript-fp32"),
    ],
)
async def test_the_service_gives_the_builds_own_probabilities(
    model: str, build: str, finished: Finished, tmp_path: Path
) -> None:
    settings = Settings(
        models=finished.request.repository,
        state=tmp_path / "state.json",
        default_model=model,
        build=build,
        allow_torchscript=True,
    )
    app = create_app(settings)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://test") as http,
    ):
        await app.state.start
        answer = (await http.post("/v1/predict", json={"inputs": TEXTS})).json()
        listed = (await http.get("/v1/models")).json()["models"]
    assert (answer["model"], answer["version"]) == (model, 1)
    assert {entry["build"] for entry in listed if entry["default"]} == {build}
    for text, prediction in zip(TEXTS, answer["predictions"], strict=True):
        check(prediction, text, finished, model, build)


def check(prediction: dict[str, Any], text: str, finished: Finished, model: str, build: str) -> None:
    """Compare one prediction with the engine run by hand."""
    folder, manifest = finished.folder(model), finished.manifest(model)
    chosen = next(entry for entry in manifest.builds if entry.name == build)
    encoded = Tokenizer(folder / artifact.TOKENIZER_FILE, manifest.tokenizer).encode(text)
    input_ids = encoded.input_ids[None, :]
    engine = load_engine(chosen.engine, folder / chosen.file, 1)
    temperature = np.float32(manifest.calibration_temperature)
    expected = probabilities(engine.logits(input_ids, np.ones_like(input_ids)) / temperature)[0]
    found = [prediction["probabilities"][label] for label in manifest.labels]
    # A build that depends on its batch-mates is run alone; int8 that hardly does may have had company.
    tolerance = 0.01 if chosen.precision == "int8" and chosen.batch_invariant else 1e-4
    assert found == pytest.approx(expected.tolist(), abs=tolerance)
    assert prediction["label"] == manifest.labels[int(expected.argmax())]
    assert (prediction["tokens"], prediction["truncated"]) == (len(encoded.input_ids), encoded.truncated)
