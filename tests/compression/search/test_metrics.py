from __future__ import annotations

import pytest

from app.errors import SearchError
from compression.search.metrics import parse

WRITTEN = {
    "size=15MB": ("size", 15e6),
    "size=15 MiB": ("size", 15 * 2**20),
    "size=900": ("size", 900.0),
    "memory=0.1GB": ("memory", 1e8),
    "latency=40x": ("latency", 1 / 40),
    "latency=0.05": ("latency", 0.05),
    "latency=5%": ("latency", 0.05),
    "latency=5ms": ("latency-ms", 5.0),
    "energy=2.5J": ("energy", 2.5),
    "accuracy=92.5%": ("accuracy", 0.925),
    "retention=0.98": ("retention", 0.98),
}


@pytest.mark.parametrize("written", WRITTEN)
def test_what_a_person_writes(written: str) -> None:
    found, value = parse(written)
    name, expected = WRITTEN[written]
    assert found.name == name
    assert value == pytest.approx(expected)


WRONG = {
    "speed=3": "'speed' is no metric of a search; expected one of size, latency, memory, energy, accuracy",
    "latency-ms=3": "'latency-ms' is no metric",
    "size": "'size' is not METRIC=NUMBER",
    "size=large": "'size=large' is not METRIC=NUMBER",
    "size=15ms": "unit 'ms' is not one of b, kb, mb",
    "latency=5MB": "unit 'mb' is not one of %, x, ms",
    "retention=98": "retention is a share of at most 1 .or 100%., got 98",
    "size=0MB": "'size=0MB' must be above 0",
    "latency=0x": "'latency=0x' must be above 0",
}


@pytest.mark.parametrize("written", WRONG)
def test_what_makes_no_sense(written: str) -> None:
    with pytest.raises(SearchError, match=WRONG[written]):
        parse(written)


@pytest.mark.parametrize("written", WRITTEN)
def test_a_value_is_told_in_its_unit(written: str) -> None:
    found, value = parse(written)
    units = {"size": "B", "memory": "B", "latency": "x faster", "latency-ms": "ms", "energy": "J"}
    assert found.text(value).endswith(units.get(found.name, "%"))
