"""Overlap between training and test questions, as text: of ``medbench overlap`` and of a run.

A run's ``overlap.json`` is a list of checks, each as tasks/overlap/result.py writes it, with who
was compared with whom. A check's effect is what the flagged questions do to the difference between
tuned and base: it is computed here, from the samples.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from ...harness.comparing.join import join
from ...harness.folder.samples import matching, numbers
from ...harness.folder.store import RunFolder
from ...harness.statistics import stats
from .. import formatting
from ..formatting import Estimate
from ..text import clean, clean_tree, one_line

SHOWN = 10
"""Pairs of one check that a report shows; all are in overlap.json."""


@dataclass(frozen=True)
class Pair:
    """A training and a test question, or questions of two tests, to be read side by side."""

    measure: str
    score: str
    train: str
    eval: str
    train_text: str
    eval_text: str


@dataclass(frozen=True)
class Effect:
    """tuned − base on one task, over all questions and without the flagged ones."""

    tuned: str
    task: str
    flagged: int
    all: Estimate
    rest: Estimate

    @property
    def whole(self) -> str:
        return _words(self.all)

    @property
    def without(self) -> str:
        return _words(self.rest) or "no question left"


@dataclass(frozen=True)
class Check:
    """One comparison of two lists of questions."""

    title: str
    sides: tuple[str, str]
    statement: str
    policy: str
    pairs: tuple[Pair, ...]
    more: int
    effects: tuple[Effect, ...]

    @property
    def summary(self) -> str:
        """One line for a terminal."""
        found = formatting.count(len(self.pairs) + self.more, "pair")
        return f"Overlap: {self.title}: {found} to read in the report."

    @property
    def more_shown(self) -> str:
        """What of the pairs is not shown; empty when nothing is left out."""
        return f"{formatting.count(self.more, 'more pair')} in overlap.json." if self.more else ""


def read_overlap(run: RunFolder, samples: pd.DataFrame | None = None) -> tuple[Check, ...]:
    """The checks of *run*, empty when it made none; *samples* are its own where they were read."""
    if not (run / "overlap.json").is_file():
        return ()
    checks = json.loads((run / "overlap.json").read_text("utf-8"))["checks"]
    has_samples = (run / "samples.parquet").is_file()
    if samples is None and has_samples and any(one["pairs"] for one in checks):
        samples = numbers(run)
    models = (run.manifest().get("suite") or {}).get("models") or {}
    found = []
    for one in checks:
        effects: list[Effect] = []
        tuned = one["model"]
        if samples is not None and tuned in models and one["eval_rows"]:
            flagged = samples.assign(flagged=matching(run, "question", one["eval_questions"]))
            for task in one["eval_tasks"]:
                effects += _effect(flagged, (models[tuned].get("base"), tuned), task)
        found.append(_check(one, effects))
    return tuple(found)


def _check(one: dict[str, Any], effects: list[Effect]) -> Check:
    tuned = one["model"]
    shown = clean_tree(one)
    names = ", ".join(shown["eval_tasks"])
    return Check(
        title=f"Tuning rows of {shown['model']} against {names}"
        if tuned
        else f"{', '.join(shown['train_tasks'])} against {names}",
        sides=("Tuning row", "Test question")
        if tuned
        else (shown["train_tasks"][0], shown["eval_tasks"][0]),
        statement=shown["statement"],
        policy=_policy(shown) if tuned else "",
        pairs=tuple(map(_pair, shown["pairs"][:SHOWN])),
        more=max(one["n_pairs"] - SHOWN, 0),
        effects=tuple(effects),
    )


def _policy(one: dict[str, Any]) -> str:
    if one["policy"] == "drop":
        return (
            f"{formatting.count(len(one['train_rows']), 'such row')} left out of tuning, as the "
            "recipe says (overlap: drop)."
        )
    if one["policy"] == "report" and one["pairs"]:
        return (
            "The rows were tuned on, as the recipe says (overlap: report); read the scores with "
            "that in mind."
        )
    return ""


def _effect(
    samples: pd.DataFrame, models: tuple[str | None, str], task: str
) -> list[Effect]:  # fmt: skip
    """What the questions that are ``flagged`` do to the difference."""
    sides = [
        samples[(samples["model"] == name) & (samples["task"] == task)] for name in models if name
    ]
    if len(sides) < 2 or any(side.empty for side in sides):
        return []
    pairs = join(sides[0], sides[1], (str(models[0]), models[1])).pairs
    asked = sides[0].loc[sides[0]["flagged"], "doc_hash"]
    seen = pairs["doc_hash"].isin(asked)
    scale = formatting.scale_of(str(sides[0]["metric"].iloc[0]))

    def difference(rows: pd.DataFrame) -> Estimate:
        if rows.empty:
            return Estimate()
        found = stats.compare(rows)
        return Estimate(found.difference, found.low, found.high, scale, signed=True)

    count = int(pairs.loc[seen, "cluster"].nunique())
    if not count:
        return []
    return [Effect(models[1], task, count, difference(pairs), difference(pairs[~seen]))]


def _words(one: Estimate) -> str:
    return f"{one.shown} {one.scale.step} ({one.interval})" if one.shown else ""


def _pair(pair: dict[str, Any]) -> Pair:
    return Pair(
        measure=pair["measure"],
        score=formatting.number(pair["score"], 2),
        train=str(pair["train"]),
        eval=str(pair["eval"]),
        train_text=one_line(pair["train_text"], 600),
        eval_text=one_line(pair["eval_text"], 600),
    )


def print_overlap(found: dict[str, Any], console: Console) -> None:
    """The statement and every pair, for a terminal."""
    console.print(Text(found["statement"]))
    for pair in map(_pair, clean_tree(found["pairs"])):
        head = f"\ntrain {pair.train}, eval {pair.eval}"
        console.print(Text.assemble((head, "bold"), (f"  {pair.measure} {pair.score}", "dim")))
        for name, text in (("train", pair.train_text), ("eval", pair.eval_text)):
            console.print(Text.assemble((f"  {name:<5} ", "dim"), text))


def markdown(found: dict[str, Any]) -> str:
    """The statement and every pair, as Markdown."""
    from ..markdown import escape

    lines = [f"{escape(clean(found['statement']))}", ""]
    if found["pairs"]:
        lines += [
            "| train | eval | measure | score | training text | test text |",
            "| --: | --: | :-- | --: | :-- | :-- |",
        ]
    for pair in map(_pair, clean_tree(found["pairs"])):
        cells = [pair.train, pair.eval, pair.measure, pair.score, pair.train_text, pair.eval_text]
        lines.append(f"| {' | '.join(escape(cell) for cell in cells)} |")
    return "\n".join(lines) + "\n"
