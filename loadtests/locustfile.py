"""Users of a running bertpress for Locust: `python -m locust -f loadtests/locustfile.py --host http://127.0.0.1:8000`.

Locust's users wait for their answers, so its load is closed: use `loadtests.open_loop` for latencies under
a stated rate, and this for a picture of mixed traffic while it runs.
"""

from __future__ import annotations

import random

from locust import FastHttpUser, between, task

from loadtests import texts
from loadtests.driver import check_loopback

BATCH_TEXTS = 8

TEXTS = texts.load()
SHORT_TEXTS, LONG_TEXTS = texts.short_and_long(TEXTS)


class Reader(FastHttpUser):
    """Someone who mostly asks about short texts, sometimes about long ones, now and then about several."""

    host = "http://127.0.0.1:8000"
    wait_time = between(0.05, 0.2)

    def on_start(self) -> None:
        """Load goes to this machine and nowhere else."""
        check_loopback(self.host or "")

    @task(6)
    def short_text(self) -> None:
        self._predict("short", random.choice(SHORT_TEXTS))

    @task(3)
    def long_text(self) -> None:
        self._predict("long", random.choice(LONG_TEXTS))

    @task(1)
    def batch(self) -> None:
        self._predict("batch", random.choices(TEXTS, k=BATCH_TEXTS))

    def _predict(self, name: str, inputs: str | list[str]) -> None:
        expected = 1 if isinstance(inputs, str) else len(inputs)
        request = {"inputs": inputs}
        with self.client.post("/v1/predict", json=request, name=name, catch_response=True) as response:
            if response.status_code != 200:
                response.failure(f"status {response.status_code}")
            elif len(response.json()["predictions"]) != expected:
                response.failure(f"not {expected} predictions for {expected} texts")
