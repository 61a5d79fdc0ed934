"""OpenAPI against the service: schemathesis sends what it allows, and what it forbids."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.app.conftest import TOKEN, Serve
from tests.app.protocols.conftest import Live
from tests.app.tiny import publish

ROOT = Path(__file__).parents[3]


def run_schemathesis(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--seed", "1"]
    command += ["-H", f"Authorization: Bearer {TOKEN}", "--generation-database", "none", "--warnings", "off"]
    return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, check=False)


def test_schemathesis_finds_nothing(live: Callable[..., Live], repository: Path) -> None:
    publish(repository, version=2)
    publish(repository, "other", 3)
    done = run_schemathesis(live().url, "--max-examples", "5", "--continue-on-failure")
    assert "No issues found" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0
    assert "25 selected" in done.stdout


def test_it_would_find_something(live: Callable[..., Live]) -> None:
    """The check has teeth: a status that the document does not tell of is a finding."""
    service = live()
    service.app.openapi_schema = {
        **service.app.openapi(),
        "paths": {"/v1/models": {"get": {"responses": {"204": {"description": "nothing"}}}}},
    }
    done = run_schemathesis(service.url, "--max-examples", "1")
    assert "1 unique failure" in done.stdout
    assert done.returncode == 1


async def document_of(serve: Serve, **settings: object) -> dict[str, Any]:
    async with serve(**settings) as running:
        document: dict[str, Any] = (await running.http.get("/openapi.json")).json()
        return document


@pytest.mark.anyio
async def test_keys_are_named_where_they_are_needed(serve: Serve) -> None:
    without = await document_of(serve)
    assert set(without["components"]["securitySchemes"]) == {"HTTPBearer"}
    assert "security" not in without["paths"]["/v1/predict"]["post"]
    document = await document_of(serve, api_keys="shop:a-key-of-the-shop-01", protect_metrics=True)
    assert set(document["components"]["securitySchemes"]) == {"HTTPBearer", "ApiKeyBearer", "ApiKeyHeader"}
    either: list[dict[str, list[str]]] = [{"ApiKeyBearer": []}, {"ApiKeyHeader": []}]
    for path, method in (("/v1/predict", "post"), ("/", "post"), ("/v2/models/{name}", "get")):
        assert document["paths"][path][method]["security"] == either
    assert document["paths"]["/metrics"]["get"]["security"] == either
    assert "security" not in document["paths"]["/health/live"]["get"]
    operator = document["paths"]["/admin/models/{name}/{version}/load"]["post"]
    assert operator["security"] == [{"HTTPBearer": []}]
