from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from loadtests import open_loop
from loadtests.process import answers_200, running, unused_port, wait_until
from tests.observability import ALERTS, DOCKER, dashboard_expressions
from tests.system.conftest import ADMIN_TOKEN

pytestmark = pytest.mark.system

ALERTS_TEST = Path(__file__).with_name("alerts_test.yml")
PATIENCE_SECONDS = 60.0

Program = Callable[[str], str]


@pytest.fixture(scope="module")
def prometheus_url(
    service_url: str, program: Program, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A real Prometheus with our configuration, only the service's address and the pace changed."""
    folder = tmp_path_factory.mktemp("prometheus")
    config = yaml.safe_load((DOCKER / "prometheus.yml").read_bytes())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [service_url.removeprefix("http://")]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(ALERTS, folder)
    address = f"127.0.0.1:{unused_port()}"
    flags = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
    ]
    with running([program("prometheus"), *flags]) as process:
        wait_until(process, answers_200(f"http://{address}/-/ready"))
        yield f"http://{address}"


@pytest.fixture(scope="module")
def traffic(service_url: str, prometheus_url: str) -> None:
    """A promotion, some texts for the cascade, and some seconds of predictions, while Prometheus looks on."""
    promote_default(service_url)
    ask_the_cascade(service_url)
    flags = ["--url", service_url, "--rate", "20", "--duration-seconds", "5"]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("BERTPRESS_DATA", raising=False)
        assert open_loop.main(flags) == 0


def promote_default(service_url: str) -> None:
    """Promote the version that is the default already."""
    models = httpx.get(f"{service_url}/v1/models").json()["models"]
    (default,) = [model for model in models if model["default"]]
    path = f"/admin/models/{default['name']}/{default['version']}/promote"
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    httpx.post(service_url + path, headers=headers).raise_for_status()


def ask_the_cascade(service_url: str) -> None:
    """Load the shipped cascade, and let it answer."""
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    models = httpx.get(f"{service_url}/v1/models").json()["models"]
    version = max(model["version"] for model in models if model["name"] == "sentiment-cascade")
    path = f"/admin/models/sentiment-cascade/{version}/load"
    httpx.post(service_url + path, headers=headers).raise_for_status()
    body = {"model": "sentiment-cascade", "inputs": ["worth every minute", "not as bad as they say"]}
    httpx.post(f"{service_url}/v1/predict", json=body).raise_for_status()


def promtool(program: Program, *arguments: str, given: str | None = None) -> str:
    """What promtool prints; it must not complain."""
    command = [program("promtool"), *arguments]
    result = subprocess.run(command, input=given, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def ask(prometheus_url: str, path: str, **query: str) -> Any:
    """The data of an answer of Prometheus's HTTP interface."""
    answer = httpx.get(f"{prometheus_url}/api/v1/{path}", params=query).json()
    assert answer["status"] == "success"
    return answer["data"]


def test_our_configuration_is_prometheus_s(program: Program) -> None:
    promtool(program, "check", "config", str(DOCKER / "prometheus.yml"))


def test_each_alert_fires_in_trouble_and_only_then(program: Program, tmp_path: Path) -> None:
    shutil.copy(ALERTS, tmp_path)
    shutil.copy(ALERTS_TEST, tmp_path)

    promtool(program, "test", "rules", str(tmp_path / ALERTS_TEST.name))


@pytest.mark.usefixtures("traffic")
def test_the_metrics_keep_prometheus_s_conventions(service_url: str, program: Program) -> None:
    exposed = httpx.get(f"{service_url}/metrics").text

    assert promtool(program, "check", "metrics", given=exposed) == ""


@pytest.mark.usefixtures("traffic")
def test_prometheus_has_counted_the_traffic(prometheus_url: str) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    query = 'sum(bertpress_predictions_total{job="bertpress"})'
    while not (result := ask(prometheus_url, "query", query=query)["result"]):
        assert time.monotonic() < give_up, "no predictions were scraped"
        time.sleep(0.2)

    assert float(result[0]["value"][1]) >= 1


@pytest.mark.usefixtures("traffic")
@pytest.mark.parametrize("expression", dashboard_expressions())
def test_every_panel_has_something_to_show(prometheus_url: str, expression: str) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not ask(prometheus_url, "query", query=expression)["result"]:
        assert time.monotonic() < give_up, f"{expression} has no result"
        time.sleep(0.2)


@pytest.mark.usefixtures("traffic")
def test_alerts_are_evaluated_and_silent(prometheus_url: str) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    (group,) = ask(prometheus_url, "rules")["groups"]
    while any(rule["health"] == "unknown" for rule in group["rules"]):
        assert time.monotonic() < give_up, "the alerts were not evaluated"
        time.sleep(0.2)
        (group,) = ask(prometheus_url, "rules")["groups"]

    assert {rule["health"] for rule in group["rules"]} == {"ok"}
    assert {rule["state"] for rule in group["rules"]} == {"inactive"}
