"""Scatter plots as SVG, written by hand: readable in light and dark, the same bytes for the same points."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax import saxutils

#: What XML 1.0 has no characters for (section 2.2).
_NO_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

WIDTH, HEIGHT = 760, 480
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 20, 70, 52
_FONT = 12
#: Width of a character of the sans-serif fonts that readers have, in font sizes: on the wide side.
_CHARACTER = 0.6
_RADIUS = 5.0
#: Okabe and Ito's colours, told apart with every common colour blindness; for light and for dark ground.
_HUES = (
    ("#0072b2", "#56b4e9"), ("#d55e00", "#f08c46"), ("#00805c", "#3fc79a"), ("#a8457f", "#dd92bd"),
    ("#8a6d00", "#f0e442"), ("#555555", "#bbbbbb"),
)  # fmt: skip


#: Left, top, right, bottom.
_Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Point:
    """A point with its name, the series it belongs to, and standard deviations where there are some."""

    x: float
    y: float
    series: str
    label: str
    x_std: float | None = None
    y_std: float | None = None


@dataclass(frozen=True)
class Axis:
    """An axis: its title and whether it is logarithmic."""

    title: str
    log: bool = False
    #: Bounds that are not to be passed, such as 0 to 100 for percentages.
    floor: float | None = None
    ceiling: float | None = None


def svg(points: Sequence[Point], x: Axis, y: Axis, title: str) -> str:
    """The plot as an SVG document. `points` may be empty; their order decides which labels go first."""
    across = _Scale(x, [p.x for p in points], _LEFT, WIDTH - _RIGHT)
    up = _Scale(y, [p.y for p in points], HEIGHT - _BOTTOM, _TOP)
    series = list(dict.fromkeys(p.series for p in points))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f"aria-label={saxutils.quoteattr(_xml(title))}>",
        f"<title>{_text(title)}</title>",
        _style(len(series)),
        f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text class="title" x="{_LEFT}" y="22">{_text(title)}</text>',
        *_legend(series),
        *_grid(across, up),
        f'<text class="axis" text-anchor="middle" x="{(_LEFT + WIDTH - _RIGHT) / 2:g}" y="{HEIGHT - 12}">'
        f"{_text(x.title)}</text>",
        f'<text class="axis" text-anchor="middle" transform="translate(16 {(_TOP + HEIGHT - _BOTTOM) / 2:g}) '
        f'rotate(-90)">{_text(y.title)}</text>',
    ]
    placed = [(across.at(p.x), up.at(p.y)) for p in points]
    bars = [
        (series.index(p.series), bar)
        for p, (cx, cy) in zip(points, placed, strict=True)
        for bar in _bars(p, cx, cy, across, up)
    ]
    for kind, (x1, y1, x2, y2) in bars:
        parts.append(f'<line class="bar s{_hue(kind)}" x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}"/>')
    for p, (cx, cy) in zip(points, placed, strict=True):
        said = f"{p.label}: {x.title} {_figure(p.x)}, {y.title} {_figure(p.y)}"
        kind = series.index(p.series)
        parts.append(f'<g class="s{_hue(kind)}"><title>{_text(said)}</title>{_shape(kind, cx, cy)}</g>')
    parts += _labels(points, placed, [bar for _, bar in bars])
    return "\n".join([*parts, "</svg>"]) + "\n"


def _xml(text: str) -> str:
    """A text with a mark in the place of what cannot stand in XML."""
    return _NO_XML.sub("\ufffd", text)


def _text(text: str) -> str:
    return saxutils.escape(_xml(text))


class _Scale:
    """From values to places, with round ticks."""

    def __init__(self, axis: Axis, values: Sequence[float], begin: float, end: float) -> None:
        self.axis, self.begin, self.end = axis, begin, end
        finite = [v for v in values if math.isfinite(v) and (v > 0 or not axis.log)] or [1.0]
        low, high = min(finite), max(finite)
        if axis.log:
            low, high = math.log10(low), math.log10(high)
        margin = (high - low) * 0.08 or (0.15 if axis.log else max(1.0, abs(high) * 0.1))
        low, high = low - margin, high + margin
        if axis.floor is not None and not axis.log:
            low = max(low, axis.floor - (high - low) * 0.03)
        if axis.ceiling is not None and not axis.log:
            high = min(high, axis.ceiling + (high - low) * 0.03)
        self.low, self.high = low, high

    def at(self, value: float) -> float:
        place = math.log10(max(value, 1e-12)) if self.axis.log else value
        return round(self.begin + (place - self.low) / (self.high - self.low) * (self.end - self.begin), 1)

    def inside(self, value: float) -> float:
        """The place of a value, or the nearest end of the axis."""
        low, high = sorted((self.begin, self.end))
        return min(high, max(low, self.at(value)))

    def ticks(self) -> list[float]:
        if self.axis.log:
            exponents = range(math.floor(self.low), math.ceil(self.high) + 1)
            several = [m * 10.0**e for e in exponents for m in (1, 2, 5)]
            return [v for v in several if self.low <= math.log10(v) <= self.high]
        rough = (self.high - self.low) / 6
        size = 10.0 ** math.floor(math.log10(rough))
        step = next(size * m for m in (1, 2, 5, 10) if size * m >= rough)
        first = math.ceil(self.low / step)
        found = [round(i * step, 10) for i in range(first, math.floor(self.high / step) + 1)]
        limits = (self.axis.floor, self.axis.ceiling)
        return [v for v in found if (limits[0] is None or v >= limits[0]) and (limits[1] is None or v <= limits[1])]


def _figure(value: float) -> str:
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.4g}"


def _hue(series: int) -> int:
    return series % len(_HUES)


def _style(n: int) -> str:
    used = range(min(n, len(_HUES)))

    def rules(dark: bool) -> str:
        return "".join(f".s{i}{{color:{_HUES[i][dark]}}}" for i in used)

    return (
        f"<style>svg{{font:{_FONT}px system-ui,sans-serif}}"
        ".ground{fill:#fff}text{fill:#1a1a1a}.title{font-size:15px;font-weight:600}.axis{font-size:13px}"
        ".grid{stroke:#e3e3e3}.mark{fill:currentColor;stroke:#fff;stroke-width:1}.bar{stroke:currentColor;opacity:.55}"
        f"{rules(False)}"
        "@media (prefers-color-scheme:dark){.ground{fill:#16181d}text{fill:#e8e8e8}.grid{stroke:#33373f}"
        f".mark{{stroke:#16181d}}{rules(True)}}}</style>"
    )


def _legend(series: Sequence[str]) -> list[str]:
    parts, at = [], float(_LEFT + 6)
    for i, name in enumerate(series):
        parts.append(f'<g class="s{_hue(i)}">{_shape(i, at, 46)}</g>')
        parts.append(f'<text x="{at + 11:g}" y="50">{_text(name)}</text>')
        at += 34 + len(name) * _FONT * _CHARACTER
    return parts


def _grid(across: _Scale, up: _Scale) -> list[str]:
    parts = []
    for value in across.ticks():
        x = across.at(value)
        parts.append(f'<line class="grid" x1="{x:g}" x2="{x:g}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>')
        parts.append(f'<text text-anchor="middle" x="{x:g}" y="{HEIGHT - _BOTTOM + 17}">{_figure(value)}</text>')
    for value in up.ticks():
        y = up.at(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:g}" y2="{y:g}"/>')
        parts.append(f'<text text-anchor="end" x="{_LEFT - 7}" y="{y + 4:g}">{_figure(value)}</text>')
    return parts


def _shape(series: int, x: float, y: float) -> str:
    """A mark that is told apart without colour: circle, triangle, square, diamond, inverted triangle, cross."""
    r = _RADIUS
    outlines = (
        None,
        ((0, -1.25), (1.15, 0.85), (-1.15, 0.85)),
        ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        ((0, 1.25), (1.15, -0.85), (-1.15, -0.85)),
        ((-0.4, -1.2), (0.4, -1.2), (0.4, -0.4), (1.2, -0.4), (1.2, 0.4), (0.4, 0.4), (0.4, 1.2), (-0.4, 1.2),
         (-0.4, 0.4), (-1.2, 0.4), (-1.2, -0.4), (-0.4, -0.4)),
    )  # fmt: skip
    outline = outlines[series % len(outlines)]
    if outline is None:
        return f'<circle class="mark" cx="{x:g}" cy="{y:g}" r="{r:g}"/>'
    corners = " ".join(f"{x + r * dx:.1f},{y + r * dy:.1f}" for dx, dy in outline)
    return f'<polygon class="mark" points="{corners}"/>'


def _bars(point: Point, cx: float, cy: float, across: _Scale, up: _Scale) -> list[_Box]:
    """One standard deviation to each side, as boxes without area."""
    found = []
    if point.x_std:
        found.append((across.inside(point.x - point.x_std), cy, across.inside(point.x + point.x_std), cy))
    if point.y_std:
        found.append((cx, up.inside(point.y + point.y_std), cx, up.inside(point.y - point.y_std)))
    return found


def _labels(points: Sequence[Point], placed: Sequence[tuple[float, float]], bars: Sequence[_Box]) -> list[str]:
    """Names beside their points where there is room; the others are told by the point's title alone."""
    r = _RADIUS + 1
    taken = [(x - r, y - r, x + r, y + r) for x, y in placed] + list(bars)
    parts = []
    for i, (point, (x, y)) in enumerate(zip(points, placed, strict=True)):
        width, height = len(point.label) * _FONT * _CHARACTER, _FONT + 1.0
        right, left, middle = x + r + 2, x - r - 2 - width, x - width / 2
        above, level, below = y - r - 3, y + 4, y + r + _FONT
        for begin, base in (
            (right, level), (left, level), (middle, above), (middle, below),
            (right, above), (left, above), (right, below), (left, below),
        ):  # fmt: skip
            box = (begin, base - height + 2, begin + width, base + 2)
            across, up = box[0] >= _LEFT and box[2] <= WIDTH - 2, box[1] >= _TOP - 4 and box[3] <= HEIGHT - _BOTTOM
            if across and up and not any(_meet(box, other) for j, other in enumerate(taken) if j != i):
                # Where letters are narrower than taken here, the text still begins, or ends, beside its point.
                anchor, at = ("end", begin + width) if begin == left else ("start", begin)
                parts.append(f'<text text-anchor="{anchor}" x="{at:.1f}" y="{base:.1f}">{_text(point.label)}</text>')
                taken.append(box)
                break
    return parts


def _meet(a: _Box, b: _Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
