"""The same questions asked in several ways, side by side: what the protocol does to a score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ...harness.folder.samples import identified
from ...harness.folder.store import RunFolder
from ...harness.statistics import stats
from ...harness.statistics.pairs import ACCURACY, Pairs
from ..formatting import NOTHING, Estimate, percent
from .scores import Task

PROTOCOLS = (
    "One model, the same questions, another way of asking. Differences are those to the first "
    "column, paired by question; a question that was asked under several option orders counts "
    "with the mean over them. What differs here is the protocol, not what the model knows."
)
SHARED = 0.5
"""Share of the first task's questions that another must ask too, to stand beside it."""
QUESTION = ("question", "target")
"""What a question is known by."""

Scores = dict[tuple[str, str], "pd.Series[float]"]
"""By task and model, the mean score of each question."""


@dataclass(frozen=True)
class Cell:
    """One model under one protocol, and what it is more than under the first one."""

    score: Estimate = NOTHING
    change: Estimate = NOTHING

    @property
    def shown(self) -> str:
        return self.score.shown

    @property
    def interval(self) -> str:
        return self.score.interval

    @property
    def difference(self) -> str:
        return self.change.shown

    @property
    def difference_interval(self) -> str:
        return self.change.interval


@dataclass(frozen=True)
class Column:
    """One way of asking."""

    task: str
    protocol: str
    chance: float | None

    @property
    def chance_shown(self) -> str:
        return percent(self.chance)


@dataclass(frozen=True)
class Protocols:
    """One data set; a row is a model and its cells, in the order of the columns."""

    data: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def protocols(samples: pd.DataFrame, tasks: Sequence[Task]) -> tuple[Protocols, ...]:
    """A table for each data set that several tasks ask by different protocols.

    Tasks belong together when they name the same data and ask the same questions: a question is
    known by its words and its right answer, as the document around it differs with the protocol.
    """
    return tuple(
        _table(scores, kept)
        for members in _sharing_data(tasks)
        for scores, kept in _alike(samples, members)
    )


def read_protocols(
    run: RunFolder, samples: pd.DataFrame, tasks: Sequence[Task]
) -> tuple[Protocols, ...]:
    """:func:`protocols` of samples without texts.

    Questions are told apart by hashes of their texts, read of the few tasks that share data.
    """
    names = [task.name for members in _sharing_data(tasks) for task in members]
    if not names:
        return ()
    return protocols(identified(run, samples[samples["task"].isin(names)], QUESTION), tasks)


def _sharing_data(tasks: Sequence[Task]) -> list[list[Task]]:
    """The tasks that name the same data, where several do."""
    known: dict[str, list[Task]] = {}
    for task in tasks:
        if task.source and task.metric == ACCURACY and task.scores:
            known.setdefault(task.source, []).append(task)
    return [members for members in known.values() if len(members) > 1]


def _alike(samples: pd.DataFrame, tasks: Sequence[Task]) -> list[tuple[Scores, list[Task]]]:
    """Those of *tasks* that ask the same questions by several protocols, with their scores."""
    stated = samples["question"].notna() & (samples["question"] != "")
    asked_here = samples["task"].isin([task.name for task in tasks]) & stated
    rows = samples.loc[asked_here, ["task", "model", "score", *QUESTION]]
    for name in QUESTION:
        rows[name] = pd.factorize(rows[name])[0]  # numbers group much faster than texts
    means = rows.groupby(["task", "model", *QUESTION])["score"].mean().reset_index(list(QUESTION))
    scores: Scores = {
        (str(task), str(model)): part.set_index(list(QUESTION))["score"]
        for (task, model), part in means.groupby(level=[0, 1])
    }
    asked: dict[str, set[Any]] = {task.name: set() for task in tasks}
    for (name, _), series in scores.items():
        asked[name] |= set(series.index)
    sets: list[list[Task]] = []
    for task in tasks:
        for members in sets:
            first = asked[members[0].name]
            if len(asked[task.name] & first) >= SHARED * len(first):
                members.append(task)
                break
        else:
            sets += [[task]] if asked[task.name] else []
    several = [members for members in sets if len({task.protocol for task in members}) > 1]
    return [(scores, members) for members in several]


def _table(scores: Scores, tasks: Sequence[Task]) -> Protocols:
    models = dict.fromkeys(score.model for task in tasks for score in task.scores)
    return Protocols(
        data=tasks[0].source,
        columns=tuple(Column(t.name, t.protocol, t.chance) for t in tasks),
        rows=tuple(
            (model, tuple(_cell(scores, tasks[0], task, model) for task in tasks))
            for model in models
        ),
    )


def _cell(scores: Scores, first: Task, task: Task, model: str) -> Cell:
    score = next((score for score in task.scores if score.model == model), None)
    if score is None:
        return Cell()
    sides = [scores.get((one.name, model)) for one in (first, task)]
    shown = Estimate(score.value, score.low, score.high, score.scale)
    if task is first or sides[0] is None or sides[1] is None:
        return Cell(shown)
    pairs = pd.concat(sides, axis=1, join="inner", keys=["score_a", "score_b"]).reset_index()
    both = Pairs.read(pairs.assign(weight=1.0, cluster=pairs.index, metric=ACCURACY))
    low, high = both.bounds((1 - stats.CONFIDENCE) / 2)
    return Cell(shown, Estimate(both.difference, low, high, score.scale, signed=True))
