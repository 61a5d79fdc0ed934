"""huggingface_hub's own client against the service."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import BadRequestError, HfHubHTTPError

from tests.app.protocols.conftest import Live

TEXT = "a great film"


@pytest.fixture
def client(live: Callable[..., Live]) -> InferenceClient:
    return InferenceClient(model=live().url)


def test_labels_come_best_first(client: InferenceClient) -> None:
    labels = client.text_classification(TEXT)
    assert {each.label for each in labels} == {"negative", "positive"}
    assert [each.score for each in labels] == sorted((each.score for each in labels), reverse=True)
    assert sum(each.score for each in labels) == pytest.approx(1)


def test_top_k(client: InferenceClient) -> None:
    best = client.text_classification(TEXT)[0]
    assert client.text_classification(TEXT, top_k=1) == [best]
    assert len(client.text_classification(TEXT, top_k=9)) == 2


def test_functions_to_apply(client: InferenceClient) -> None:
    softmax, sigmoid, logits = (
        {each.label: each.score for each in client.text_classification(TEXT, function_to_apply=function)}
        for function in ("softmax", "sigmoid", "none")
    )
    assert softmax == {each.label: each.score for each in client.text_classification(TEXT)}
    assert sum(softmax.values()) == pytest.approx(1)
    assert all(0 < score < 1 for score in sigmoid.values())
    assert max(logits, key=lambda label: logits[label]) == max(softmax, key=lambda label: softmax[label])
    assert logits != softmax != sigmoid


def test_the_message_of_an_error_reaches_the_caller(client: InferenceClient) -> None:
    with pytest.raises(BadRequestError, match=r"inputs\[0\] is empty") as caught:
        client.text_classification(" ")
    assert caught.value.response.status_code == 400
    with pytest.raises(HfHubHTTPError, match="shorten it"):
        client.text_classification("x" * 100_001)


def test_the_asynchronous_client(live: Callable[..., Live]) -> None:
    async def classify(url: str) -> list[list[float]]:
        async with AsyncInferenceClient(model=url) as client:
            answers = await asyncio.gather(*(client.text_classification(TEXT) for _ in range(5)))
        return [[each.score for each in answer] for answer in answers]

    scores = asyncio.run(classify(live().url))
    assert scores == [scores[0]] * 5
