"""A model over several runs: its scores in the order in which they were made, each run gated.

Every run is held to the one before it by the gate's rules (docs/reference/gate.md), question by
question; where two runs did not ask the same, the gate's refusal stands in place of its verdict.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ...errors import InputError
from ...harness.folder.store import RunFolder
from ...harness.gate.judging import judge
from ...harness.gate.result import GateResult, Status, Verdict
from ...harness.gate.sides import candidate_and_baseline, rules_of
from ..formatting import count
from ..redaction import Sharing
from ..report import Report
from ..sections.scores import Score, Task
from ..text import clean

HISTORY = (
    "Each run is held to the run before it, question by question: pass means that a loss beyond "
    "the tolerance is ruled out, regression that there is one, inconclusive that the questions are "
    "too few to tell. Lines show 95 % intervals; that two of them overlap is no test."
)
NO_TEXTS = Sharing("none")
"""A history shows no single question, so none is read."""


@dataclass(frozen=True)
class Run:
    """One run of the history."""

    label: str
    path: str
    report: Report


@dataclass(frozen=True)
class Point:
    """One model on one task in one run; None where it was not scored there."""

    score: Score | None

    @property
    def shown(self) -> str:
        return self.score.shown if self.score else ""

    @property
    def interval(self) -> str:
        return self.score.interval if self.score else ""


@dataclass(frozen=True)
class Line:
    """One model on one task over all runs."""

    task: Task
    model: str
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Gate:
    """What the gate says of one model of a run, held to the run before it.

    Attributes:
        status: Empty where the gate refused.
        said: Verdicts that are not ``pass``, or why there is none.
    """

    model: str
    run: str
    before: str
    status: Status | None
    said: tuple[str, ...]
    passed: int

    @property
    def sentence(self) -> str:
        """The status, and how many verdicts it rests on."""
        found = f"{self.model} in {self.run} against {self.before}: "
        if not self.status:
            return f"{found}not judged."
        rest = f", {count(len(self.said))} did not" if self.said else ""
        return f"{found}{self.status}; {count(self.passed, 'verdict')} passed{rest}."


@dataclass(frozen=True)
class History:
    """Runs in the order in which they were made, and the models that several of them have."""

    runs: tuple[Run, ...]
    models: tuple[str, ...]
    tuned: tuple[str, ...]
    lines: tuple[Line, ...]
    gates: tuple[Gate, ...]
    method: str = HISTORY

    @property
    def title(self) -> str:
        return f"{' and '.join(self.models)} over {len(self.runs)} runs"

    @property
    def headlines(self) -> tuple[str, ...]:
        """What the gate says of the last run of each model that has one before it."""
        return tuple({gate.model: gate.sentence for gate in self.gates}.values())

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Every task of the history, as the last run that has it describes it."""
        return tuple({line.task.name: line.task for line in self.lines}.values())


def read_history(folders: Sequence[RunFolder]) -> History:
    """The history of the tuned models that at least two of *folders* hold; of all models otherwise.

    Raises:
        InputError: A folder is given twice, or no model was scored in two of them.
    """
    if len({folder.path.resolve() for folder in folders}) < len(folders):
        raise InputError("report: a run folder is named twice")
    read = [(folder, Report.read(folder, NO_TEXTS)) for folder in folders]
    read.sort(key=lambda one: (one[1].created, str(one[0].path)))
    labels = _labels([folder for folder, _ in read])
    runs = tuple(
        Run(label, str(folder.path), report)
        for label, (folder, report) in zip(labels, read, strict=True)
    )
    reports = [report for _, report in read]
    models = _shared([report.tuned for report in reports])
    tuned = tuple(models)
    models = models or _shared([[one.name for one in report.models] for report in reports])
    if not models:
        raise InputError(
            "report: no model is in two of these runs; a history needs the same model name in each"
        )
    lines = tuple(line for model in models for line in _lines(model, reports))
    gates = tuple(
        _gate(model, before, run)
        for model in models
        for before, run in _steps(model, runs)
    )  # fmt: skip
    return History(runs, tuple(models), tuned, lines, gates)


def _labels(folders: Sequence[RunFolder]) -> list[str]:
    """Their names, with as many of the folders above as set them apart."""
    parts = [folder.path.resolve().parts for folder in folders]
    depth = next(
        (n for n in range(1, max(map(len, parts))) if len({p[-n:] for p in parts}) == len(parts)), 1
    )
    return [clean("/".join(part[-depth:])) for part in parts]


def _shared(names: Sequence[Sequence[str]]) -> list[str]:
    """The names that stand in more than one list."""
    every = [name for some in names for name in dict.fromkeys(some)]
    return [name for name in dict.fromkeys(every) if every.count(name) > 1]


def _lines(model: str, reports: Sequence[Report]) -> list[Line]:
    tasks = {task.name: task for report in reports for task in report.tasks}
    found = []
    for name, task in tasks.items():
        scores = [
            next(
                (
                    score
                    for other in report.tasks
                    if other.name == name and other.metric == task.metric
                    for score in other.scores
                    if score.model == model and score.value is not None
                ),
                None,
            )
            for report in reports
        ]
        if any(scores):
            found.append(Line(task, model, tuple(map(Point, scores))))
    return found


def _steps(model: str, runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    having = [run for run in runs if any(one.name == model for one in run.report.models)]
    return list(pairwise(having))


def _gate(model: str, before: Run, run: Run) -> Gate:
    try:
        result = _judged(model, before.path, run.path)
    except InputError as refusal:
        return Gate(model, run.label, before.label, None, (clean(str(refusal)),), 0)
    failed = [one for one in result.verdicts if one.status != "pass"]
    return Gate(
        model, run.label, before.label, result.status,
        tuple(clean(one.sentence) for one in _worst_first(failed)),
        len(result.verdicts) - len(failed),
    )  # fmt: skip


def _judged(model: str, before: str, run: str) -> GateResult:
    rules = rules_of(run, None)
    candidate, baseline = candidate_and_baseline(
        f"{run}:{model}", f"{before}:{model}", None, rules.compares
    )
    return judge(candidate, baseline, rules)


def _worst_first(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return sorted(verdicts, key=lambda one: one.status != "regression")
