"""Nothing that a client writes, and no link in the repository, leads to a file outside of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from app import artifact
from app.errors import ArtifactError, ManifestError
from app.repository import Repository
from app.variant import VersionKey
from tests.app.conftest import ADMIN, Serve
from tests.app.tiny import publish

ESCAPES = (
    "..",
    "../tiny",
    "..%2Ftiny",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..%252ftiny",
    "%2Fetc%2Fpasswd",
    "tiny%00",
    "..%5Ctiny",
    "tiny/..",
    ".",
    "~",
)


async def call(app: Any, method: str, raw_path: str) -> tuple[int, bytes]:
    """A request whose path nobody has tidied up, as clients in the libraries do."""
    headers = [(name.lower().encode(), value.encode()) for name, value in ADMIN.items()]
    scope = {
        "type": "http",
        "method": method,
        "path": unquote(raw_path),
        "raw_path": raw_path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "http_version": "1.1",
        "scheme": "http",
        "server": ("test", 80),
        "client": ("test", 1),
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_a_model_that_is_a_link_out_is_refused(repository: Path, tmp_path: Path) -> None:
    publish(tmp_path / "elsewhere", "other", 1)
    (repository / "other").symlink_to(tmp_path / "elsewhere/other")
    with pytest.raises(ArtifactError, match="leads out"):
        Repository(repository).folder(VersionKey("other", 1))


def test_a_link_within_the_repository_is_none_of_these(repository: Path) -> None:
    (repository / "tiny/1").rename(repository / "tiny/hidden")
    (repository / "tiny/1").symlink_to(repository / "tiny/hidden")
    assert Repository(repository).folder(VersionKey("tiny", 1)).is_dir()


def test_a_repository_that_is_a_link_itself_is_the_operators_choice(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(repository)
    assert Repository(tmp_path / "link").manifest(VersionKey("tiny", 1)).name == "tiny"


def test_a_manifest_that_is_a_link_is_not_read(repository: Path, tmp_path: Path) -> None:
    path = repository / "tiny/1" / artifact.MANIFEST_FILE
    shutil.move(path, tmp_path / "elsewhere.json")
    path.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ManifestError, match="link"):
        artifact.read(repository / "tiny/1")


@pytest.mark.anyio
async def test_linked_versions_are_listed_as_failed_and_never_served(
    serve: Serve, repository: Path, tmp_path: Path
) -> None:
    publish(tmp_path / "elsewhere", "tiny", 2)
    (repository / "tiny/2").symlink_to(tmp_path / "elsewhere/tiny/2")
    async with serve() as running:
        reply = await running.admin("load", 2)
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "artifact")
        assert running.default.key.version == 1


@pytest.mark.anyio
async def test_no_path_of_any_dialect_leads_out(serve: Serve) -> None:
    async with serve() as running:
        templates = [path for path in running.app.openapi()["paths"] if "{" in path]
        assert len(templates) >= 3
        for template in templates:
            for escape in ESCAPES:
                path = template.replace("{name}", escape).replace("{version}", escape)
                for method in ("GET", "POST"):
                    status, body = await call(running.app, method, path)
                    assert 400 <= status < 500, (method, path, status)
                    assert b"passwd" not in body
