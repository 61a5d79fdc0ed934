"""The offline suite: distil, prune, quantize, export, prove, measure, publish."""

import app  # noqa: F401 - its first act, silencing ONNX Runtime's telemetry, must come before onnxruntime
