"""Dynamic compression rate: sparsity rises while validation stays above a floor, and backs off when it does
not.

A controller with a memory of one: the last state that held the floor. From there a step further is tried; if
the floor breaks, the step is halved and the same good state is tried again, until steps are too small to
matter. What leaves the loop is always the last good state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from pydantic import Field, model_validator

from compression.settings import Settings

S = TypeVar("S")
Why = Literal["the steps are too small", "everything allowed is gone", "no tries are left"]


class LoopSettings(Settings):
    """How sparsity is moved: first by `step`, halved whenever the floor breaks, never by less than
    `smallest_step`; at most to `most`, in at most `tries` tries. Sparsity is a share, 0 to 1."""

    step: float = Field(default=0.2, gt=0, le=1)
    smallest_step: float = Field(default=0.025, gt=0, le=1)
    most: float = Field(default=0.9, gt=0, le=1)
    tries: int = Field(default=12, ge=1)

    @model_validator(mode="after")
    def _steps_make_sense(self) -> LoopSettings:
        if self.smallest_step > self.step:
            raise ValueError(f"smallest_step {self.smallest_step} is above step {self.step}")
        return self


@dataclass(frozen=True)
class Try:
    """One sparsity tried from a good state, and what validation said."""

    sparsity: float
    validation: float
    held: bool


@dataclass(frozen=True)
class Risen(Generic[S]):
    """The last good state, how sparse it is, every try on the way, and why the loop ended."""

    state: S
    sparsity: float
    tries: tuple[Try, ...]
    ended: Why


def rise(
    state: S,
    further: Callable[[S, float, float], S],
    validate: Callable[[S], float],
    floor: float,
    settings: LoopSettings,
) -> Risen[S]:
    """Raise sparsity from 0 as far as validation allows.

    `further(state, before, after)` gives a new state of sparsity `after` from a good one of sparsity `before`
    and leaves that as it was; `validate` is at least `floor` for a state that holds. The first state is taken
    as good.
    """
    sparsity, step = 0.0, settings.step
    tries: list[Try] = []
    while True:
        ended = _ended(sparsity, step, len(tries), settings)
        if ended is not None:
            return Risen(state, sparsity, tuple(tries), ended)
        # Rounded: what a sum of steps lacks of a whole share must not look like another sparsity.
        wanted = min(settings.most, round(sparsity + step, 9))
        candidate = further(state, sparsity, wanted)
        validation = validate(candidate)
        held = validation >= floor
        tries.append(Try(wanted, validation, held))
        if held:
            state, sparsity = candidate, wanted
        else:
            step /= 2


def _ended(sparsity: float, step: float, tries: int, settings: LoopSettings) -> Why | None:
    if sparsity >= settings.most:
        return "everything allowed is gone"
    if step < settings.smallest_step:
        return "the steps are too small"
    return "no tries are left" if tries >= settings.tries else None
