from __future__ import annotations

from typing import Any

import pytest

from tests.app.conftest import Serve

pytestmark = pytest.mark.anyio
TENSOR = {"inputs": [{"name": "text", "datatype": "BYTES", "shape": [1], "data": ["good"]}]}
REQUESTS: list[tuple[str, object, int]] = [
    ("/v1/predict", {"inputs": "good"}, 200),
    ("/", {"inputs": "good"}, 200),
    ("/predict", {"inputs": "good"}, 200),
    ("/v2/models/tiny/infer", TENSOR, 200),
    ("/v2/models/tiny/versions/1/infer", TENSOR, 200),
    ("/v2/models/tiny/versions/x/infer", TENSOR, 404),
    ("/v2/models/a%2Fb/infer", TENSOR, 404),
    ("/v2/models/absent/infer", TENSOR, 404),
    ("/v2/models//infer", TENSOR, 404),
    ("/v1/predict", {"inputs": 7}, 400),
    ("/predict", {"inputs": ["a", "b"]}, 422),
]


def stable(document: Any) -> Any:
    """Without what differs from call to call."""
    for place in (document, document.get("error") if isinstance(document, dict) else None):
        if isinstance(place, dict):
            place.pop("request_id", None)
            place.pop("timing", None)
    return document


async def test_both_lanes_answer_alike(serve: Serve) -> None:
    answers = []
    for busy in (True, False):
        async with serve() as running:
            if not busy:
                running.app.busy_routes = {}  # type: ignore[attr-defined]
            replies = [await running.http.post(path, json=body) for path, body, _ in REQUESTS]
            text = await running.metrics()
        assert [reply.status_code for reply in replies] == [status for _, _, status in REQUESTS]
        routes = {line.split('route="')[1].split('"')[0] for line in text.splitlines() if 'route="' in line}
        assert "/v2/models/{name}/versions/{version}/infer" in routes
        answers.append([stable(reply.json()) for reply in replies])
    assert answers[0] == answers[1]
