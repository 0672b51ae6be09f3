"""Which single questions a report shows, and their texts.

The choice is made by numbers and hashes alone; then the texts of what was chosen are read, in one
pass through the file, and no others.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ..harness.folder.samples import whole
from ..harness.folder.store import RunFolder
from .questions import Questions, choose, read_questions
from .redaction import Rules, veil
from .samples import Picked, SideBySide, pick, side_by_side
from .sections.scores import Task


@dataclass(frozen=True)
class Chosen:
    """Questions side by side, and those of the page's browser."""

    samples: tuple[SideBySide, ...]
    questions: Questions | None


def read_chosen(
    run: RunFolder, samples: pd.DataFrame, rules: Rules, tasks: tuple[Task, ...], limit: int
) -> Chosen:
    """What a report shows of single questions.

    Args:
        samples: Of *run*, without texts (harness/folder/samples.py).
        rules: What may be shown.
        limit: Questions of each kind that stand side by side; where 0, nothing is shown at all.
    """
    if limit == 0 or rules.sharing.level == "none":
        return Chosen((), None)
    hidden = veil(samples, rules)
    picked = _picked(hidden.over(samples), tasks, limit)
    browsed, total = choose(samples)
    places = set(browsed.index).union(*(one.places for one in picked))
    rows = hidden.over(whole(run, samples.loc[sorted(places)]))
    questions = read_questions(rows.loc[browsed.index], rules.couples, total)
    return Chosen(tuple(side_by_side(one, rows) for one in picked), questions)


def _picked(table: pd.DataFrame, tasks: tuple[Task, ...], limit: int) -> list[Picked]:
    found = []
    for task in tasks:
        if task.metric != "acc":
            continue
        pairs: list[tuple[str, ...]] = [
            (score.comparison.base, score.comparison.tuned)
            for score in task.scores
            if score.comparison
        ]
        for models in pairs or [(score.model,) for score in task.scores]:
            found.append(pick(table, task.name, models, limit))
    return [one for one in found if one]
