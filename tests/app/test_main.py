from __future__ import annotations

import pytest

from app import errors
from app.main import STATUSES, status_of
from app.protocols.errors import is_flat
from tests.app.conftest import Serve


def subclasses(kind: type[errors.BertpressError]) -> list[type[errors.BertpressError]]:
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in subclasses(child))]


def make(kind: type[errors.BertpressError]) -> errors.BertpressError:
    if issubclass(kind, errors.LimitExceededError):
        return kind("m", limit=1)
    if issubclass(kind, errors.BusyError):
        return kind("m", retry_after_seconds=1.0)
    return kind("m")


def test_every_error_has_a_status_and_a_code_of_its_own() -> None:
    kinds = subclasses(errors.BertpressError)
    assert all(400 <= status_of(make(kind)) < 600 for kind in kinds)
    codes = [make(kind).code for kind in kinds]
    assert len(set(codes)) == len(codes)
    assert make(errors.DeadlineExceededError).code == "deadline_exceeded"


def test_no_row_of_the_table_hides_another() -> None:
    for index, (kind, _) in enumerate(STATUSES):
        assert not any(issubclass(kind, earlier) for earlier, _ in STATUSES[:index])


def test_what_a_client_can_cause_is_no_500() -> None:
    assert {status_of(make(kind)) for kind in subclasses(errors.RequestError)[1:]} <= {
        400,
        404,
        413,
        422,
        431,
        504,
    }


@pytest.mark.anyio
async def test_openapi_tells_of_the_real_bodies(serve: Serve) -> None:
    async with serve(max_texts=7) as running:
        document = (await running.http.get("/openapi.json")).json()
        assert (await running.http.get("/docs")).status_code == 200
    assert "HTTPValidationError" not in str(document)
    assert set(document["paths"]) == {
        "/",
        "/predict",
        "/health",
        "/info",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{name}",
        "/v2/models/{name}/ready",
        "/v2/models/{name}/infer",
        "/v2/models/{name}/versions/{version}",
        "/v2/models/{name}/versions/{version}/ready",
        "/v2/models/{name}/versions/{version}/infer",
        "/v2/repository/index",
        "/v2/repository/models/{name}/load",
        "/v2/repository/models/{name}/unload",
        "/v1/predict",
        "/v1/models",
        "/admin/models/{name}/{version}/load",
        "/admin/models/{name}/{version}/promote",
        "/admin/models/{name}/{version}/unload",
        "/health/live",
        "/health/ready",
        "/metrics",
    }
    for path, operations in document["paths"].items():
        shape = "FlatErrorReply" if is_flat(path) else "ErrorReply"
        for operation in operations.values():
            assert {"400", "401", "408", "431", "500", "503"} <= set(operation["responses"])
            for status, response in operation["responses"].items():
                if status[0] in "45":
                    reference = response["content"]["application/json"]["schema"]["$ref"]
                    assert reference == f"#/components/schemas/{shape}"
    predict = document["paths"]["/v1/predict"]["post"]
    schema = predict["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["inputs"]["anyOf"][1]["maxItems"] == 7
    assert {"400", "404", "409", "413", "429", "503", "504"} <= set(predict["responses"])
