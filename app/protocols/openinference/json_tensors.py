"""A request and its answer as JSON, with tensors in it or as bytes behind it (the binary data extension)."""

from __future__ import annotations

from typing import Any

import orjson

from app.answer import Answer
from app.errors import InvalidRequestError
from app.protocols.openinference.asking import (
    Asked,
    check_input,
    check_names,
    check_output,
    read_schedule,
)
from app.protocols.openinference.tensors import INPUT, decode_texts, output_tensors
from app.protocols.texts import check_fields, check_texts, object_of, true_or_false, whole_number
from app.settings import Settings

HEADER_LENGTH = "Inference-Header-Content-Length"
# KServe's clients repeat the model here; the path decides
_FIELDS = ("id", "parameters", "inputs", "outputs", "model_name", "model_version")
_INPUT_FIELDS = ("name", "shape", "datatype", "parameters", "data")
_OUTPUT_FIELDS = ("name", "parameters")


def parse_infer(body: bytes, header_length: str | None, settings: Settings) -> Asked:
    """Check a body. `header_length` is how much of it is JSON; None: all of it.

    Raises:
        InvalidRequestError: not JSON, of the wrong shape or type, or sizes that do not fit.
        LimitExceededError: more than a setting allows.
        UnsupportedInputError: what no model here can do.
    """
    document, rest = _split(body, header_length)
    fields = check_fields(document, _FIELDS)
    identifier = fields.get("id")
    if identifier is not None and not isinstance(identifier, str):
        raise InvalidRequestError("id must be a string")
    parameters = object_of(fields, "parameters")
    schedule = read_schedule(parameters, settings)
    texts = _texts(fields.get("inputs"), rest, settings)
    names, binary = _outputs(fields.get("outputs"), true_or_false(parameters, "binary_data_output"))
    return Asked(texts, schedule, identifier, names, binary)


def render_infer(answer: Answer, asked: Asked) -> tuple[bytes, int | None]:
    """The answer's body, and how much of it is JSON; None: all of it."""
    outputs, blobs = [], []
    for tensor in output_tensors(answer.predictions, answer.labels, asked.outputs):
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if asked.binary[tensor.name]:
            blobs.append(tensor.raw())
            entry["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            entry["data"] = tensor.values
        outputs.append(entry)
    reply = {"model_name": answer.key.name, "model_version": str(answer.key.version), "outputs": outputs}
    if asked.id is not None:
        reply["id"] = asked.id
    header = orjson.dumps(reply)
    return (b"".join([header, *blobs]), len(header)) if blobs else (header, None)


def _split(body: bytes, header_length: str | None) -> tuple[object, memoryview]:
    length = len(body)
    if header_length is not None:
        length = int(header_length) if header_length.isdecimal() and len(header_length) < 20 else -1
        if not 0 <= length <= len(body):
            raise InvalidRequestError(
                f"{HEADER_LENGTH} must be a number of bytes within the body's {len(body)}"
            )
    try:
        return orjson.loads(body[:length]), memoryview(body)[length:]
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(
            f"the body's JSON is not valid (line {error.lineno}, column {error.colno}); where binary tensors "
            f"follow it, {HEADER_LENGTH} must give its length"
        ) from None


def _texts(inputs: object, rest: memoryview, settings: Settings) -> list[str]:
    if not isinstance(inputs, list) or len(inputs) != 1:
        raise InvalidRequestError(f"inputs must be a list of one tensor, {INPUT}")
    tensor = check_fields(inputs[0], _INPUT_FIELDS, "inputs[0]")
    parameters = object_of(tensor, "parameters")
    count = check_input(tensor.get("name"), tensor.get("datatype"), tensor.get("shape"), parameters, settings)
    size = whole_number(parameters, "binary_data_size", 0)
    if size is None:
        if len(rest):
            raise InvalidRequestError(f"bytes follow the JSON and {INPUT} has no binary_data_size")
        texts: object = _flat(tensor.get("data"), count)
    else:
        if "data" in tensor:
            raise InvalidRequestError(f"{INPUT} has both data and binary_data_size; send one of them")
        if size != len(rest):
            raise InvalidRequestError(f"binary_data_size is {size}, {len(rest)} bytes follow the JSON")
        texts = decode_texts(rest, count)
    return check_texts(texts, settings, INPUT)


def _flat(data: object, count: int) -> list[object]:
    """`data` as a list of texts: ["a", "b"], or [["a"], ["b"]]."""
    if not isinstance(data, list):
        raise InvalidRequestError(f"{INPUT} needs data, a list of texts, or binary_data_size")
    values = [item[0] if isinstance(item, list) and len(item) == 1 else item for item in data]
    if len(values) != count:
        raise InvalidRequestError(f"{INPUT} holds {len(values)} texts, its shape says {count}")
    return values


def _outputs(requested: object, binary: bool) -> tuple[list[str], dict[str, bool]]:
    """The names of the outputs to give, and which of them as bytes."""
    if requested is None:
        requested = []
    if not isinstance(requested, list):
        raise InvalidRequestError("outputs must be a list")
    chosen: dict[str, bool] = {}
    names = []
    for index, item in enumerate(requested):
        entry = check_fields(item, _OUTPUT_FIELDS, f"outputs[{index}]")
        parameters = object_of(entry, "parameters")
        names.append(check_output(entry.get("name"), parameters))
        if parameters.get("binary_data") is not None:
            chosen[names[-1]] = true_or_false(parameters, "binary_data")
    names = check_names(names)
    return names, {name: chosen.get(name, binary) for name in names}
