"""The figures of latency: every request as a point, and accuracy against time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..formatting import milliseconds
from ..sections.front import Front, Point
from ..sections.latency import Latency
from .plot import SMALL, Look, frame, heading, label, page
from .svg import INK


def strips(
    rows: Sequence[Latency], looks: Mapping[str, Look], other: Look
) -> tuple[Any, list[str]]:
    """A strip of points for each series, and in words what is seen; *other* draws the rest."""
    panels = [(rows, "ttft_ms", "time to first token, ms")]
    followed = [row for row in rows if row.tpot_ms]
    if followed:
        panels.append((followed, "tpot_ms", "time per following token, ms"))
    figure, axes = page(*(48 * len(members) for members, *_ in panels))
    heading(figure, "each point one request; bar: median")
    heading(figure, "median", right=True)
    said = []
    for ax, (members, key, unit) in zip(axes, panels, strict=True):
        ax.set_xlim(0, 1.06 * max(value for row in members for value in getattr(row, key)))
        frame(ax, unit)
        for place, row in enumerate(members):
            values = np.array(getattr(row, key))
            look = looks.get(row.model, other)
            median = milliseconds(_strip(ax, 48.0 * place + 30, values, look))
            name = _series_name(row, rows)
            label(ax, 48 * place + 11, name, median)
            said.append(f"{name}: median {median}, {unit}.")
    return figure, said


def scatter(front: Front, looks: Mapping[str, Look], other: Look) -> tuple[Any, list[str]]:
    """Accuracy over time per token; numbered as in the table, the front joined by a line."""
    figure, [ax] = page(240, left=40)
    best = [point for point in front.points if point.best]
    times = [point.tpot_ms for point in front.points]
    ends = [100 * end for point in front.points for end in (point.low, point.high)]
    pad = 0.08 * max(max(ends) - min(ends), 1.0)
    ax.set_xlim(0, 1.12 * max(times))
    ax.set_ylim(max(0.0, min(ends) - pad), min(100.0, max(ends) + pad))
    frame(ax, "median time per following token, ms", rules="y")
    # A step: between two points of the front nothing better is known than the slower one's time.
    ax.step(
        [point.tpot_ms for point in best], [100 * point.accuracy for point in best],
        where="post", color=INK, lw=1, alpha=0.5,
    )  # fmt: skip
    for place, point in enumerate(front.points, start=1):
        _spot(ax, place, point, looks.get(point.base, other))
    heading(figure, "accuracy, %, with 95 % interval; filled: on the front")
    return figure, [point.sentence for point in front.points]


def _spot(ax: Any, place: int, point: Point, look: Look) -> None:
    x, y = point.tpot_ms, 100 * point.accuracy
    ax.plot([x, x], [100 * point.low, 100 * point.high], color=look.colour, lw=1.6, alpha=0.6)
    ax.plot(
        [x], [y], marker=look.marker, ms=8, mew=1.6, mec=look.colour,
        mfc=look.colour if point.best else "none", clip_on=False,
    )  # fmt: skip
    ax.annotate(
        str(place), (x, y), xytext=(8, 6), textcoords="offset points", color=INK, fontsize=SMALL
    )


def _strip(ax: Any, y: float, values: Any, look: Look) -> float:
    """Every value as a point; the median as a bar, and returned."""
    median = float(np.median(values))
    # The jitter is a fixed sequence: the same run gives the same picture.
    jitter = 14 * ((np.arange(len(values)) * 0.6180339887) % 1 - 0.5)
    ax.plot(values, y + jitter, "o", ms=3.8, mew=0, color=look.colour, alpha=0.6)
    ax.plot([median] * 2, [y - 11, y + 11], color=INK, lw=2)
    return median


def _series_name(row: Latency, rows: Sequence[Latency]) -> str:
    """What sets this series apart from the others of the figure."""
    parts = [row.model] if len({other.model for other in rows}) > 1 else []
    parts.append(row.runtime)
    parts += [row.shape] if len({other.shape for other in rows}) > 1 else []
    return ", ".join(parts) + (" (unstable)" if row.unstable else "")
