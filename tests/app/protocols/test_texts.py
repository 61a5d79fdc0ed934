from __future__ import annotations

import re

import pytest
from starlette.requests import Request

from app.errors import InvalidRequestError
from app.protocols.texts import (
    LARGEST_NUMBER,
    as_whole,
    client_of,
    object_of,
    one_of,
    true_or_false,
    whole_number,
)


@pytest.mark.parametrize(
    ("value", "whole"), [(7, 7), (7.0, 7), (-1, -1), (7.5, None), (True, None), ("7", None)]
)
def test_whole_numbers(value: object, whole: int | None) -> None:
    assert as_whole(value) == whole


@pytest.mark.parametrize("value", [float("inf"), 1e300, -1, LARGEST_NUMBER + 1, [], "1"])
def test_numbers_out_of_range(value: object) -> None:
    with pytest.raises(InvalidRequestError, match=f"n must be a whole number from 0 to {LARGEST_NUMBER}"):
        whole_number({"n": value}, "n", 0)


def test_what_is_absent_or_null_has_a_default() -> None:
    for document in ({}, {"x": None}):
        assert whole_number(document, "x", 1) is None
        assert one_of(document, "x", ("a", "b"), "b") == "b"
        assert true_or_false(document, "x") is False
        assert object_of(document, "x") == {}


def test_a_text_needs_a_character_by_anybodys_reading() -> None:
    from app.protocols import texts

    for blank in ("", " ", "\x1c\x1f", "\u00a0\u3000", "\x85", "\ufeff"):
        assert not re.search(texts._A_CHARACTER, blank)
    for text in ("a", " a ", "你", "\u200b", "\x00"):
        assert re.search(texts._A_CHARACTER, text) and not text.isspace()


@pytest.mark.parametrize(
    ("state", "client", "name"),
    [
        ({"client": "shop"}, ("10.0.0.1", 5), "shop"),
        ({"client": ""}, ("10.0.0.1", 5), "10.0.0.1"),
        ({}, ("10.0.0.1", 5), "10.0.0.1"),
        ({}, None, ""),
    ],
)
def test_who_asks(state: dict[str, str], client: tuple[str, int] | None, name: str) -> None:
    assert client_of(Request({"type": "http", "state": state, "client": client})) == name
