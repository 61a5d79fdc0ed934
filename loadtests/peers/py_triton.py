"""PyTriton, which brings NVIDIA's Triton with it: https://triton-inference-server.github.io/pytriton."""

from __future__ import annotations

import subprocess

from loadtests.peers.peer import Launch, Peer, Setting, Started


def _start(launch: Launch) -> Started:
    # Triton's Python stub wants the very libpython of the interpreter, not one the system happens to have.
    query = "import sysconfig; print(sysconfig.get_config_var('LIBDIR'))"
    libraries = subprocess.check_output([str(launch.python), "-c", query], text=True).strip()
    command = [str(launch.python), "-m", "loadtests.peers.servers.py_triton"]
    return Started(command, launch.environment(LD_LIBRARY_PATH=libraries))


def _body(text: str, wait_ms: int) -> object:
    tensor = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
    # Microseconds after which Triton drops the request from its queue.
    return {"inputs": [tensor], "outputs": [{"name": "label"}], "parameters": {"timeout": wait_ms * 1000}}


PEER = Peer(
    name="pytriton",
    distribution="nvidia-pytriton",
    requirements=("nvidia-pytriton==0.7.0", "transformers==5.23.0"),
    path="/v2/models/sentiment/infer",
    body=_body,
    label=lambda answer: str(answer["outputs"][0]["data"][0]),
    start=_start,
    same_build=(
        Setting(workers=2, threads=1),
        Setting(workers=1, threads=2),
        Setting(workers=2, threads=1, batch=8, wait_ms=1),
    ),
    documented=(
        Setting(engine="transformers", batch=4),
        Setting(engine="transformers", workers=2, threads=1, batch=8, wait_ms=1),
    ),
)
