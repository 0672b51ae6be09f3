"""Drawing in CSS pixels on a matplotlib figure: panels, quiet axes, labels, intervals, a legend.

Positions are given, never measured, so a figure does not depend on the fonts of the machine that
drew it. In panels of rows y counts pixels downwards, as rows of a page do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..formatting import MINUS
from .svg import INK, canvas

WIDTH = 440
LEFT, RIGHT = 14, 16
TOP = 28
"""Room for the legend."""
FOOT = 40
"""Room below a panel for ticks and the unit."""
MARGIN, GAP, NAME = 38, 40, 26
"""Of panels in a grid: left of the first, between two, and above each for its name."""
TEXT, SMALL = 13, 12


@dataclass(frozen=True)
class Look:
    """How a model is drawn; neither colour nor marker carries the difference alone."""

    colour: str
    marker: str


def height_of(*panels: float) -> int:
    """Height of a figure with these panels below each other."""
    return round(TOP + sum(panels) + FOOT * len(panels) + 14 * (len(panels) - 1))


def page(*panels: float, left: float = LEFT) -> tuple[Any, list[Any]]:
    """A figure and its axes, one panel of each height below the other."""
    height = height_of(*panels)
    figure = canvas(WIDTH, height)
    top, axes = float(TOP), []
    for rows in panels:
        share = (WIDTH - left - RIGHT) / WIDTH
        ax = figure.add_axes((left / WIDTH, 1 - (top + rows) / height, share, rows / height))
        ax.set_ylim(rows, 0)
        ax.patch.set_visible(False)
        axes.append(ax)
        top += rows + FOOT + 14
    return figure, axes


def grid(count: int) -> Any:
    """A figure with *count* axes, square and two in a row; a lone one has the whole width."""
    columns = min(count, 2)
    rows = -(-count // columns)
    wide = (WIDTH - MARGIN - RIGHT - GAP * (columns - 1)) / columns
    high = wide if columns == 2 else 0.64 * wide
    height = round(TOP + rows * (NAME + high + FOOT) + 10 * (rows - 1))
    figure = canvas(WIDTH, height)
    for place in range(count):
        row, column = divmod(place, columns)
        left = MARGIN + column * (wide + GAP)
        top = TOP + NAME + row * (NAME + high + FOOT + 10)
        box = (left / WIDTH, 1 - (top + high) / height, wide / WIDTH, high / height)
        figure.add_axes(box, label=str(place)).patch.set_visible(False)
    return figure


def frame(ax: Any, unit: str, rules: str = "x") -> None:
    """A baseline, faint rules across *rules* (``x`` or ``y``), the unit below."""
    for side in ("top", "left", "right"):
        ax.spines[side].set_visible(False)
    ax.spines["bottom"].set(color=INK, alpha=0.5, linewidth=1)
    ax.tick_params(colors=INK, labelsize=SMALL, length=0, pad=5, labelleft=rules == "y")
    ax.grid(axis=rules, color=INK, alpha=0.13, lw=1)
    ax.set_axisbelow(True)
    ax.set_xlabel(unit, color=INK, fontsize=SMALL, labelpad=5)
    ax.locator_params(axis=rules, nbins=6)
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}".replace("-", MINUS))


def bands(ax: Any, rows: Sequence[tuple[float, float]]) -> None:
    """The rules of :func:`frame` between these heights alone, so that none crosses a label."""
    ax.grid(visible=False)
    low, high = sorted(ax.get_xlim())
    for tick in ax.get_xticks():
        if low <= tick <= high:
            for ends in rows:
                ax.plot([tick, tick], ends, color=INK, alpha=0.13, lw=1, zorder=0.5)


def title(ax: Any, text: str) -> None:
    """The name of a panel of a grid, above it."""
    ax.set_title(
        short(text, 22), loc="left", y=1, pad=10, color=INK, fontsize=TEXT, fontweight="bold",
        parse_math=False,
    )  # fmt: skip


def guide(ax: Any, x: Sequence[float], y: Sequence[float]) -> None:
    """A dashed line to compare with."""
    ax.plot(x, y, color=INK, lw=1, ls=(0, (2, 2)), alpha=0.7)


def label(ax: Any, y: float, text: str, right: str = "") -> None:
    """The name of a row, and what is said of it at the right edge."""
    across = ax.get_yaxis_transform()
    ax.text(
        0, y, short(text, 42 - len(right)), transform=across, va="center", color=INK,
        fontsize=TEXT, fontweight="bold", parse_math=False,
    )  # fmt: skip
    if right:
        ax.text(1, y, right, transform=across, ha="right", va="center", color=INK, fontsize=SMALL)


def interval(ax: Any, y: float, ends: Sequence[float | None], look: Look) -> None:
    """A point on its interval; *ends* are value, low and high in units of the axis."""
    value, low, high = ends
    if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
        ax.plot([low, high], [y, y], color=look.colour, lw=2.4, alpha=0.75)
    ax.plot([value], [y], marker=look.marker, ms=7.5, mew=0, color=look.colour, clip_on=False)


def heading(figure: Any, text: str, *, right: bool = False) -> None:
    """A line above the panels, at the left or the right edge."""
    x = 1 - RIGHT / WIDTH if right else LEFT / WIDTH
    figure.text(
        x, _headline(figure), text, ha="right" if right else "left", va="center", color=INK,
        fontsize=SMALL, parse_math=False,
    )  # fmt: skip


def legend(figure: Any, looks: Mapping[str, Look]) -> None:
    """Names with their markers on one line; their widths are estimated at 7 pixels a letter."""
    from matplotlib.lines import Line2D

    x, y = LEFT + 4.0, _headline(figure)
    room = WIDTH - LEFT - RIGHT
    limit = max(map(len, looks), default=0)
    if sum(7 * len(name) + 30 for name in looks) > room:
        limit = int(room / max(len(looks), 1) / 7) - 4
    for name, look in looks.items():
        mark = Line2D([x / WIDTH], [y], color=look.colour, marker=look.marker, ms=7.5, mew=0)
        figure.add_artist(mark)
        shown = short(name, max(limit, 2))
        figure.text(
            (x + 10) / WIDTH, y, shown, va="center", color=INK, fontsize=SMALL, parse_math=False
        )
        x += 7 * len(shown) + 30


def short(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _headline(figure: Any) -> float:
    return float(1 - 12 / (72 * figure.get_figheight()))
