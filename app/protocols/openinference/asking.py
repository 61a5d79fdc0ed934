"""What a request may say, whether it comes as JSON or as a message: input, outputs, parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.errors import InvalidRequestError, UnsupportedInputError
from app.job import Priority
from app.protocols.openinference.tensors import INPUT, OUTPUTS
from app.protocols.texts import as_whole, check_count, check_fields, whole_number
from app.settings import Settings

# binary_data_output is REST's alone; content_type is how MLServer's clients say that bytes are text
_PARAMETERS = ("timeout", "priority", "binary_data_output")
_INPUT_PARAMETERS = ("binary_data_size", "content_type")
_OUTPUT_PARAMETERS = ("binary_data",)
_MICROSECONDS = 1_000_000
_HIGH, _NORMAL = 1, 2


@dataclass(frozen=True, slots=True)
class Schedule:
    """When the answer is wanted; `timeout_seconds` is None where the request leaves it to the service."""

    timeout_seconds: float | None
    priority: Priority


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of this dialect."""

    texts: list[str]
    schedule: Schedule
    id: str | None
    outputs: list[str]
    binary: Mapping[str, bool] = field(default_factory=dict)
    """Over REST: which outputs go behind the JSON."""


def check_input(
    name: object, datatype: object, shape: object, parameters: Mapping[str, object], settings: Settings
) -> int:
    """The number of texts that an input announces.

    Raises:
        InvalidRequestError: another input, type, shape or parameter than the model has.
        LimitExceededError: too many texts.
    """
    if name != INPUT or datatype != "BYTES":
        raise InvalidRequestError(f"the model has one input, {INPUT} of datatype BYTES")
    check_fields(parameters, _INPUT_PARAMETERS, f"the parameters of {INPUT}")
    if not isinstance(parameters.get("content_type", ""), str | None):
        raise InvalidRequestError("content_type must be a string")
    sizes = [as_whole(size) for size in shape] if isinstance(shape, list) else []
    count = sizes[0] if sizes else None
    if count is None or count < 1 or sizes[1:] not in ([], [1]):
        raise InvalidRequestError(f"the shape of {INPUT} must be [n] or [n, 1], n the number of texts")
    check_count(count, settings, INPUT)
    return count


def check_output(name: object, parameters: Mapping[str, object]) -> str:
    """The name of a requested output.

    Raises:
        InvalidRequestError: the model has no such output, or not with such a parameter.
    """
    if not isinstance(name, str) or name not in OUTPUTS:
        raise InvalidRequestError(f"the model's outputs are {', '.join(OUTPUTS)}; outputs names another")
    check_fields(parameters, _OUTPUT_PARAMETERS, f"the parameters of {name}")
    return name


def check_names(names: Sequence[str]) -> list[str]:
    """The outputs to give: all of them where none is named.

    Raises:
        InvalidRequestError: one is named twice.
    """
    if len(set(names)) != len(names):
        raise InvalidRequestError("outputs names an output twice")
    return list(names) or list(OUTPUTS)


def read_schedule(parameters: Mapping[str, object], settings: Settings) -> Schedule:
    """What Triton calls the schedule policy, from the request's own parameters.

    Units: `timeout` is in microseconds, 0 leaving it to the service. `priority` is 1 for high, 2 for
    normal (as is 0), and more for low.

    Raises:
        InvalidRequestError: a parameter that would be ignored, or one out of range.
        UnsupportedInputError: a sequence of requests, which only a model with a state can answer.
    """
    if any(name.startswith("sequence_") for name in parameters):
        raise UnsupportedInputError("no model here keeps a state between requests; leave sequence_* out")
    check_fields(parameters, _PARAMETERS, "parameters")
    timeout = whole_number(parameters, "timeout", 0, settings.max_timeout_ms * 1000)
    level = whole_number(parameters, "priority", 0) or _NORMAL
    priority: Priority = "normal" if level == _NORMAL else "high" if level == _HIGH else "low"
    return Schedule(timeout / _MICROSECONDS if timeout else None, priority)
