from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from loadtests import open_loop


class Service(BaseHTTPRequestHandler):
    """Ready, and answers every prediction."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer()

    def _answer(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *arguments: object) -> None:
        """Stay silent."""


class Server(ThreadingHTTPServer):
    """Takes as many new connections at once as the load opens."""

    request_queue_size = 128


@pytest.fixture
def service_url() -> Iterator[str]:
    with Server(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def shipped_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BERTPRESS_DATA", raising=False)


def figures(output: str) -> dict[str, object]:
    parsed: dict[str, object] = json.loads(output)
    return parsed


@pytest.mark.parametrize("arrivals", ["constant", "poisson"])
def test_an_open_run_prints_json_and_a_table(
    service_url: str, arrivals: str, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--url", service_url, "--rate", "40", "--duration-seconds", "0.5", "--arrivals", arrivals]

    assert open_loop.main(flags) == 0

    printed = capsys.readouterr()
    summary = figures(printed.out)
    assert summary["mode"] == f"open loop, {arrivals}"
    assert summary["errors"] == {}
    assert summary["answered"] == summary["requests"]
    assert "latency p99" in printed.err


def test_without_a_rate_the_run_is_closed(service_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [
        "--url",
        service_url,
        "--duration-seconds",
        "0.3",
        "--connections",
        "2",
        "--texts-per-request",
        "4",
    ]

    assert open_loop.main(flags) == 0

    summary = figures(capsys.readouterr().out)
    assert summary["mode"] == "closed loop"
    assert summary["offered_rate"] is None
    assert summary["answered"] == summary["requests"] != 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--url", "http://example.org"], "not on this machine"),
        (["--rate", "0"], "the rate is 0"),
        (["--duration-seconds", "3600"], "at most 600 s"),
        (["--rate", "1e6"], "more than 200000 requests"),
        (["--connections", "0"], "--connections is 0"),
        (["--timeout-seconds", "-1"], "--timeout-seconds is -1"),
        (["--texts-per-request", "1000"], "1000 texts"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert open_loop.main(flags) == 1

    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.count("\n") == 1


def test_every_flag_says_what_it_does() -> None:
    actions: list[argparse.Action] = open_loop.parser()._actions

    assert all(action.help for action in actions)
