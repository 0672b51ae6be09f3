"""Report: all that is said about one run, in the order in which it is said.

Read from the run folder alone: no model, no network. The renderers (terminal, Markdown, HTML) lay
this object out and decide nothing about its content.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from ..harness.folder.samples import FILE, numbers
from ..harness.folder.store import RunFolder
from ..harness.naming import MARK
from .chosen import read_chosen
from .evidence import (
    Export,
    Fact,
    Stage,
    environment,
    read_exports,
    read_stages,
)
from .formatting import duration
from .questions import Questions
from .redaction import LOCAL, Sharing, redact_overlap, rules_for
from .samples import SideBySide
from .sections.calibration import CLUSTERED
from .sections.front import Front, front
from .sections.judgements import Judged, read_judged
from .sections.latency import Latency, detail, read_latency, read_skipped
from .sections.memory import Forecast, read_memory
from .sections.models import Model, read_models, title
from .sections.overlap import Check, read_overlap
from .sections.parsing import Parsing, parsing
from .sections.protocols import Protocols, read_protocols
from .sections.scores import Data, Group, Task, data_of, read_groups, read_tasks
from .sections.subjects import Breakdown, breakdowns
from .sections.training import Training, alarms, read_trainings
from .text import clean_tree
from .verdicts import Comparison, headline

DISCLAIMER = (
    "This is an evaluation of language models on test questions. It is not a medical device, and "
    "no score in it says that a model is fit for use with patients."
)
METHOD = (
    "Differences are paired: tuned minus base over the questions both answered, of accuracies in "
    "percentage points. Where answers are right or wrong, the 95 % interval is Tango's score "
    "interval and p McNemar's exact test; otherwise they come from the t distribution and a "
    "sign-flip permutation test. Better and worse are said only where the interval leaves out 0 "
    "and p, adjusted for the number of tasks (Holm), is below 0.05. Detectable is the true "
    "difference that so many questions show in four comparisons of five. Intervals of accuracies "
    "are Wilson's."
)
EXPORTED = (
    "A model named MODEL@onnx-FORMAT is MODEL as exported: the same questions, answered by the "
    "graph in ONNX Runtime; its difference is the export minus the torch model."
)
POOLED = (
    "A group pools the questions of its tasks, each counting once; its p is adjusted over the "
    "groups, not over the tasks."
)


@dataclass(frozen=True)
class Report:
    """Everything that a renderer shows of one run."""

    title: str
    suite: str
    description: str
    created: str
    took: str
    notes: tuple[str, ...]
    problems: tuple[str, ...]
    headlines: tuple[str, ...]
    models: tuple[Model, ...]
    tasks: tuple[Task, ...]
    parsing: tuple[Parsing, ...]
    trainings: tuple[Training, ...]
    latency: tuple[Latency, ...]
    exports: tuple[Export, ...]
    samples: tuple[SideBySide, ...]
    environment: tuple[Fact, ...]
    stages: tuple[Stage, ...]
    command: str
    resolved_suite: str
    disclaimer: str = DISCLAIMER
    overlap: tuple[Check, ...] = ()
    memory: tuple[Forecast, ...] = ()
    groups: tuple[Group, ...] = ()
    protocols: tuple[Protocols, ...] = ()
    subjects: tuple[Breakdown, ...] = ()
    judged: tuple[Judged, ...] = ()
    not_timed: tuple[str, ...] = ()
    questions: Questions | None = None
    left_out: tuple[str, ...] = ()

    @property
    def tuned(self) -> list[str]:
        """Names of the tuned models, in order."""
        return [model.name for model in self.models if model.base]

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """All of them, one tuned model after the other."""
        found = _comparisons(self.tasks)
        names = list(dict.fromkeys(one.tuned for one in found))
        return tuple(sorted(found, key=lambda one: names.index(one.tuned)))

    @property
    def pooled(self) -> tuple[Comparison, ...]:
        """The comparisons over groups of tasks."""
        return tuple(s.comparison for group in self.groups for s in group.scores if s.comparison)

    @property
    def data(self) -> tuple[Data, ...]:
        """Where the questions come from."""
        return data_of(self.tasks)

    @property
    def calibrated(self) -> tuple[Task, ...]:
        """The tasks with a calibration."""
        return tuple(t for t in self.tasks if any(score.calibration for score in t.scores))

    @property
    def reordered(self) -> tuple[Task, ...]:
        """The tasks that were asked under several orders of their options."""
        return tuple(t for t in self.tasks if any(score.orders for score in t.scores))

    @property
    def beyond_scores(self) -> str:
        """Heading of what is known of calibration and option order; empty where nothing is."""
        known = {"calibration": self.calibrated, "option order": self.reordered}
        return " and ".join(name for name, tasks in known.items() if tasks).capitalize()

    @property
    def method(self) -> str:
        """How differences and intervals were computed."""
        parts = [METHOD, CLUSTERED if self.reordered else "", POOLED if self.groups else ""]
        parts.append(EXPORTED if any(MARK in model.name for model in self.models) else "")
        return " ".join(filter(None, parts))

    @property
    def latency_detail(self) -> str:
        """What floors and intervals of latency are; empty where the run has none."""
        return detail(self.latency)

    @property
    def front(self) -> Front | None:
        """Accuracy against latency of all that was both scored and timed."""
        return front(self.latency, self.tasks)

    @property
    def speedups(self) -> tuple[str, ...]:
        """ONNX Runtime against torch in plain words, and which engines were left out."""
        found = [row.against(other) for row in self.latency for other in self.latency]
        return (*filter(None, found), *self.not_timed)

    @classmethod
    def read(cls, run: RunFolder, sharing: Sharing = LOCAL) -> Report:
        """The report of *run*; what the run did not produce is left out, and said so.

        Args:
            run: The run folder.
            sharing: How much of its questions and answers is shown.

        Raises:
            InputError: The folder has no manifest, or a file in it cannot be read.
        """
        manifest = clean_tree(run.manifest())
        results = _results(run)
        suite = manifest.get("suite") or {}
        stages = read_stages(manifest)
        models = read_models(manifest, suite)
        tasks = read_tasks(results)
        samples = numbers(run) if (run / FILE).is_file() else None
        rules = rules_for(run, sharing)
        limit = int((suite.get("report") or {}).get("samples", 8))
        chosen = None if samples is None else read_chosen(run, samples, rules, tasks, limit)
        # The run and its results may both carry a note; each is shown once.
        notes = tuple(dict.fromkeys([*manifest.get("notes", []), *results.get("notes", [])]))
        return cls(
            title=(suite.get("report") or {}).get("title") or title(models),
            suite=str(suite.get("name") or results.get("suite") or ""),
            description=str(suite.get("description") or "").strip(),
            created=_date(manifest.get("created")),
            took=duration(_seconds(manifest, stages)),
            notes=notes,
            problems=_problems(manifest, stages),
            headlines=_headlines(models, tasks),
            models=models,
            tasks=tasks,
            parsing=() if samples is None else parsing(samples),
            trainings=read_trainings(run, manifest),
            memory=read_memory(run, manifest),
            latency=read_latency(run, results),
            not_timed=read_skipped(manifest),
            exports=read_exports(manifest),
            groups=read_groups(results),
            protocols=() if samples is None else read_protocols(run, samples, tasks),
            subjects=() if samples is None else breakdowns(samples, tasks),
            judged=read_judged(results, tasks),
            samples=chosen.samples if chosen else (),
            questions=chosen.questions if chosen else None,
            left_out=rules.notes,
            environment=environment(manifest),
            overlap=redact_overlap(read_overlap(run, samples), rules),
            stages=stages,
            command=str(manifest.get("command") or ""),
            resolved_suite=yaml.safe_dump(suite, sort_keys=False, allow_unicode=True).strip(),
        )


def _problems(manifest: dict[str, Any], stages: tuple[Stage, ...]) -> tuple[str, ...]:
    """Why the run is not whole, and what went wrong in a tuning that was finished."""
    found = [stage.problem for stage in stages if stage.problem]
    for name, stage in manifest.get("stages", {}).items():
        model = name.removeprefix("tune/")
        if model != name:
            found += [f"Tuning {model}: {one}." for one in alarms(stage.get("detail") or {})]
    return tuple(found)


def _results(run: RunFolder) -> dict[str, Any]:
    """A run that failed early has derived nothing yet; that is no error here."""
    if not (run.path / "results.json").is_file():
        return {}
    found: dict[str, Any] = clean_tree(run.results())
    return found


def _comparisons(tasks: tuple[Task, ...]) -> list[Comparison]:
    return [score.comparison for task in tasks for score in task.scores if score.comparison]


def _headlines(models: tuple[Model, ...], tasks: tuple[Task, ...]) -> tuple[str, ...]:
    compared = _comparisons(tasks)
    names = dict.fromkeys(one.tuned for one in compared)
    if names:
        return tuple(
            headline(name, [one for one in compared if one.tuned == name]) for name in names
        )
    if not tasks:
        return ("No task was scored, so there is no result yet.",)
    if len(models) == 1:
        return (f"Only {models[0].name} was scored, so there is nothing to compare it with.",)
    return ("No tuned model was scored beside its base, so nothing is compared.",)


def _date(created: Any) -> str:
    """``2026-03-04T05:06:07+00:00`` as ``2026-03-04 05:06 UTC``."""
    text = str(created or "")
    return f"{text[:10]} {text[11:16]} UTC" if len(text) >= 16 else text


def _seconds(manifest: dict[str, Any], stages: tuple[Stage, ...]) -> float | None:
    total = sum(stage.seconds or 0 for stage in stages)
    return manifest.get("seconds") or total or None
