"""A model with several heads, served."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.answer import predict_heads, softmax
from app.artifact import Head
from app.tokenizer import Encoded
from app.variant import Variant
from tests.app.conftest import Serve
from tests.app.tiny import publish

pytestmark = pytest.mark.anyio
RATING = Head(name="rating", labels=("1", "2", "3"))
TOPIC = Head(name="topic", labels=("film", "food"))
TEXTS = ["a great film", "bad"]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One model that answers the sentiment, a rating and a topic."""
    publish(tmp_path / "models", further_heads=(RATING, TOPIC))
    return tmp_path / "models"


def by_hand(variant: Variant, text: str) -> list[float]:
    logits: list[float] = variant.run([variant.tokenizer.encode(text).input_ids])[0].tolist()
    return logits


async def test_every_head_answers_and_the_first_is_the_answer(serve: Serve) -> None:
    async with serve(cache_bytes=1 << 20) as running:
        for _ in range(2):  # the second time from the cache
            predictions = (await running.predict(TEXTS)).json()["predictions"]
            for text, row in zip(TEXTS, predictions, strict=True):
                logits = by_hand(running.default, text)
                assert list(row["heads"]) == ["label", "rating", "topic"]
                parts = {"label": logits[:2], "rating": logits[2:5], "topic": logits[5:]}
                for name, part in parts.items():
                    found = row["heads"][name]
                    assert list(found["probabilities"].values()) == pytest.approx(softmax(part), abs=1e-5)
                    assert found["probabilities"][found["label"]] == found["score"] == max(softmax(part))
                assert {name: row[name] for name in ("label", "score", "probabilities")} == row["heads"][
                    "label"
                ]
        listed = (await running.http.get("/v1/models")).json()["models"][0]
        assert listed["labels"] == ["negative", "positive"]
        assert listed["heads"]["rating"] == ["1", "2", "3"]


async def test_other_dialects_answer_with_the_first_head(serve: Serve) -> None:
    async with serve() as running:
        row = (await running.predict("good")).json()["predictions"][0]
        face = (await running.http.post("/", json={"inputs": "good"})).json()
        assert face[0][0] == {"label": row["label"], "score": row["score"]}
        assert len(face[0]) == 2
        inference = (await running.http.post("/predict", json={"inputs": "good"})).json()
        assert inference[0] == {"label": row["label"], "score": row["score"]}
        body = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["good"]}]}
        reply = (await running.http.post("/v2/models/tiny/infer", json=body)).json()
        outputs = {output["name"]: output for output in reply["outputs"]}
        assert outputs["probabilities"]["shape"] == [1, 2]


async def test_a_model_with_one_head_answers_as_ever(serve: Serve, repository: Path) -> None:
    publish(repository, "plain")
    async with serve(default_model="plain") as running:
        row = (await running.predict("good")).json()["predictions"][0]
        assert set(row) == {"label", "score", "probabilities", "tokens", "truncated"}


def test_the_temperature_is_the_first_heads() -> None:
    logits = np.array([1.0, 3.0, 0.5, 2.0, 0.0, 1.0, 4.0], dtype=np.float32)
    encoded = Encoded(input_ids=np.arange(3), truncated=False)
    heads = (Head(name="label", labels=("no", "yes")), RATING, TOPIC)
    found = predict_heads(logits, encoded, heads, temperature=2.0)
    assert found.probabilities == pytest.approx(softmax([1.0, 3.0], 2.0))
    assert [(each.head, each.label) for each in found.further] == [(RATING, "2"), (TOPIC, "food")]
    assert found.further[0].probabilities == pytest.approx(softmax([0.5, 2.0, 0.0]))
