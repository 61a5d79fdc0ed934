"""Small charts as inline SVG: no script, no font, no file of anybody else's. Colours are the page's."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 14, 14, 44
COLOURS = 6


@dataclass(frozen=True)
class Point:
    """A labelled point; `low` and `high` are the ends of its interval, `kind` its colour."""

    x: float
    y: float
    label: str
    low: float | None = None
    high: float | None = None
    kind: int = 0


@dataclass(frozen=True)
class _Scale:
    """From values to pixels."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        span = (self.high - self.low) or 1.0
        return self.start + (value - self.low) / span * (self.stop - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Evenly spaced values from end to end."""
        return [self.low + (self.high - self.low) * index / (count - 1) for index in range(count)]


def scatter(
    points: Sequence[Point], x_title: str, y_title: str, y_text: Callable[[float], str], x_unit: str = ""
) -> str:
    """Points with their labels and intervals; x starts at zero."""
    ends = [end for point in points for end in (point.y, point.low, point.high) if end is not None]
    x = _Scale(0.0, 1.12 * max(point.x for point in points), _LEFT, WIDTH - _RIGHT)
    y = _padded_scale(ends)
    parts = [_axes(x, y, x_title, y_title, lambda value: f"{value:,.0f}{x_unit}", y_text)]
    taken: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda each: each.x):
        left, top = x(point.x), y(point.y)
        if point.low is not None and point.high is not None:
            parts.append(f'<path class="whisker" d="M{left:.1f} {y(point.low):.1f}V{y(point.high):.1f}"/>')
        parts.append(f'<circle class="c{point.kind % COLOURS}" cx="{left:.1f}" cy="{top:.1f}" r="5"/>')
        at_right = left < WIDTH * 0.62
        anchor, shift = ("start", 9) if at_right else ("end", -9)
        level = top + 4
        while any(abs(level - other) < 14 and abs(left - near) < 190 for near, other in taken):
            level += 14
        taken.append((left, level))
        parts.append(
            f'<text x="{left + shift:.1f}" y="{level:.1f}" text-anchor="{anchor}">'
            f"{escape(point.label)}</text>"
        )
    return _svg(parts, f"{y_title} against {x_title}")


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    x_title: str,
    y_title: str,
    y_text: Callable[[float], str],
    diagonal: bool = False,
) -> str:
    """One line for each name, with a legend below; `diagonal` draws where y is x."""
    every = [point for points in series.values() for point in points]
    if diagonal:
        x, y = _Scale(0.0, 1.0, _LEFT, WIDTH - _RIGHT), _Scale(0.0, 1.0, HEIGHT - _BOTTOM, _TOP)
    else:
        x = _Scale(0.0, max(point[0] for point in every), _LEFT, WIDTH - _RIGHT)
        y = _padded_scale([point[1] for point in every])
    parts = [_axes(x, y, x_title, y_title, lambda value: f"{value:g}"[:5], y_text)]
    if diagonal:
        parts.append(f'<path class="whisker dashed" d="M{x(0):.1f} {y(0):.1f}L{x(1):.1f} {y(1):.1f}"/>')
    for number, points in enumerate(series.values()):
        path = "L".join(f"{x(left):.1f} {y(value):.1f}" for left, value in points)
        parts.append(f'<path class="line l{number % COLOURS}" d="M{path}"/>')
        parts += [
            f'<circle class="c{number % COLOURS}" cx="{x(left):.1f}" cy="{y(value):.1f}" r="3.5"/>'
            for left, value in points
        ]
    return _svg(parts, f"{y_title} by {x_title}") + _legend(list(series))


def bars(groups: Mapping[str, Sequence[float]], labels: Sequence[str], y_title: str) -> str:
    """For each label a group of bars, one for each name; missing ones at the end are left out."""
    highest = max((value for values in groups.values() for value in values), default=1.0)
    y = _Scale(0.0, highest or 1.0, HEIGHT - _BOTTOM, _TOP)
    slot = (WIDTH - _LEFT - _RIGHT) / max(1, len(labels))
    width = slot * 0.8 / max(1, len(groups))
    parts = [_y_axis(y, y_title, lambda value: f"{value:,.0f}")]
    for place, label in enumerate(labels):
        start = _LEFT + slot * (place + 0.1)
        middle = _LEFT + slot * (place + 0.5)
        parts.append(
            f'<text class="tick" x="{middle:.1f}" y="{HEIGHT - 26}" text-anchor="middle">'
            f"{escape(label)}</text>"
        )
        for number, values in enumerate(groups.values()):
            if place < len(values):
                top = y(values[place])
                parts.append(
                    f'<rect class="c{number % COLOURS}" x="{start + number * width:.1f}" y="{top:.1f}" '
                    f'width="{width - 1.5:.1f}" height="{max(0.0, y(0) - top):.1f}" rx="2"/>'
                )
    return _svg(parts, y_title) + _legend(list(groups))


def bar(share: float) -> str:
    """A bar as wide as the share of its column, for a table's cell."""
    return f'<span class="bar"><i style="width:{max(0.0, min(1.0, share)):.1%}"></i></span>'


def _padded_scale(values: Sequence[float]) -> _Scale:
    low, high = min(values), max(values)
    edge = 0.08 * (high - low) or 0.01
    return _Scale(low - edge, high + edge, HEIGHT - _BOTTOM, _TOP)


def _axes(
    x: _Scale,
    y: _Scale,
    x_title: str,
    y_title: str,
    x_text: Callable[[float], str],
    y_text: Callable[[float], str],
) -> str:
    marks = "".join(
        f'<text class="tick" x="{x(tick):.1f}" y="{HEIGHT - 26}" text-anchor="middle">{x_text(tick)}</text>'
        for tick in x.ticks()
    )
    title = f'<text class="axis" x="{(x.start + x.stop) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">'
    return _y_axis(y, y_title, y_text) + marks + f"{title}{escape(x_title)}</text>"


def _y_axis(y: _Scale, title: str, text: Callable[[float], str]) -> str:
    grid = "".join(
        f'<path class="grid" d="M{_LEFT} {y(tick):.1f}H{WIDTH - _RIGHT}"/>'
        f'<text class="tick" x="{_LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{text(tick)}</text>'
        for tick in y.ticks()
    )
    middle = (y.start + y.stop) / 2
    return (
        f'{grid}<text class="axis" transform="translate(12 {middle:.0f}) rotate(-90)" '
        f'text-anchor="middle">{escape(title)}</text>'
    )


def _legend(names: Sequence[str]) -> str:
    entries = "".join(
        f'<li><i class="c{number % COLOURS}"></i>{escape(name)}</li>' for number, name in enumerate(names)
    )
    return f'<ul class="legend">{entries}</ul>'


def _svg(parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
