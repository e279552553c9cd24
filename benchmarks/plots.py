"""Figures over figures as SVG, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 420, 280  # of a panel, in pixels
LEFT, RIGHT, TOP, BOTTOM = 60, 20, 40, 50
INK, GREY, LINE = "#333", "#ddd", "#2a6fbb"


@dataclass(frozen=True)
class Panel:
    """One quantity over another; both axes begin at 0.

    Attributes:
        title: what is drawn upwards, with its unit.
        across: what is drawn to the right, with its unit.
        points: ``(x, y)``, not negative, at least one above 0 in both.
    """

    title: str
    across: str
    points: Sequence[tuple[float, float]]


def ticks(largest: float, *, most: int = 6) -> list[float]:
    """Round numbers from 0 to the first one at or above ``largest``, at most ``most`` steps."""
    raw = largest / most
    power = 10 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    return [i * step for i in range(math.ceil(largest / step - 1e-9) + 1)]


def svg(panels: Sequence[Panel]) -> str:
    """The panels side by side."""
    size = f'width="{WIDTH * len(panels)}" height="{HEIGHT}"'
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">']
    lines.append('<rect width="100%" height="100%" fill="white"/>')
    for i, panel in enumerate(panels):
        lines += [f'<g transform="translate({i * WIDTH} 0)">', *_drawn(panel), "</g>"]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _drawn(panel: Panel) -> list[str]:
    xs, ys = (ticks(max(values)) for values in zip(*panel.points, strict=True))
    across = lambda x: LEFT + x / xs[-1] * (WIDTH - LEFT - RIGHT)  # noqa: E731
    up = lambda y: HEIGHT - BOTTOM - y / ys[-1] * (HEIGHT - TOP - BOTTOM)  # noqa: E731
    lines = [
        _text(WIDTH / 2, 20, panel.title, "middle"),
        _text(WIDTH / 2, HEIGHT - 12, panel.across, "middle"),
    ]
    for x in xs:
        lines += [
            _line(across(x), up(0), across(x), up(ys[-1])),
            _text(across(x), up(0) + 18, f"{x:g}", "middle"),
        ]
    for y in ys:
        lines += [_line(across(0), up(y), across(xs[-1]), up(y)), _text(LEFT - 8, up(y) + 4, f"{y:g}", "end")]
    places = [(across(x), up(y)) for x, y in panel.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    lines.append(f'<polyline points="{path}" fill="none" stroke="{LINE}" stroke-width="2"/>')
    return lines + [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{LINE}"/>' for x, y in places]


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{GREY}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{INK}">{escape(text)}</text>'
