"""BentoML: https://docs.bentoml.com."""

from __future__ import annotations

from loadtests.peers.peer import Launch, Peer, Setting, Started


def _start(launch: Launch) -> Started:
    service = "loadtests.peers.servers.bento_ml:Sentiment"
    address = ["--host", "127.0.0.1", "--port", str(launch.port)]
    variables = {"BENTOML_HOME": str(launch.scratch), "BENTOML_DO_NOT_TRACK": "True"}
    return Started([launch.program("bentoml"), "serve", service, *address], launch.environment(**variables))


PEER = Peer(
    name="bentoml",
    distribution="bentoml",
    requirements=("bentoml==1.4.39", "transformers==5.23.0"),
    path="/classify",
    body=lambda text, _: {"texts": [text]},
    label=lambda answer: str(answer[0]["label"]),
    start=_start,
    same_build=(
        Setting(workers=2, threads=1),
        Setting(workers=1, threads=2),
        Setting(workers=2, threads=1, batch=8),
        Setting(workers=1, threads=2, batch=8),
    ),
    documented=(
        Setting(engine="transformers"),
        Setting(engine="transformers", workers=2, threads=1),
        Setting(engine="transformers", batch=100),
    ),
)
