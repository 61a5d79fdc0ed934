"""LitServe: https://lightning.ai/docs/litserve."""

from __future__ import annotations

from loadtests.peers.peer import Launch, Peer, Setting, Started


def _start(launch: Launch) -> Started:
    command = [str(launch.python), "-m", "loadtests.peers.servers.lit_serve"]
    return Started(command, launch.environment())


PEER = Peer(
    name="litserve",
    distribution="litserve",
    requirements=("litserve==0.2.19", "transformers==5.23.0"),
    path="/predict",
    body=lambda text, _: {"text": text},
    label=lambda answer: str(answer["label"]),
    start=_start,
    same_build=(
        Setting(workers=2, threads=1),
        Setting(workers=2, threads=1, options=("fast_queue",)),
        Setting(workers=1, threads=2, options=("fast_queue",)),
        Setting(workers=2, threads=1, batch=8, wait_ms=5, options=("fast_queue",)),
    ),
    # The first is the example of its documents; the second what they advise on CPUs and above 100
    # requests a second (with a thread for each worker, which they do not say, but two of two would quarrel).
    documented=(
        Setting(engine="transformers"),
        Setting(engine="transformers", workers=2, threads=1, options=("fast_queue",)),
        Setting(engine="transformers", workers=1, batch=8, wait_ms=50),
    ),
)
