"""The inference service: REST in front of a dynamic request batcher."""

import os

# ONNX Runtime sends usage data home from 1.29 on unless told not to before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
