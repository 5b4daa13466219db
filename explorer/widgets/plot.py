"""The plot of clean against robust accuracy, with the Pareto front of the rows that may be compared."""

from __future__ import annotations

import numpy as np
from textual import events
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Static
from textual_plot import HiResMode, PlotWidget

from explorer.pareto import Points
from explorer.widgets import cells
from explorer.widgets.inks import inks_of

_MARKERS = {"handcrafted": "■", "nas": "●", "ensemble": "◆"}
#: Room around the outermost points, as a share of the range, and at least so many points of percent.
_ROOM, _LEAST = 0.06, 1.0
#: A click this near to a point, in cells, means the point.
_NEAR = 3.0


class _Canvas(PlotWidget, can_focus=False, inherit_bindings=False):
    """The drawing itself; the keys stay with the table."""

    def on_mount(self) -> None:
        super().on_mount()
        self.margin_top, self.margin_left, self.margin_bottom = 0, 6, 3


class TradeoffPlot(Vertical):
    """Points in the shape and colour of their family, published ones grey, the row under the cursor ringed."""

    class Picked(Message):
        """A point was clicked: the row of the table that it stands for."""

        def __init__(self, row: int) -> None:
            super().__init__()
            self.row = row

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.points: Points | None = None

    def compose(self) -> ComposeResult:
        yield Static("", id="plot-title", markup=False)
        yield _Canvas()

    def show(self, points: Points) -> None:
        """Draw these points; a part that was zoomed into stays so while the rows are the same."""
        before, self.points = self.points, points
        inks = inks_of(self.app)
        plot = self.query_one(_Canvas)
        plot.clear()
        same = before is not None and before.about == points.about and np.array_equal(before.rows, points.rows)
        if not same and points.count:
            plot.set_xlimits(*_limits(points.clean))
            plot.set_ylimits(*_limits(points.robust))
        plot.set_xlabel("clean %")
        if len(points.front) > 1:
            x, y = _steps(points)
            plot.plot(x, y, line_style=str(inks.quiet), hires_mode=HiResMode.BRAILLE)
        families = np.asarray(points.family)
        for family, marker in _MARKERS.items():
            for published in (True, False):
                chosen = (families == family) & (points.published == published)
                style = inks.quiet if published else inks.family(family)
                if chosen.any():
                    plot.scatter(points.clean[chosen], points.robust[chosen], marker=marker, marker_style=str(style))
        if points.cursor is not None:
            at = points.cursor
            plot.scatter(
                points.clean[at : at + 1], points.robust[at : at + 1], marker="◉", marker_style=f"bold {inks.accent}"
            )
        drawn = "" if len(points.rows) == points.count else f", {cells.thousands(len(points.rows))} drawn"
        front = ", front dotted" if len(points.front) > 1 else ""
        self.query_one("#plot-title", Static).update(
            f"{points.about}\nrobust %, {cells.thousands(points.count)} comparable{drawn}{front}"
        )

    def on_click(self, event: events.Click) -> None:
        """The nearest point, if there is one near."""
        if self.points is None or not len(self.points.rows):
            return
        plot = self.query_one(_Canvas)
        region = plot.query_one("#plot").content_region
        places = [
            plot.get_pixel_from_coordinate(x, y) for x, y in zip(self.points.clean, self.points.robust, strict=True)
        ]
        at = np.array([event.screen_x - region.x, event.screen_y - region.y])
        # A cell is about twice as high as it is wide.
        away = np.linalg.norm((np.asarray(places) - at) * (1, 2), axis=1)
        nearest = int(away.argmin())
        if away[nearest] <= _NEAR:
            self.post_message(self.Picked(int(self.points.rows[nearest])))


def _limits(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = max(_LEAST, (high - low) * _ROOM)
    return low - room, high + room


def _steps(points: Points) -> tuple[list[float], list[float]]:
    """The front as a stair: what is below and left of it is beaten."""
    xs: list[float] = []
    ys: list[float] = []
    for i in points.front:
        if xs:
            xs.append(xs[-1])
            ys.append(float(points.robust[i]))
        xs.append(float(points.clean[i]))
        ys.append(float(points.robust[i]))
    return xs, ys
