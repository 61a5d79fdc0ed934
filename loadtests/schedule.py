"""When requests leave: fixed before the run, so that a slow server cannot slow its own load down."""

from __future__ import annotations

from random import Random

from app.errors import SettingsError

MAX_DURATION_SECONDS = 600.0
MAX_REQUESTS = 200_000


def constant(rate: float, duration_seconds: float) -> list[float]:
    """Offsets in seconds from the start, evenly spaced."""
    check(rate, duration_seconds)
    return [index / rate for index in range(int(rate * duration_seconds))]


def poisson(rate: float, duration_seconds: float, random: Random) -> list[float]:
    """Offsets in seconds from the start with exponential gaps: independent callers, bursts included."""
    check(rate, duration_seconds)
    offsets: list[float] = []
    offset = random.expovariate(rate)
    while offset < duration_seconds and len(offsets) < MAX_REQUESTS:
        offsets.append(offset)
        offset += random.expovariate(rate)
    return offsets


def scattered(rate: float, duration_seconds: float, random: Random) -> list[float]:
    """Offsets at independent random moments, exactly as many as the rate says.

    A Poisson process whose count is known: bursts as with `poisson`, without its few percent of difference
    in the rate between one run and the next, so that short runs can be compared.
    """
    check(rate, duration_seconds)
    return sorted(random.uniform(0, duration_seconds) for _ in range(round(rate * duration_seconds)))


def check(rate: float, duration_seconds: float) -> None:
    """Refuse a run that would not be bounded in time and count.

    Raises:
        SettingsError: the rate or the duration is not positive, or the run is too long or too large.
    """
    if not rate > 0:
        raise SettingsError(f"the rate is {rate:g} requests a second; it must be more than 0")
    check_duration(duration_seconds)
    if rate * duration_seconds > MAX_REQUESTS:
        raise SettingsError(
            f"{rate:g} requests a second for {duration_seconds:g} s are more than {MAX_REQUESTS} requests; "
            "lower the rate or the duration"
        )


def check_duration(duration_seconds: float) -> None:
    """Refuse a duration that is not positive, or longer than a run may last.

    Raises:
        SettingsError: it is.
    """
    if not 0 < duration_seconds <= MAX_DURATION_SECONDS:
        raise SettingsError(
            f"the duration is {duration_seconds:g} s; "
            f"it must be more than 0 and at most {MAX_DURATION_SECONDS:g} s"
        )
