"""What the gate holds a candidate to: the section ``gate`` of a suite, or a file gate.yaml.

::

    tolerance: 1.0            # of every task that no rule below names
    confidence: 0.95          # of every bound and verdict
    power: 0.8                # for the number of questions that an inconclusive verdict asks for
    rules:
      - tasks: ["mmlu_*"]     # names or patterns; the first rule that fits a task is its rule
        tolerance: 2.5
        floor: 0.55
        unparsed: 0.02
        truncated: 0.05
        missing: 0.01
      - tasks: ["*"]
        pooled: true          # besides: all questions of these tasks in one comparison
        tolerance: 1.0
    parity: {greedy: 0.99}
    latency: {ratio: 1.1}
    memory: {ratio: 1.1}
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from ...errors import InputError
from ..config import Section, explain, read_yaml

Share = Annotated[float, Field(ge=0, le=1)]
Level = Annotated[float, Field(gt=0.5, lt=1)]
Tolerance = Annotated[float, Field(ge=0, le=100)]
"""Percentage points of accuracy; for other metrics percent of the baseline's value."""
Figure = Literal[
    "ttft_ms_p50", "ttft_ms_p90", "ttft_ms_p99", "tpot_ms_p50", "tpot_ms_p90", "tpot_ms_p99"
]
"""Figures of a series of requests, as results.json names them."""


class TaskRule(Section):
    """What is asked of some tasks; a key that is absent asks nothing, but see ``tolerance``.

    Attributes:
        tasks: Names or glob patterns.
        pooled: One comparison over the questions of all these tasks, besides the tasks' own rules.
        tolerance: How much worse than the baseline is tolerated; absent: the gate's own.
        floor: Smallest accuracy, judged with its uncertainty.
        unparsed, truncated: Largest share of the answers, as observed.
        missing: Largest share of the baseline's answers that the candidate may lack. Above it the
            gate refuses to judge: what is missing may be what the candidate could not answer.
    """

    tasks: Annotated[list[str], Field(min_length=1)]
    pooled: bool = False
    tolerance: Tolerance | None = None
    floor: Share | None = None
    unparsed: Share | None = None
    truncated: Share | None = None
    missing: Share = 0.0

    @model_validator(mode="after")
    def _pooled_compares(self) -> TaskRule:
        per_task = (self.floor, self.unparsed, self.truncated, self.missing or None)
        if self.pooled and any(one is not None for one in per_task):
            raise ValueError("a pooled rule has a 'tolerance' only; floors and rates are per task")
        return self

    def fits(self, task: str) -> bool:
        """Whether one of the patterns is, or matches, the task's name."""
        return any(fnmatchcase(task, pattern) for pattern in self.tasks)


class ParityRule(Section):
    """How far ONNX Runtime may be from torch, as each export measured it.

    Attributes:
        max_abs: Largest difference of a logit.
        max_rel: The same, relative to the largest logit.
        greedy: Smallest share of greedy tokens that are the same.
    """

    max_abs: Annotated[float, Field(ge=0)] | None = None
    max_rel: Annotated[float, Field(ge=0)] | None = None
    greedy: Share | None = None

    @model_validator(mode="after")
    def _something(self) -> ParityRule:
        if (self.max_abs, self.max_rel, self.greedy) == (None, None, None):
            raise ValueError("expected at least one of 'max_abs', 'max_rel', 'greedy'")
        return self


class LatencyRule(Section):
    """How much slower than the baseline, measured on the same hardware, a series may be."""

    ratio: Annotated[float, Field(gt=0)]
    figures: Annotated[list[Figure], Field(min_length=1)] = ["ttft_ms_p50", "tpot_ms_p50"]


class MemoryRule(Section):
    """How much peak memory is allowed: of the baseline's, in bytes, or both."""

    ratio: Annotated[float, Field(gt=0)] | None = None
    gigabytes: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _something(self) -> MemoryRule:
        if self.ratio is None and self.gigabytes is None:
            raise ValueError("expected 'ratio' (to the baseline), 'gigabytes', or both")
        return self


class GateRules(Section):
    """All rules of a gate.

    Attributes:
        tolerance: Of every task without a rule that says otherwise; None compares only those that
            a rule gives a tolerance.
        confidence: Of every bound; 1 − confidence is the level of the gate as a whole.
        power: Chance of a decision for which the number of questions needed is computed.
    """

    tolerance: Tolerance | None = 1.0
    confidence: Level = 0.95
    power: Level = 0.8
    rules: list[TaskRule] = []
    parity: ParityRule | None = None
    latency: LatencyRule | None = None
    memory: MemoryRule | None = None

    @property
    def pooled(self) -> list[TaskRule]:
        """The rules over several tasks at once."""
        return [rule for rule in self.rules if rule.pooled]

    @property
    def compares(self) -> bool:
        """Whether any rule needs a baseline."""
        tolerances = [self.tolerance, *(rule.tolerance for rule in self.rules)]
        ratio = self.latency is not None or (self.memory is not None and self.memory.ratio)
        return bool(ratio) or any(one is not None for one in tolerances)

    def overridden(
        self, tolerance: float | None = None, confidence: float | None = None
    ) -> GateRules:
        """The rules with these in place of the gate's own; None leaves what there is.

        Raises:
            InputError: The confidence is no such number.
        """
        given = {"tolerance": tolerance, "confidence": confidence}
        changed = {key: value for key, value in given.items() if value is not None}
        try:
            return GateRules.model_validate(self.model_dump() | changed)
        except ValidationError as error:
            raise InputError(explain("gate", error, GateRules)) from None

    def of(self, task: str) -> TaskRule:
        """The rule of one task, its tolerance filled in: the first that fits, or the default."""
        fitting = (rule for rule in self.rules if not rule.pooled and rule.fits(task))
        return self.filled(next(fitting, TaskRule(tasks=[task])))

    def filled(self, rule: TaskRule) -> TaskRule:
        """*rule* with the gate's tolerance where it has none."""
        if rule.tolerance is not None:
            return rule
        return rule.model_copy(update={"tolerance": self.tolerance})

    def check(self, tasks: Sequence[str]) -> None:
        """Every rule is of use for these tasks.

        Raises:
            InputError: A rule matches no task, or stands behind others that leave it none.
        """
        shown = ", ".join(tasks) or "none"
        taken: set[str] = set()
        for place, rule in enumerate(self.rules):
            fitting = {task for task in tasks if rule.fits(task)}
            where = f"gate: rules.{place}: {', '.join(rule.tasks)}"
            if not fitting:
                raise InputError(f"{where} matches no task; the tasks are: {shown}")
            if not rule.pooled:
                if fitting <= taken:
                    raise InputError(
                        f"{where}: rules above it have all of its tasks; the first that fits "
                        "counts, so put the narrower rule first"
                    )
                taken |= fitting


def load_rules(path: Path) -> GateRules:
    """The rules in a YAML file.

    Raises:
        InputError: No such file, broken YAML, an unknown key, or a value that does not fit.
    """
    if not path.is_file():
        raise InputError(f"--rules {path}: no such file; expected YAML with the keys of a gate")
    try:
        return GateRules.model_validate(read_yaml(path))
    except ValidationError as error:
        raise InputError(explain(path, error, GateRules)) from None
