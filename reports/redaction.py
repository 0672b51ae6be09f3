"""What of a run's questions and answers a report may show, and to whom.

A report that stays where its run lies shows everything. What is passed on shows less: the level
says how much at most, and the licence of a task's data whether its text may be passed on at all.
Texts are taken out of the samples before anything is built from them, so no renderer has to know.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd
import yaml

from ..harness.folder.store import RunFolder
from ..harness.naming import exported
from .sections.overlap import Check
from .text import clean

Level = Literal["none", "hashes", "flips", "all"]

TEXTS = ("prompt", "question", "target", "prediction", "output")
LISTS = ("options", "option_scores")
_OPEN = re.compile(
    r"(apache|mit|bsd|isc|cc0|cc[ -]by([ -]sa)?|odc-by|pddl|public domain|unlicense)"
    r"([ -]?\d[\w.]*)*(?=$|[ ,;(])(?!.*(gated|restrict|agreement|credential|commercial|request))",
    re.IGNORECASE,
)
_NAMED_SOURCE = re.compile(r"\w+")
"""Of a recipe's data: one of medbench's own names, and no file or ``hub:`` data set."""


@dataclass(frozen=True)
class Sharing:
    """How much of the questions and answers is shown.

    Attributes:
        level: ``none``: nothing of single questions. ``hashes``: of each question its hashes, who
            got it right and how surely. ``flips``: besides, the text of the questions that one
            model of a pair answers right and the other wrong. ``all``: every text.
        published: It may leave this machine: text goes out only where the licence of the task's
            data is known to allow it, and what a model says that was tuned on rows of a file or an
            unknown data set does not go out at all.
        allowed: Tasks whose text may go out whatever their licence.
    """

    level: Level = "all"
    published: bool = False
    allowed: frozenset[str] = frozenset()


LOCAL = Sharing()
PUBLIC = Sharing("hashes", published=True)


@dataclass(frozen=True)
class Rules:
    """A sharing applied to one run: which tasks' texts and which models' words stay behind."""

    sharing: Sharing
    closed_tasks: Mapping[str, str]
    """Their licence by name."""
    closed_models: Collection[str]
    couples: Collection[tuple[str, str]]

    @property
    def whole(self) -> bool:
        """Whether nothing is left out."""
        return self.sharing.level == "all" and not self.closed_tasks and not self.closed_models

    @property
    def notes(self) -> tuple[str, ...]:
        """What is left out and why, a sentence each."""
        notes = [_NOTES[self.sharing.level]]
        if self.sharing.level in ("flips", "all"):
            notes += [
                f"{task}: hashes only, since its licence ({licence or 'not stated'}) is not known "
                "to let its text be passed on."
                for task, licence in self.closed_tasks.items()
            ]
            notes += [
                f"{model}: its own words are left out, since it was tuned on rows whose licence is "
                "not known."
                for model in self.closed_models
            ]
        return tuple(filter(None, notes))


_NOTES: dict[Level, str] = {
    "none": "Single questions and answers are left out of this report.",
    "hashes": "The texts of questions and answers are left out of this report: each question is "
    "known by its hash.",
    "flips": "The texts of questions and answers are left out of this report, but for questions "
    "that one model of a pair answers right and the other wrong.",
    "all": "",
}  # fmt: skip


def is_open(licence: str) -> bool:
    """Whether a licence is known to let the text be passed on, by anyone to anyone."""
    return _OPEN.match(licence.strip()) is not None


def rules_for(run: RunFolder, sharing: Sharing) -> Rules:
    """*sharing* as it applies to *run*."""
    manifest = run.manifest()
    results = run.results() if (run / "results.json").is_file() else {}
    tasks: dict[str, str] = {
        name: str(task.get("licence") or "") for name, task in results.get("tasks", {}).items()
    }
    couples = {(one["base"], one["tuned"]) for one in results.get("comparisons", [])}
    models = manifest.get("models", [])
    couples |= {(found["of"], name) for name in models if (found := exported(name))}
    if not sharing.published:
        return Rules(sharing, {}, (), sorted(couples))
    return Rules(
        sharing,
        {
            clean(task): clean(licence)
            for task, licence in tasks.items()
            if task not in sharing.allowed and not is_open(licence)
        },
        tuple(clean(name) for name in models if not _tuned_on_known_rows(run, name)),
        sorted(couples),
    )


@dataclass(frozen=True)
class Veil:
    """What of each row of a samples table is not to be shown.

    Attributes:
        hidden: Every text.
        said: What the model said.
    """

    hidden: pd.Series[bool]
    said: pd.Series[bool]

    def over(self, rows: pd.DataFrame) -> pd.DataFrame:
        """*rows* of the table without what is not to be shown."""
        hidden, said = self.hidden.loc[rows.index], self.said.loc[rows.index]
        if not (hidden.any() or said.any()):
            return rows
        table = rows.copy()
        _blank(table, hidden, TEXTS)
        _blank(table, said, ("prediction", "output"))
        for column in (name for name in LISTS if name in table):
            table[column] = [
                [] if hide else value for hide, value in zip(hidden, table[column], strict=True)
            ]
        return table


def redact(samples: pd.DataFrame, rules: Rules) -> pd.DataFrame:
    """The samples table with the texts taken out that are not to be shown; no rows at ``none``."""
    if rules.sharing.level == "none":
        return samples.iloc[:0]
    return veil(samples, rules).over(samples)


def veil(samples: pd.DataFrame, rules: Rules) -> Veil:
    """What of *samples* is not to be shown; which texts are there is enough to tell."""
    nothing = pd.Series(False, index=samples.index)
    if rules.whole:
        return Veil(nothing, nothing)
    hidden = samples["task"].isin(list(rules.closed_tasks))
    if rules.sharing.level == "hashes":
        hidden[:] = True
    elif rules.sharing.level == "flips":
        hidden |= ~_flipped(samples, rules.couples)
    said = ~hidden & samples["output"].notna() & samples["model"].isin(list(rules.closed_models))
    return Veil(hidden, said)


def redact_overlap(checks: Iterable[Check], rules: Rules) -> tuple[Check, ...]:
    """The checks without the texts of their pairs, unless everything is shown."""
    if rules.whole:
        return tuple(checks)
    return tuple(
        replace(
            check,
            pairs=tuple(replace(pair, train_text="", eval_text="") for pair in check.pairs),
        )
        for check in checks
    )


def _blank(table: pd.DataFrame, where: pd.Series[bool], columns: Iterable[str]) -> None:
    for column in (name for name in columns if name in table):
        table[column] = table[column].astype(object).mask(where, None)


def _flipped(samples: pd.DataFrame, couples: Collection[tuple[str, str]]) -> pd.Series[bool]:
    """Whether a row's question is answered right by one model of a pair and wrong by the other."""
    key = ["task", "doc_id", "order"]
    right = samples[samples["metric"] == "acc"]
    table = right.pivot_table(index=key, columns="model", values="score", aggfunc="first")
    found = pd.Series(False, index=table.index)
    for base, tuned in couples:
        if {base, tuned} <= set(table.columns):
            both = table[[base, tuned]].dropna()
            found |= (both[base] != both[tuned]).reindex(table.index, fill_value=False)
    rows = pd.MultiIndex.from_frame(samples[key])
    return pd.Series(found.reindex(rows, fill_value=False).to_numpy(), index=samples.index)


def _tuned_on_known_rows(run: RunFolder, model: str) -> bool:
    """True of a model that was not tuned in this run; an export is as its model."""
    path = run / f"adapters/{(exported(model) or {'of': model})['of']}/recipe.yaml"
    if not path.is_file():
        return True
    recipe: Any = yaml.safe_load(path.read_text("utf-8")) or {}
    source = str((recipe.get("data") or {}).get("source") or "")
    return _NAMED_SOURCE.fullmatch(source) is not None


def sharing(level: Level, licensed: str | None = None, *, published: bool = False) -> Sharing:
    """What the command line says: less than everything is meant for others, like all of a site.

    Args:
        licensed: Tasks whose text may go out whatever their licence, comma-separated.
        published: The pages are meant for others even where everything is shown.
    """
    names = frozenset(filter(None, (name.strip() for name in (licensed or "").split(","))))
    return Sharing(level, published or level != "all", names)
