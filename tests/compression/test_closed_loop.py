from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest
from pydantic import ValidationError

from compression.closed_loop import LoopSettings, Risen, Try, rise


def _risen(curve: Callable[[float], float], floor: float, settings: LoopSettings) -> Risen[float]:
    """A state is its own sparsity; a state that was given up must never be gone on from."""
    given_up: set[float] = set()

    def further(state: float, before: float, after: float) -> float:
        assert state == before
        assert state not in given_up
        return after

    def validate(state: float) -> float:
        if curve(state) < floor:
            given_up.add(state)
        return curve(state)

    return rise(0.0, further, validate, floor, settings)


def _obvious(curve: Callable[[float], float], floor: float, settings: LoopSettings) -> float:
    """The largest sparsity that can be reached in steps of the smallest size, one after the other."""
    step = settings.step / 2 ** math.floor(math.log2(settings.step / settings.smallest_step))
    good, number = 0.0, 1
    while (wanted := min(settings.most, round(number * step, 9))) > good and curve(wanted) >= floor:
        good, number = wanted, number + 1
    return good


@pytest.mark.parametrize("seed", range(20))
def test_a_falling_curve_ends_where_small_steps_would(seed: int) -> None:
    numbers = random.Random(seed)
    knee, floor = numbers.uniform(0, 1), numbers.uniform(0.5, 0.95)
    settings = LoopSettings(step=0.2, smallest_step=0.0125, most=0.9, tries=100)

    def curve(sparsity: float) -> float:
        return 1 - 0.5 * (sparsity / knee) ** 4

    found = _risen(curve, floor, settings)
    assert found.sparsity == pytest.approx(_obvious(curve, floor, settings), abs=1e-9)
    assert found.state == found.sparsity
    assert curve(found.sparsity) >= floor
    assert len(found.tries) < 14  # small steps would take up to 72


def test_a_dip_is_backed_off_from() -> None:
    """Validation is noisy: a bad step further is halved, and the good state before it is kept."""
    answers = {0.2: 0.95, 0.4: 0.80, 0.3: 0.93, 0.35: 0.91}
    settings = LoopSettings(step=0.2, smallest_step=0.05, most=0.9, tries=4)
    found = _risen(lambda sparsity: answers.get(sparsity, 0.0) if sparsity else 1.0, 0.9, settings)
    assert found.tries == (
        Try(0.2, 0.95, True),
        Try(0.4, 0.80, False),
        Try(0.3, 0.93, True),
        Try(0.4, 0.80, False),
    )
    assert (found.state, found.sparsity, found.ended) == (0.3, 0.3, "no tries are left")


def test_nothing_may_go() -> None:
    found = _risen(lambda _: 0.0, 0.9, LoopSettings(step=0.2, smallest_step=0.1))
    assert (found.state, found.sparsity, found.ended) == (0.0, 0.0, "the steps are too small")
    assert [each.sparsity for each in found.tries] == [0.2, 0.1]


def test_everything_may_go() -> None:
    found = _risen(lambda _: 1.0, 0.9, LoopSettings(step=0.25, smallest_step=0.1, most=0.6))
    assert (found.sparsity, found.ended) == (0.6, "everything allowed is gone")
    assert [each.sparsity for each in found.tries] == [0.25, 0.5, 0.6]


def test_a_validation_that_is_no_number_is_no_success() -> None:
    found = _risen(lambda _: math.nan, 0.9, LoopSettings(step=0.2, smallest_step=0.2))
    assert found.sparsity == 0.0


def test_steps_that_make_no_sense() -> None:
    with pytest.raises(ValidationError, match=r"smallest_step 0\.3 is above step 0\.2"):
        LoopSettings(step=0.2, smallest_step=0.3)
