"""Scores by subject: where the data says what a question is about.

Every line is one more look at the same answers. None is a finding by itself, so intervals are
shown, and neither p values nor verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import pandas as pd

from ...harness.comparing.join import join
from ...harness.statistics import stats
from ...harness.statistics.pairs import Pairs
from ..formatting import NOTHING, Estimate, count
from ..text import clean, one_line
from .scores import Score, Task

SUBJECTS = (
    "These are looks at parts of one result, not findings: the intervals are not adjusted for "
    "the number of subjects, so that about one in twenty leaves out the truth by chance alone, "
    "and there are no verdicts. Subjects with few questions are put together as others."
)
LEAST = 20
"""Questions of a subject that has a line of its own."""
MOST = 14
"""Subjects with a line of their own."""
LONGEST = 48
"""Characters of a subject's name."""

_UNUSED = ("question", "options", "prediction", "output", "option_scores")
"""Most of a large table; cutting it up without them takes a third less time."""
Couple = tuple[str, str]
"""Base and tuned."""


@dataclass(frozen=True)
class Line:
    """One subject: *scores* of each model, *differences* of each tuned model from its base."""

    subject: str
    n: int
    scores: tuple[Estimate, ...]
    differences: tuple[Estimate, ...]


@dataclass(frozen=True)
class Breakdown:
    """One task by subject, the subjects with the most questions first, others last."""

    task: str
    metric: str
    step: str
    models: tuple[str, ...]
    couples: tuple[Couple, ...]
    lines: tuple[Line, ...]

    @property
    def looks(self) -> str:
        """How often one result is looked at."""
        return count(len(self.lines), "subject")


def breakdowns(samples: pd.DataFrame, tasks: Sequence[Task]) -> tuple[Breakdown, ...]:
    """Each task whose questions are of several subjects, by subject."""
    if "subject" not in samples or samples["subject"].isna().all():
        return ()
    slim = samples.drop(columns=[name for name in _UNUSED if name in samples])
    tables = dict(list(slim.groupby("task", sort=False)))
    found = [_breakdown(tables[task.name], task) for task in tasks if task.name in tables]
    return tuple(one for one in found if one)


def _breakdown(samples: pd.DataFrame, task: Task) -> Breakdown | None:
    if samples["subject"].nunique() < 2 or not task.scores:
        return None
    named = _named(samples)
    if named["line"].nunique() < 2:
        return None
    couples = tuple((s.comparison.base, s.comparison.tuned) for s in task.scores if s.comparison)
    by_model = {str(model): table for model, table in named.groupby("model", sort=False)}
    scores = {
        model: {str(line): _score(part, score) for line, part in by_model[model].groupby("line")}
        for score in task.scores
        if (model := score.model) in by_model
    }
    differences = {
        (base, tuned): _differences(by_model[base], by_model[tuned], task)
        for base, tuned in couples
        if base in by_model and tuned in by_model
    }
    return Breakdown(
        task=task.name,
        metric=task.metric_shown,
        step=task.scores[0].scale.step,
        models=tuple(scores),
        couples=tuple(differences),
        lines=tuple(
            Line(
                line,
                n,
                tuple(of_model.get(line, NOTHING) for of_model in scores.values()),
                tuple(of_pair.get(line, NOTHING) for of_pair in differences.values()),
            )
            for line, n in _sizes(named)
        ),
    )


def _named(samples: pd.DataFrame) -> pd.DataFrame:
    """*samples* with ``line``: the subject as shown, or what the small ones are put together as."""
    subject = samples["subject"].map(shown).astype(object)
    sizes = (
        samples.groupby(subject)["cluster"].nunique().sort_values(ascending=False, kind="stable")
    )
    large = sizes[sizes >= LEAST].index[:MOST]
    folded = len(sizes) - len(large)
    parts = [count(folded, "subject")] if folded else []
    parts += ["none stated"] if subject.isna().any() else []
    others = f"others ({', '.join(parts)})"
    return samples.assign(line=subject.where(subject.isin(large), others))


@lru_cache(4096)
def shown(subject: object) -> str | None:
    """A subject's name without unseen characters, cut short; None where it says nothing."""
    if not isinstance(subject, str) or not subject.strip():
        return None
    return one_line(clean(subject, 4 * LONGEST).replace("_", " "), LONGEST)


def _sizes(named: pd.DataFrame) -> list[tuple[str, int]]:
    """Lines and their number of questions, the largest first, others last."""
    sizes = named.groupby("line")["cluster"].nunique()
    rows = [(str(line), int(n)) for line, n in sizes.items()]
    return sorted(rows, key=lambda row: (row[0].startswith("others ("), -row[1], row[0]))


def _score(part: pd.DataFrame, score: Score) -> Estimate:
    found = stats.summarise(part)
    return Estimate(found.value, found.low, found.high, score.scale)


def _differences(base: pd.DataFrame, tuned: pd.DataFrame, task: Task) -> dict[str, Estimate]:
    """Tuned − base for each line, over the questions both answered."""
    scale = task.scores[0].scale
    lined = join(base.assign(subject=base["line"]), tuned.assign(subject=tuned["line"])).pairs
    found = {}
    for line, pairs in lined.groupby("subject"):
        both = Pairs.read(pairs)
        low, high = both.bounds((1 - stats.CONFIDENCE) / 2)
        found[str(line)] = Estimate(both.difference, low, high, scale, signed=True)
    return found
