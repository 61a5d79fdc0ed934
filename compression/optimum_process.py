"""Hugging Face Optimum's own way from a model to a build, in a process of its own.

Optimum needs a transformers older than 4.58, so it may stand in another environment than the suite that asks
for it; whichever it is, bertpress and its extra `compress` are there too:
`PYTHON -m compression.optimum_process MODEL_FOLDER TARGET_FILE SETTINGS_AS_JSON`.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from app.errors import CompressionError

_ROOT = Path(__file__).parents[1]
_INSTALL = (
    "install it with pip install 'bertpress[compress,optimum]', in an environment of its own where this one "
    "has transformers 5, and name that one's interpreter with --optimum-python"
)
_TASK = "text-classification"
_MODULE = "compression.optimum_process"


@dataclass(frozen=True)
class OptimumSettings:
    """What ORTOptimizer and ORTQuantizer are asked for; `quantization` None leaves the build in fp32."""

    optimization: Literal["O1", "O2", "O3"]
    quantization: Literal["avx2", "avx512", "avx512_vnni"] | None
    reduced_range: bool
    per_channel: bool
    opset: int


def available(python: str | None = None) -> bool:
    """Whether this interpreter, or the one that is named, has Optimum."""
    if python is None:
        return importlib.util.find_spec("optimum") is not None
    asked = [python, "-c", "import importlib.util as i; print(i.find_spec('optimum') is not None)"]
    try:
        return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == "True"
    except (OSError, subprocess.CalledProcessError):
        return False


def run(model_folder: Path, target: Path, settings: OptimumSettings, python: str | None = None) -> None:
    """Export, optimize and quantize a saved classifier with Optimum; the build is written to `target`.

    Raises:
        CompressionError: Optimum is not there, or could not do it: its own last line says why.
    """
    if not available(python):
        raise CompressionError(f"{python or sys.executable} has no Optimum; {_INSTALL}")
    arguments = [str(model_folder.resolve()), str(target.resolve()), json.dumps(asdict(settings))]
    path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    finished = subprocess.run(
        [python or sys.executable, "-m", _MODULE, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    if finished.returncode != 0 or not target.is_file():
        said = finished.stderr.strip().splitlines() or [f"exit code {finished.returncode}"]
        raise CompressionError(f"Optimum could not make a build of {model_folder}: {said[-1]}")


def make(model_folder: Path, target: Path, settings: OptimumSettings) -> None:
    """The same in this process, which must have Optimum."""
    from optimum.exporters.onnx.convert import onnx_export_from_model
    from optimum.onnxruntime import ORTOptimizer, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoOptimizationConfig, AutoQuantizationConfig

    from compression import classifier

    model = classifier.load_model(str(model_folder))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        # What it proves by itself is proven by the parity gate, on real texts.
        onnx_export_from_model(
            model, folder / "exported", opset=settings.opset, task=_TASK, do_validation=False
        )
        optimizer = ORTOptimizer.from_pretrained(folder / "exported")
        level = getattr(AutoOptimizationConfig, settings.optimization)()
        optimizer.optimize(level, folder / "optimized", file_suffix="")
        made = folder / "optimized" / "model.onnx"
        if settings.quantization is not None:
            _state_types(made)
            quantizer = ORTQuantizer.from_pretrained(folder / "optimized", file_name="model.onnx")
            # The preset for VNNI knows no reduced range: those CPUs need none.
            width = {} if settings.quantization == "avx512_vnni" else {"reduce_range": settings.reduced_range}
            preset = getattr(AutoQuantizationConfig, settings.quantization)
            chosen = preset(is_static=False, per_channel=settings.per_channel, **width)
            quantizer.quantize(chosen, folder / "quantized", file_suffix="")
            made = folder / "quantized" / "model.onnx"
        shutil.copyfile(made, target)


def _state_types(path: Path) -> None:
    """Write the types of all values into a graph: ORTQuantizer cannot infer those behind fused operators."""
    import onnx
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    onnx.save(SymbolicShapeInference.infer_shapes(onnx.load(path), auto_merge=True), path)


def main(arguments: list[str]) -> None:
    """What the process does."""
    model_folder, target, settings = arguments
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    make(Path(model_folder), Path(target), OptimumSettings(**json.loads(settings)))


if __name__ == "__main__":
    main(sys.argv[1:])
