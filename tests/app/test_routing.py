from __future__ import annotations

import pytest

from app.errors import NotLoadedError, NotReadyError, UnknownModelError
from app.routing import Catalog, plan, quoted
from app.variant import VersionKey

CATALOG = Catalog(
    known={"a": (1, 2, 3), "b": (1,), "c": (4,)},
    loaded=frozenset({VersionKey("a", 1), VersionKey("a", 2), VersionKey("b", 1)}),
    promoted={"a": 1},
    default_model="a",
)


@pytest.mark.parametrize(
    ("model", "version", "expected"),
    [
        (None, None, ("a", 1)),
        ("a", None, ("a", 1)),
        (None, 2, ("a", 2)),
        ("a", 2, ("a", 2)),
        ("b", None, ("b", 1)),
    ],
)
def test_what_is_named_answers(model: str | None, version: int | None, expected: tuple[str, int]) -> None:
    assert plan(CATALOG, model, version).primary == VersionKey(*expected)


def test_without_promotion_the_highest_loaded_answers() -> None:
    catalog = Catalog(known=CATALOG.known, loaded=CATALOG.loaded, promoted={"a": 3}, default_model="a")
    assert plan(catalog, "a", None).primary == VersionKey("a", 2)


@pytest.mark.parametrize(("model", "version"), [("x", None), ("x", 1), ("a", 9), (None, 9), ("", None)])
def test_the_unknown(model: str | None, version: int | None) -> None:
    with pytest.raises(UnknownModelError):
        plan(CATALOG, model, version)


@pytest.mark.parametrize(
    ("model", "version", "url"), [("a", 3, "/admin/models/a/3/load"), ("c", None, "/c/4/load")]
)
def test_the_not_loaded_tells_the_operator_how(model: str, version: int | None, url: str) -> None:
    with pytest.raises(NotLoadedError, match=url):
        plan(CATALOG, model, version)


def test_before_anything_serves() -> None:
    with pytest.raises(NotReadyError):
        plan(Catalog(), None, None)
    with pytest.raises(NotReadyError):
        plan(Catalog(known={"a": (1,)}, default_model="a"), None, None)


def test_a_long_name_is_not_repeated() -> None:
    assert len(quoted("x" * 10_000)) < 80
    assert "\n" not in quoted("a\nb\x1b[31m")
