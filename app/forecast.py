"""How far the predictions of finish times are off, learned from how they came true. Pure.

Costs are measured on an idle machine and summed row by row. Under load the event loop takes its share of
the cores, batches save time, and others go first by their turns: what was predicted to take one second takes
another time, more or less steadily. Admission believes what is kept here: the prediction times the mean
error, and room for how that varies. A wait is the sum of many passes, so the room grows with its root: a pass
that had to end first makes a short wait twice as long, and a long one only a little longer.

Source: Jacobson: Congestion Avoidance and Control (SIGCOMM 1988), the estimate of a round trip's time.
"""

from __future__ import annotations

from math import sqrt

# A twentieth of an error: a few dozen jobs say how things stand.
_LEARNING_RATE = 0.05
# Waits far below this many seconds are noise, and nothing is learned from them.
_NOISE_SECONDS = 0.02
# An answer that comes late is worth nothing and has cost as much as one in time; a queue that is a little
# shorter than it might be costs little. So there is room above the mean for this many mean deviations.
_DEVIATIONS = 3.0
_SMALLEST, _LARGEST = 0.5, 4.0
# Answers leave by the hundred a second: a tenth of a second of them tells how far the loop is behind now.
_LAG_LEARNING_RATE = 0.02
_LAG_DEVIATIONS = 2.0
_LARGEST_ALLOWANCE = 0.5


class Forecast:
    """Actual over predicted seconds of the jobs that waited: the ratio of their means, and how far they vary.

    Means of seconds, not of ratios: a job that waited ten milliseconds for one counts for little. The
    deviation is that of a wait of one second.
    """

    def __init__(self) -> None:
        self._predicted = self._actual = self._deviation = 0.0

    def seconds(self, predicted_seconds: float) -> float:
        """What a prediction stands for nearly always."""
        room = _DEVIATIONS * self._deviation * sqrt(predicted_seconds)
        seconds = self._mean * predicted_seconds + room
        return min(max(seconds, _SMALLEST * predicted_seconds), _LARGEST * predicted_seconds)

    def observe(self, predicted_seconds: float, actual_seconds: float) -> None:
        """Learn from a job that is over, answered or expired."""
        if predicted_seconds <= 0:
            return
        actual = min(actual_seconds, _LARGEST * predicted_seconds)
        error = abs(actual - self._mean * predicted_seconds) / sqrt(predicted_seconds + _NOISE_SECONDS)
        self._predicted += _LEARNING_RATE * (predicted_seconds - self._predicted)
        self._actual += _LEARNING_RATE * (actual - self._actual)
        self._deviation += _LEARNING_RATE * (error - self._deviation)

    @property
    def _mean(self) -> float:
        return (self._actual + _NOISE_SECONDS) / (self._predicted + _NOISE_SECONDS)


class LoopLag:
    """Seconds that the event loop is behind, its mean and its mean deviation.

    A request that waits in a socket has not been seen yet, and an answer that is computed has not been sent:
    a busy loop adds its lag to both ends, and no cost of a pass knows of it.
    """

    def __init__(self) -> None:
        self._mean, self._deviation = 0.0, 0.0

    def observe(self, seconds: float) -> None:
        """Learn from something that was to happen at once."""
        self._deviation += _LAG_LEARNING_RATE * (abs(seconds - self._mean) - self._deviation)
        self._mean += _LAG_LEARNING_RATE * (seconds - self._mean)

    def allowance(self, seconds_left: float) -> float:
        """What to leave of the time until a deadline for the ways in and out.

        Never more than a share of it: who admits nothing would never learn that the loop has caught up.
        """
        both_ways = 2 * (self._mean + _LAG_DEVIATIONS * self._deviation)
        return min(both_ways, _LARGEST_ALLOWANCE * max(seconds_left, 0.0))
