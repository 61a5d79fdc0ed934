"""infinity: https://michaelfeil.eu/infinity."""

from __future__ import annotations

from loadtests.peers.peer import Launch, Peer, Setting, Started


def _start(launch: Launch) -> Started:
    setting = launch.setting
    engine = "torch" if setting.engine == "torch" else "optimum"
    flags = ["--model-id", ".", "--served-model-name", "sentiment", "--engine", engine, "--device", "cpu"]
    flags += ["--host", "127.0.0.1", "--port", str(launch.port), "--batch-size", str(setting.batch)]
    if engine == "optimum":
        # Its warm-up sends texts longer than the model reads, and its ONNX classifier does not cut them.
        flags += ["--no-model-warmup", "--onnx-disable-optimize"]
    else:
        flags += ["--no-bettertransformer", "--no-compile"]
    environment = launch.environment(INFINITY_ANONYMOUS_USAGE_STATS="0")
    # The model's folder is the working folder: with optimum 2 it finds no ONNX file in a folder with a name.
    return Started([launch.program("infinity_emb"), "v2", *flags], environment, launch.model)


PEER = Peer(
    name="infinity",
    distribution="infinity_emb",
    requirements=("infinity_emb[server,optimum,torch]==0.0.78",),
    path="/classify",
    body=lambda text, _: {"model": "sentiment", "input": [text]},
    label=lambda answer: str(answer["data"][0][0]["label"]),
    start=_start,
    same_build=(Setting(batch=32), Setting(batch=8)),
    documented=(Setting(engine="torch", batch=32), Setting(engine="optimum, int8", batch=32)),
)
