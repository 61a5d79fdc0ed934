"""MLServer: https://mlserver.readthedocs.io."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from loadtests.peers.peer import Launch, Peer, Setting, Started


def _start(launch: Launch) -> Started:
    setting = launch.setting
    ports = {"http_port": launch.port, "grpc_port": 0, "metrics_port": 0}
    settings = {"host": "127.0.0.1", **ports, "parallel_workers": setting.workers, "debug": False}
    model: dict[str, Any] = {"name": "sentiment"}
    if setting.batch > 1:
        model |= {"max_batch_size": setting.batch, "max_batch_time": setting.wait_ms / 1000}
    if setting.engine == "onnx":
        model["implementation"] = "loadtests.peers.servers.ml_server.Sentiment"
    else:
        optimum = setting.engine != "transformers"
        extra = {
            "task": "text-classification",
            "pretrained_model": str(_with_one_build(launch) if optimum else launch.model),
            "optimum_model": optimum,
        }
        model["implementation"] = "mlserver_huggingface.HuggingFaceRuntime"
        model["parameters"] = {"extra": extra}
    (launch.scratch / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (launch.scratch / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    return Started([launch.program("mlserver"), "start", str(launch.scratch)], launch.environment())


def _with_one_build(launch: Launch) -> Path:
    """The version's files in a folder of their own without other builds: this Optimum wants just one."""
    folder = launch.scratch / "model"
    folder.mkdir()
    for file in launch.model.iterdir():
        if file.suffix != ".onnx" or file.name == launch.build_file:
            shutil.copyfile(file, folder / file.name)
    return folder


def _body(text: str, _: int) -> object:
    # So the Hugging Face runtime calls an input that may be batched; ours takes the first, whatever its name.
    tensor = {"name": "array_inputs", "shape": [1, 1], "datatype": "BYTES", "data": [text]}
    return {"inputs": [{**tensor, "parameters": {"content_type": "str"}}]}


def _label(answer: Any) -> str:
    said = answer["outputs"][0]["data"][0]
    return str(json.loads(said)["label"]) if said.startswith("{") else str(said)


PEER = Peer(
    name="mlserver",
    distribution="mlserver",
    # Its workers ask for an event loop that later uvloops no longer make; its Hugging Face runtime imports
    # what transformers 4.42 dropped.
    requirements=(
        "mlserver==1.7.1",
        "mlserver-huggingface==1.7.1",
        "uvloop==0.21.0",
        "transformers==4.41.2",
        "optimum[onnxruntime]==1.21.4",
    ),
    path="/v2/models/sentiment/infer",
    body=_body,
    label=_label,
    start=_start,
    same_build=(
        Setting(workers=2, threads=1),
        Setting(workers=0, threads=1),
        Setting(workers=0, threads=2),
        Setting(workers=2, threads=1, batch=8, wait_ms=5),
    ),
    documented=(
        Setting(engine="transformers"),
        Setting(engine="transformers", batch=8, wait_ms=50),
        Setting(engine="optimum, int8"),
    ),
)
