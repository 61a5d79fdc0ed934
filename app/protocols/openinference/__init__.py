"""The Open Inference Protocol, version 2 (KServe's and Triton's): over REST, and over gRPC behind an extra.

Source: the specification at github.com/kserve/open-inference-protocol, and Triton's extensions of it for
binary tensors, the model repository, and scheduling (`priority`, `timeout`).
"""
