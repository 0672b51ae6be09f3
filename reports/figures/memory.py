"""The figure of memory by precision: predicted parts as a bar, the measured peak as a mark."""

from __future__ import annotations

from typing import Any

from ..formatting import size
from ..sections.memory import Forecast, Line
from .plot import Look, frame, label, legend, page
from .svg import INK

# The adapter's part holds its gradients and the optimizer's state.
PARTS = {
    "weights": Look("#848d97", "s"),
    "adapter": Look("#2f7de1", "s"),
    "activations": Look("#d1660a", "s"),
    "measured": Look(INK, "D"),
}
ROW = 44


def memory(forecasts: tuple[Forecast, ...]) -> tuple[Any, list[str]]:
    """The figure, and in words what is seen in it."""
    rows = [(one, line) for one in forecasts for line in one.lines]
    figure, [ax] = page(ROW * len(rows))
    most = max(max(line.peak, line.measured or 0) for _, line in rows)
    unit, scale = ("GB", 1e9) if most >= 1e9 else ("MB", 1e6)
    ax.set_xlim(0, 1.05 * most / scale)
    frame(ax, f"{unit} on the GPU at the worst moment of a step, predicted")
    said = []
    for place, (one, line) in enumerate(rows):
        name = line.precision if len(forecasts) == 1 else f"{one.model}, {line.precision}"
        _bar(ax, ROW * place, (name, line), scale)
        sentence = f"{name}: predicted {size(line.peak)}"
        said.append(
            f"{sentence}, measured {size(line.measured)}." if line.measured else f"{sentence}."
        )
    measured = any(line.measured for _, line in rows)
    legend(figure, {k: look for k, look in PARTS.items() if k != "measured" or measured})
    return figure, said


def _bar(ax: Any, top: float, row: tuple[str, Line], scale: float) -> None:
    name, line = row
    shown = size(line.peak)
    label(
        ax, top + 12, name, f"{shown}, measured {size(line.measured)}" if line.measured else shown
    )
    left = 0.0
    parts = (line.weights, line.adapter + line.optimizer, line.activations)
    for look, part in zip(PARTS.values(), parts, strict=False):
        ax.barh(top + 30, part / scale, left=left, height=12, color=look.colour, lw=0)
        left += part / scale
    if line.measured:
        mark, at = PARTS["measured"], line.measured / scale
        ax.plot([at], [top + 30], mark.marker, ms=8, mew=0, color=mark.colour, clip_on=False)
