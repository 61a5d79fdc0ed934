"""What every dialect asks of a request: its texts within the limits, its numbers in range, and who asks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import Field
from starlette.requests import Request

from app.errors import InvalidRequestError, LimitExceededError
from app.job import Priority
from app.settings import Settings

PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
LARGEST_VERSION = 2**31 - 1
LARGEST_NUMBER = 2**53 - 1
"""Beyond it, JSON libraries disagree on what a whole number is."""
_A_CHARACTER = r"[^\s\x1c-\x1f\x85\ufeff]"
Text = Annotated[str, Field(min_length=1, pattern=_A_CHARACTER)]
"""A text as OpenAPI describes it: with a character that is no space, whoever reads the expression."""


def check_texts(inputs: object, settings: Settings, name: str = "inputs") -> list[str]:
    """A list of texts that the service takes. `name` is what the client calls the list.

    Raises:
        InvalidRequestError: not a list, empty, or a member that is not a text.
        LimitExceededError: too many texts, or one that is too long.
    """
    if not isinstance(inputs, list) or not inputs:
        raise InvalidRequestError(f"{name} must be a text or a list of at least one text")
    check_count(len(inputs), settings, name)
    for index, text in enumerate(inputs):
        if not isinstance(text, str):
            raise InvalidRequestError(f"{name}[{index}] is not a string")
        if not text or text.isspace():
            raise InvalidRequestError(
                f"{name}[{index}] is empty; every text needs a character that is not space"
            )
        if len(text) > settings.max_text_chars:
            raise LimitExceededError(
                f"{name}[{index}] has {len(text)} characters, at most {settings.max_text_chars} "
                "(BERTPRESS_MAX_TEXT_CHARS) are read; shorten it",
                limit=settings.max_text_chars,
            )
    return inputs


def check_count(count: int, settings: Settings, name: str) -> None:
    """Raises LimitExceededError where a request has more texts than one may have."""
    if count > settings.max_texts:
        raise LimitExceededError(
            f"{name} has {count} texts, at most {settings.max_texts} (BERTPRESS_MAX_TEXTS) go in a "
            "request; send several requests",
            limit=settings.max_texts,
        )


def check_fields(value: object, known: Iterable[str], name: str = "the body") -> Mapping[str, object]:
    """A JSON object without fields that would be ignored.

    Raises:
        InvalidRequestError: not an object, or with a field that is not known.
    """
    if not isinstance(value, dict):
        example = ' such as {"inputs": "text"}' if name == "the body" else ""
        raise InvalidRequestError(f"{name} must be an object{example}")
    if not value.keys() <= set(known):
        raise InvalidRequestError(f"{name} has a field other than {', '.join(known)}; leave it out")
    return value


def object_of(document: Mapping[str, object], field: str) -> Mapping[str, object]:
    """An object of the document; an empty one where it is absent or null.

    Raises:
        InvalidRequestError: of another type.
    """
    value = document.get(field)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidRequestError(f"{field} must be an object")
    return value


def whole_number(
    document: Mapping[str, object], field: str, least: int, most: int = LARGEST_NUMBER
) -> int | None:
    """A number of the document; None where it is absent or null.

    Raises:
        InvalidRequestError: of another type, or out of range.
    """
    value = document.get(field)
    if value is None:
        return None
    number = as_whole(value)
    if number is None or not least <= number <= most:
        raise InvalidRequestError(f"{field} must be a whole number from {least} to {most}")
    return number


def as_whole(value: object) -> int | None:
    """A JSON value as a whole number if it is one; 7.0 is, as JSON Schema has it, and true is not."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def one_of(document: Mapping[str, object], field: str, choices: tuple[str, ...], absent: str) -> str:
    """A word of the document; `absent` where there is none.

    Raises:
        InvalidRequestError: not one of the choices.
    """
    value = document.get(field)
    if value is None:
        return absent
    if value not in choices:
        raise InvalidRequestError(f"{field} must be one of {', '.join(choices)}")
    return value


def true_or_false(document: Mapping[str, object], field: str) -> bool:
    """A truth value of the document; False where it is absent or null.

    Raises:
        InvalidRequestError: of another type.
    """
    value = document.get(field)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequestError(f"{field} must be true or false")
    return bool(value)


def client_of(request: Request) -> str:
    """Who asks: what the edge found out from the key, else the peer's address."""
    client: str | None = request.scope["state"].get("client")
    if client:
        return client
    peer = request.scope.get("client")
    return str(peer[0]) if peer else ""
