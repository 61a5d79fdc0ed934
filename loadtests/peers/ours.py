"""bertpress itself, started by its own command."""

from __future__ import annotations

from app.settings import PREFIX
from loadtests import server
from loadtests.peers.peer import Launch, Peer, Setting, Started, clean_environment


def _start(launch: Launch) -> Started:
    name, repository = launch.model.parent.name, launch.model.parent.parent
    command = server.command(repository, launch.port, launch.scratch / "promoted.json", [name])
    settings = {"build": launch.build_name} if launch.setting.engine == "onnx" else {}
    chosen = {key: value for key, value in server.environment(settings).items() if key.startswith(PREFIX)}
    return Started(command, clean_environment() | chosen)


PEER = Peer(
    name="bertpress",
    distribution="bertpress",
    requirements=(),
    path="/v1/predict",
    body=lambda text, wait_ms: {"inputs": text, "timeout_ms": wait_ms},
    label=lambda answer: str(answer["predictions"][0]["label"]),
    start=_start,
    same_build=(Setting(),),
    documented=(Setting(engine="best for this CPU"),),
)
