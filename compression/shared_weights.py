"""Several ONNX graphs of one version with one file of weights: what is equal is stored once.

Graphs of one model differ in how activations are computed; their stored integers are the same bytes. ONNX
lets a constant lie in another file (external data), which ONNX Runtime and OpenVINO both map into memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx.external_data_helper import set_external_data

WEIGHTS_FILE = "weights.bin"
# Smaller constants stay in the graph.
_WORTH_MOVING_BYTES = 1024
# Where a constant may begin: both runtimes map pages.
_ALIGNMENT = 4096


def share(graphs: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Write copies of the graphs under their names, and the weights they have, into a folder.

    Returns the paths of all that was written, by file name, `weights.bin` among them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / WEIGHTS_FILE
    with weights.open("wb") as stream:
        offsets: dict[str, int] = {}
        for name, path in graphs.items():
            model = onnx.load(path)
            for tensor in model.graph.initializer:
                body = tensor.raw_data
                if len(body) >= _WORTH_MOVING_BYTES:
                    key = hashlib.sha256(body).hexdigest()
                    if key not in offsets:
                        stream.write(b"\0" * (-stream.tell() % _ALIGNMENT))
                        offsets[key] = stream.tell()
                        stream.write(body)
                    set_external_data(tensor, WEIGHTS_FILE, offset=offsets[key], length=len(body))
                    tensor.ClearField("raw_data")
            (folder / name).write_bytes(model.SerializeToString())
    return {name: folder / name for name in (*graphs, WEIGHTS_FILE)}
