"""Clients that take their time, against the command in a process of its own."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app import cli
from tests.app.test_cli import Server

HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n"


@pytest.fixture
def server(repository: Path) -> Iterator[Server]:
    flags = ("--header-timeout-seconds", "0.2", "--body-timeout-seconds", "0.2", "--max-connections", "4")
    with Server(repository, *flags) as server:
        yield server


def connect(server: Server, sent: bytes) -> socket.socket:
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    client = socket.create_connection((host, int(port)))
    client.sendall(sent)
    return client


def read_all(client: socket.socket) -> bytes:
    """Everything until the service closes the connection: that it does is what is tested."""
    with client:
        received = b""
        while chunk := client.recv(65536):
            received += chunk
        return received


def test_slow_clients_are_cut_off_and_others_are_served(server: Server) -> None:
    slow = [connect(server, sent) for sent in (b"", b"POST /v1/predict HTTP/1.1\r\nHo", HEAD + b'{"inp')]
    assert httpx.post(f"{server.url}/v1/predict", json={"inputs": "good"}).status_code == 200
    nothing, head, body = (read_all(client) for client in slow)
    assert nothing == b""
    assert head.startswith(b"HTTP/1.1 408") and b"header_timeout" in head
    assert body.startswith(b"HTTP/1.1 408") and b"body_timeout" in body
    metrics = httpx.get(f"{server.url}/metrics").text
    assert 'bertpress_connections_cut_total{reason="header_timeout"} 2.0' in metrics
    assert "bertpress_connections 1.0" in metrics
    code, rest = server.stop()
    assert (code, "Traceback" in rest) == (0, False)


def test_more_connections_than_allowed(server: Server) -> None:
    clients = [connect(server, b"") for _ in range(5)]
    answers = [read_all(client) for client in clients]
    assert sum(answer.startswith(b"HTTP/1.1 503") for answer in answers) == 1
    assert httpx.get(f"{server.url}/health/live").status_code == 200


@pytest.mark.parametrize(
    ("soft", "hard", "wanted", "raised"),
    [
        (1024, 4096, 2000, 2000),
        (1024, 1500, 2000, 1500),
        (1024, resource.RLIM_INFINITY, 2000, 2000),
        (5000, 5000, 2000, None),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, 2000, None),
    ],
)
def test_there_are_files_for_all_connections(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, wanted: int, raised: int | None
) -> None:
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: calls.append(limits))
    cli._allow_files(wanted)
    assert calls == ([] if raised is None else [(raised, hard)])
