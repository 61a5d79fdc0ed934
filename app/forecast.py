"""How far the predictions of finish times are off, learned from how they came true. Pure.

Costs are measured on an idle machine and summed row by row. Under load the event loop takes its share of
the cores, batches save time, and others go first by their turns: what was predicted to take one second takes
another time, more or less steadily. Admission believes the prediction times the factor kept here.

Source: Jacobson: Congestion Avoidance and Control (SIGCOMM 1988), the estimate of a round trip's time.
"""

from __future__ import annotations

# A twentieth of an error that is large beside the noise; next to nothing of one that is not.
_LEARNING_RATE = 0.05
_NOISE_SECONDS = 0.05
# An answer that comes late is worth nothing and has cost as much as one in time; a queue that is a little
# shorter than it might be costs nothing. So the factor lies above the mean, by this many mean deviations.
_DEVIATIONS = 4.0
_SMALLEST, _LARGEST = 0.5, 4.0


class Forecast:
    """Actual over predicted seconds of the jobs that waited, its mean and its mean deviation."""

    def __init__(self) -> None:
        self._mean, self._deviation = 1.0, 0.0

    @property
    def factor(self) -> float:
        """What a prediction is to be multiplied with to be kept nearly always."""
        return min(max(self._mean + _DEVIATIONS * self._deviation, _SMALLEST), _LARGEST)

    def observe(self, predicted_seconds: float, actual_seconds: float) -> None:
        """Learn from a job that is over, answered or expired."""
        if predicted_seconds <= 0:
            return
        ratio = min(actual_seconds / predicted_seconds, _LARGEST)
        rate = _LEARNING_RATE * predicted_seconds / (predicted_seconds + _NOISE_SECONDS)
        self._deviation += rate * (abs(ratio - self._mean) - self._deviation)
        self._mean += rate * (ratio - self._mean)
