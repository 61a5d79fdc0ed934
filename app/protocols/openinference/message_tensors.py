"""A request and its answer as gRPC messages."""

from __future__ import annotations

from typing import Any

from app.answer import Answer
from app.errors import InvalidRequestError
from app.protocols.openinference.asking import (
    Asked,
    check_input,
    check_names,
    check_output,
    read_schedule,
)
from app.protocols.openinference.tensors import INPUT, decode_text, decode_texts, output_tensors
from app.protocols.texts import check_texts
from app.settings import Settings


def parse_infer(message: Any, settings: Settings) -> Asked:
    """Check a ModelInferRequest.

    Raises:
        InvalidRequestError: another input, output, type, shape or parameter than the model has.
        LimitExceededError: more than a setting allows.
        UnsupportedInputError: what no model here can do.
    """
    schedule = read_schedule(values(message.parameters), settings)
    names = [check_output(each.name, values(each.parameters)) for each in message.outputs]
    texts = check_texts(_texts(message, settings), settings, INPUT)
    return Asked(texts, schedule, message.id, check_names(names))


def fill_response(response: Any, answer: Answer, asked: Asked) -> Any:
    """A ModelInferResponse with the outputs as raw bytes, which is what clients read fastest."""
    response.model_name, response.model_version = answer.key.name, str(answer.key.version)
    response.id = asked.id or ""
    for tensor in output_tensors(answer.predictions, answer.labels, asked.outputs):
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        response.raw_output_contents.append(tensor.raw())
    return response


def values(parameters: Any) -> dict[str, object]:
    """A message's parameters as plain values; None for one that is named and not given."""
    chosen = {name: each.WhichOneof("parameter_choice") for name, each in parameters.items()}
    return {name: getattr(parameters[name], kind) if kind else None for name, kind in chosen.items()}


def _texts(message: Any, settings: Settings) -> list[str]:
    if len(message.inputs) != 1:
        raise InvalidRequestError(f"inputs must be one tensor, {INPUT}")
    tensor, raw = message.inputs[0], message.raw_input_contents
    shape, parameters = list(tensor.shape), values(tensor.parameters)
    count = check_input(tensor.name, tensor.datatype, shape, parameters, settings)
    contents = tensor.contents.bytes_contents
    if raw:
        if len(raw) != 1 or contents:
            raise InvalidRequestError(f"{INPUT} comes in one raw_input_contents, or in its bytes_contents")
        return decode_texts(raw[0], count)
    if len(contents) != count:
        raise InvalidRequestError(f"{INPUT} holds {len(contents)} texts, its shape says {count}")
    return [decode_text(each, index) for index, each in enumerate(contents)]
