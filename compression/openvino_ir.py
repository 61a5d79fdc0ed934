"""An ONNX graph of standard operators in OpenVINO's own format: model.xml and model.bin."""

from __future__ import annotations

from pathlib import Path

import onnx

from app.errors import CompressionError, EngineError


def check_readable(source: Path) -> None:
    """OpenVINO reads standard operators only.

    Raises:
        CompressionError: the graph has operators of ONNX Runtime itself.
    """
    foreign = sorted({node.op_type for node in onnx.load(source).graph.node if node.domain})
    if foreign:
        raise CompressionError(
            f"{source.name} has operators of ONNX Runtime itself ({', '.join(foreign)}), which OpenVINO "
            "cannot read; quantize with method 'static' or 'weight-only'"
        )


def convert(source: Path, folder: Path) -> list[Path]:
    """Write the graph as OpenVINO IR; returns its files, the one to open first.

    Floats keep their 32 bits, and what is stored as integers stays integers.

    Raises:
        CompressionError: the graph has operators of ONNX Runtime itself.
        EngineError: OpenVINO is not installed.
    """
    check_readable(source)
    try:
        import openvino as ov
    except ImportError as error:
        raise EngineError("openvino is not installed; pip install 'bertpress[openvino]'") from error
    path = folder / "model.xml"
    ov.save_model(ov.Core().read_model(source), path, compress_to_fp16=False)
    return [path, path.with_suffix(".bin")]
