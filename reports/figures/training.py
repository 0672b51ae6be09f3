"""The curves of tunings: loss on training and validation rows, and the gradient's norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..formatting import number
from ..sections.training import Curve, Training
from .plot import Look, frame, legend, page

SMOOTH = 24
"""From so many logged steps on the curve also shows a running mean."""


def curves(trainings: Sequence[Training], looks: Mapping[str, Look]) -> tuple[Any, list[str]]:
    """The figure, and what it shows in words."""
    norms = [one for one in trainings if len(one.norms) > 1]
    figure, axes = page(212, *([84] if norms else []), left=34)
    ax = axes[0]
    said = []
    for one in trainings:
        _line(ax, one.losses, looks[one.model].colour)
        if one.validation:
            steps, losses = zip(*one.validation, strict=True)
            ax.plot(
                steps, losses, color=looks[one.model].colour, lw=1.8, ls=(0, (4, 2)),
                marker="o" if len(steps) == 1 else "",
            )  # fmt: skip
        said += [_words(one.model, one.losses)]
        said += [_words(f"{one.model}, validation", one.validation)] if one.validation else []
    every = [loss for one in trainings for _, loss in (*one.losses, *one.validation)]
    ax.set_ylim(0, 1.06 * max(*every, 1e-9))
    bold = "; bold: mean" if any(len(one.losses) >= SMOOTH for one in trainings) else ""
    dashed = "; dashed: validation" if any(one.validation for one in trainings) else ""
    frame(ax, f"training loss by step{bold}{dashed}", rules="y")
    for one in norms:
        steps, values = zip(*one.norms, strict=True)
        axes[1].plot(steps, values, color=looks[one.model].colour, lw=1.2)
    if norms:
        axes[1].set_ylim(0, 1.06 * max(value for one in norms for _, value in one.norms) or 1)
        axes[1].set_xlim(ax.get_xlim())
        frame(axes[1], "gradient norm by step", rules="y")
        axes[1].locator_params(axis="y", nbins=3)
    legend(figure, {one.model: looks[one.model] for one in trainings})
    return figure, said


def _line(ax: Any, curve: Curve, colour: str) -> None:
    steps, losses = np.array(curve).T
    many = len(steps) >= SMOOTH
    ax.plot(
        steps, losses, color=colour, lw=1 if many else 1.8, alpha=0.45 if many else 1,
        marker="o" if len(steps) == 1 else "",
    )  # fmt: skip
    if many:
        span = 2 * (len(steps) // 24) + 1
        mean = np.convolve(losses, np.ones(span) / span, mode="valid")
        ax.plot(steps[span // 2 : len(steps) - span // 2], mean, color=colour, lw=2.2)


def _words(name: str, curve: Curve) -> str:
    (first, start), (last, end) = curve[0], curve[-1]
    return (
        f"{name}: {number(start, 3)} at step {number(first, 0)}, "
        f"{number(end, 3)} at step {number(last, 0)}."
    )
