from __future__ import annotations

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
HEALTHCHECK = ROOT / "docker" / "healthcheck.py"
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_bytes())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SETTINGS = {PREFIX + name.upper() for name in Settings.model_fields}


def final_stage() -> str:
    return DOCKERFILE.read_text().rpartition("\nFROM ")[2]


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")

    result = subprocess.run([hadolint, DOCKERFILE], capture_output=True, text=True)

    assert result.stdout + result.stderr == ""
    assert result.returncode == 0


@pytest.mark.parametrize(
    "line",
    ["USER 10001:10001", "STOPSIGNAL SIGTERM", 'CMD ["bertpress-serve"]', "EXPOSE 8000"],
)
def test_the_image_ends_as_it_must(line: str) -> None:
    assert line in final_stage().splitlines()


def test_the_image_installs_the_default_dependencies_alone() -> None:
    text = DOCKERFILE.read_text()

    assert '["project"]["dependencies"]' in text
    assert "optional-dependencies" not in text
    assert "torch" not in text


def test_the_final_stage_installs_nothing() -> None:
    assert not re.search(r"\bpip\b|apt-get|--mount", final_stage())


def test_only_real_settings_are_set() -> None:
    set_in_image = set(re.findall(rf"{PREFIX}[A-Z_]+", DOCKERFILE.read_text()))

    assert set_in_image | set(SERVICES["service"]["environment"]) <= SETTINGS


def test_what_the_dockerfile_copies_reaches_the_builder() -> None:
    sources = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE.read_text(), re.MULTILINE)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()

    assert ignored[1] == "*"
    assert {f"!{source.rstrip('/')}" for line in sources for source in line.split()} <= set(ignored)


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_confined(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_foreign_images_are_pinned_to_a_version(name: str) -> None:
    assert re.fullmatch(r"[a-z/]+:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


def test_files_that_compose_mounts_exist() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service["volumes"]]
    sources = [mount.split(":")[0] for mount in mounts if mount.startswith(".")]

    assert all((ROOT / "docker" / source).exists() for source in sources)


def test_volumes_are_declared() -> None:
    mounts = [mount for service in SERVICES.values() for mount in service["volumes"]]
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith(".")}

    assert named == set(COMPOSE["volumes"])


def test_the_container_may_finish_what_it_admitted() -> None:
    grace_seconds = Settings.model_fields["grace_seconds"].default

    assert int(SERVICES["service"]["stop_grace_period"].removesuffix("s")) > grace_seconds


given: list[str | None] = []
"""The credentials that the checks have sent."""


@contextmanager
def answering(status: int) -> Iterator[int]:
    given.clear()

    class Service(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            given.append(self.headers["Authorization"])
            self.send_response(status if self.path == "/health/ready" else 404)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            """Stay silent."""

    with HTTPServer(("127.0.0.1", 0), Service) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def check(port: int, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(HEALTHCHECK)]
    environment["BERTPRESS_PORT"] = str(port)
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_ready_service_is_healthy() -> None:
    with answering(200) as port:
        assert check(port).returncode == 0


@pytest.mark.parametrize(
    ("environment", "sent"),
    [
        ({}, None),
        ({"BERTPRESS_ADMIN_TOKEN": "", "BERTPRESS_API_KEYS": ""}, None),
        ({"BERTPRESS_ADMIN_TOKEN": "abc", "BERTPRESS_API_KEYS": "shop:def"}, "Bearer abc"),
        ({"BERTPRESS_API_KEYS": " shop: def ,blog:ghi"}, "Bearer def"),
    ],
)
def test_the_check_can_pass_a_protected_door(environment: dict[str, str], sent: str | None) -> None:
    with answering(200) as port:
        assert check(port, **environment).returncode == 0
    assert given == [sent]


def test_a_service_that_is_not_ready_is_unhealthy() -> None:
    with answering(503) as port:
        result = check(port)

    assert (result.returncode, result.stderr) == (1, "/health/ready answers 503\n")


def test_a_service_that_is_gone_is_unhealthy() -> None:
    with answering(200) as port:
        pass
    result = check(port)

    assert result.returncode == 1
    assert f"port {port} does not answer" in result.stderr
