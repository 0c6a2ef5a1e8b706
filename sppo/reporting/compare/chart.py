"""The win rates over the base of two runs, as inline SVG whose letters stay legible at a phone's width."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

from markupsafe import Markup

from sppo.reporting.compare.side import EVEN, Side
from sppo.reporting.compare.words import WIN_RATE

Point = tuple[int, float, float, float]
"""Iteration, win rate, and the ends of its interval."""

_WIDTH, _HEIGHT = 360, 230  # a unit is a pixel on a narrow phone
_LEFT, _RIGHT, _TOP, _BOTTOM = 36, 4, 28, 40
_STEPS = (0.01, 0.02, 0.05, 0.1, 0.2)
_TICKS = 6
_BESIDE = 5
"""How far a run's points lie beside their iteration, so that intervals stay apart."""


class _Plane:
    """Where iterations and win rates lie in the picture."""

    def __init__(self, iterations: int, low: float, high: float) -> None:
        self.iterations = iterations
        self.step = next((step for step in _STEPS if (high - low) <= _TICKS * step), _STEPS[-1])
        self.first, self.last = math.floor(low / self.step), math.ceil(high / self.step)
        self.last += self.first == self.last

    def x(self, iteration: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (iteration - 0.5) / self.iterations

    def y(self, rate: float) -> float:
        share = (rate / self.step - self.first) / (self.last - self.first)
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * share

    def ticks(self) -> Iterator[float]:
        return (index * self.step for index in range(self.first, self.last + 1))


def win_rate_chart(sides: Sequence[Side], title: str) -> Markup:
    """The runs' win rates over the base with their 95 % intervals, over the iterations.

    The colours are the page's: `currentColor`, and `--series-1`, `--series-2` as the runs go.
    """
    runs = [_points(side) for side in sides]
    values = [EVEN, *(value for points in runs for _, *interval in points for value in interval)]
    plane = _Plane(max(t for points in runs for t, *_ in points), min(values), max(values))
    drawn = [*_axes(plane)]
    for index, (side, points) in enumerate(zip(sides, runs, strict=True)):
        color, beside = f"var(--series-{index + 1})", _BESIDE * (2 * index - len(runs) + 1)
        drawn += _run(plane, points, color, beside, dashed=index > 0)
        drawn += _legend(_LEFT + 60 * index, side.name, color, dashed=index > 0)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, _HEIGHT, title, Markup("\n").join(drawn)
    )


def _points(side: Side) -> list[Point]:
    figures = [(each.iteration, each.figures) for each in side.report.iterations]
    return [(t, *(known[WIN_RATE + end] for end in ("", "_low", "_high"))) for t, known in figures]  # type: ignore[misc]


def _axes(plane: _Plane) -> Iterator[Markup]:
    for rate in plane.ticks():
        opacity = 0.6 if math.isclose(rate, EVEN) else 0.15
        yield _line(_LEFT, plane.y(rate), _WIDTH - _RIGHT, plane.y(rate), "currentColor", opacity=opacity)
        yield _text(_LEFT - 5, plane.y(rate) + 4, f"{rate:.2f}", "end")
    for t in range(1, plane.iterations + 1):
        yield _text(plane.x(t), _HEIGHT - _BOTTOM + 17, str(t), "middle")
    yield _text((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 5, "iteration", "middle")


def _run(plane: _Plane, points: Sequence[Point], color: str, beside: float, dashed: bool) -> Iterator[Markup]:
    """A run's interval and mark at each iteration, and the line through the marks."""
    places = [(plane.x(t) + beside, plane.y(rate), plane.y(low), plane.y(high)) for t, rate, low, high in points]
    for (x, y, *_), (next_x, next_y, *_) in pairwise(places):
        yield _line(x, y, next_x, next_y, color, dashed=dashed, width=2)
    for x, y, low, high in places:
        yield _line(x, low, x, high, color, width=1.5)
        for end in (low, high):
            yield _line(x - 4, end, x + 4, end, color, width=1.5)
        yield _mark(x, y, color, dashed)


def _legend(x: float, name: str, color: str, dashed: bool) -> Iterator[Markup]:
    yield _line(x, 12, x + 24, 12, color, dashed=dashed, width=2)
    yield _mark(x + 12, 12, color, dashed)
    yield _text(x + 30, 16, name, "start")


def _line(
    x1: float,
    y1: float,
    x2: float,
    y2: float,
    color: str,
    dashed: bool = False,
    width: float = 1,
    opacity: float = 1,
) -> Markup:
    dash = Markup(' stroke-dasharray="5 4"') if dashed else ""
    return Markup(
        '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" stroke="{}" stroke-width="{}" opacity="{}"{}/>'
    ).format(x1, y1, x2, y2, color, width, opacity, dash)


def _mark(x: float, y: float, color: str, square: bool) -> Markup:
    """A circle, or a square: the runs differ in more than colour."""
    return Markup('<rect x="{:.1f}" y="{:.1f}" width="8" height="8" rx="{}" fill="{}"/>').format(
        x - 4, y - 4, 0 if square else 4, color
    )


def _text(x: float, y: float, text: str, anchor: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}" font-size="12" fill="currentColor">{}</text>').format(
        x, y, anchor, text
    )
