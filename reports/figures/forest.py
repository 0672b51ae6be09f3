"""Paired differences as a forest plot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..verdicts import Comparison
from .plot import Look, bands, frame, interval, label, page
from .svg import INK

ROW = 46.0


def forest(shown: Sequence[Comparison], looks: dict[str, Look], *, named: bool = False) -> Any:
    """The figure: a panel for each unit, and right of zero is always better.

    Args:
        shown: Comparisons whose differences are known.
        looks: Of the tuned models.
        named: Whether each row names its model; its figures are then left to the table.
    """
    units = dict.fromkeys((one.scale.step, one.higher_is_better) for one in shown)
    panels = [[c for c in shown if (c.scale.step, c.higher_is_better) == unit] for unit in units]
    figure, axes = page(*(ROW * len(panel) for panel in panels))
    for ax, panel in zip(axes, panels, strict=True):
        _panel(ax, panel)
        for place, one in enumerate(panel):
            y, name = ROW * place, f"{one.task}, {one.tuned}" if named else one.task
            label(ax, y + 11, name, "" if named else f"{one.shown}  ({one.interval})")
            ax.plot([0, 0], [y + 20, y + 40], color=INK, lw=1.2, alpha=0.8)
            interval(ax, y + 30, _ends(one), looks[one.tuned])
    return figure


def _panel(ax: Any, panel: Sequence[Comparison]) -> None:
    first = panel[0]
    known = [end for one in panel for end in _ends(one) if end is not None]
    reach = max(*map(abs, known), 1e-9)
    low, high = min(*known, -0.25 * reach), max(*known, 0.25 * reach)
    pad = 0.06 * (high - low)
    limits = (low - pad, high + pad)
    ax.set_xlim(limits if first.higher_is_better else limits[::-1])
    level = f"{100 * first.confidence:g} %"
    frame(ax, f"{first.scale.step}, with {level} interval; right of 0 is better")
    bands(ax, [(ROW * place + 20, ROW * place + 40) for place in range(len(panel))])


def _ends(one: Comparison) -> tuple[float | None, ...]:
    """Difference and the ends of its interval, as they are shown."""
    ends = (one.difference, one.low, one.high)
    return tuple(None if end is None else one.scale.factor * end for end in ends)
