"""KServe's own clients against a service; run by test_kserve.py in an environment that has them.

usage: python kserve_client.py REST_URL GRPC_ADDRESS MODEL
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig
from kserve.protocol.infer_type import RequestedOutput

TEXTS = ["a great film", "terrible and boring", "good"]


def request(model: str, *, binary_in: bool, binary_out: bool) -> InferRequest:
    """Three texts, and all outputs."""
    tensor = InferInput("text", [len(TEXTS)], "BYTES")
    tensor.set_data_from_numpy(np.array(TEXTS, dtype=np.object_), binary_data=binary_in)
    names = ("label", "score", "probabilities", "logits")
    wanted = [RequestedOutput(name, parameters={"binary_data": binary_out}) for name in names]
    return InferRequest(model, [tensor], request_id="7", request_outputs=wanted)


def summary(response: Any) -> dict[str, Any]:
    """What a response says, as plain values."""
    given = {each.name: each.as_numpy().tolist() for each in response.outputs}
    labels = [label.decode() if isinstance(label, bytes) else label for label in given["label"]]
    # over gRPC the floats are single, in JSON they are double
    rounded = {name: np.round(given[name], 4).tolist() for name in ("score", "probabilities", "logits")}
    return {"id": response.id, "model": response.model_name, "label": labels, **rounded}


async def ask(url: str, address: str, model: str) -> dict[str, Any]:
    """Everything that both clients can ask."""
    rest = InferenceRESTClient(RESTConfig(protocol="v2"))
    found: dict[str, Any] = {
        "live": await rest.is_server_live(url),
        "ready": await rest.is_server_ready(url),
        "model": await rest.is_model_ready(url, model),
        "absent": await rest.is_model_ready(url, "absent"),
    }
    for binary_in in (False, True):
        for binary_out in (False, True):
            asked = request(model, binary_in=binary_in, binary_out=binary_out)
            found[f"rest {binary_in} {binary_out}"] = summary(await rest.infer(url, asked, model_name=model))
    try:
        await rest.infer(url, request("absent", binary_in=True, binary_out=True), model_name="absent")
    except Exception as error:
        found["error"] = str(error)
    await rest.close()
    async with InferenceGRPCClient(address) as client:
        found["grpc live"] = await client.is_server_live()
        found["grpc ready"] = await client.is_server_ready()
        found["grpc model"] = await client.is_model_ready(model)
        for binary_in in (False, True):
            asked = request(model, binary_in=binary_in, binary_out=True)
            found[f"grpc {binary_in}"] = summary(await client.infer(asked))
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(ask(*sys.argv[1:]))))
