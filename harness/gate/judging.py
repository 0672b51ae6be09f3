"""The regression gate: has the candidate become worse than its baseline, by more than is tolerated?

Three answers, since "not shown to be worse" is no evidence of being as good:

* *pass*: the one-sided lower bound of the difference is above −tolerance;
* *regression*: there is evidence that the difference is below −tolerance;
* *inconclusive*: neither; the verdict says how many questions would decide it.

docs/reference/gate.md says which error each answer can make, and how often.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ...errors import InputError
from .. import stats
from ..comparison import ACCURACY, names_of, only_tasks
from ..join import join
from ..predictions.load import Side
from .measured import judge_measured
from .result import EXIT_CODES as EXIT_CODES
from .result import GateResult as GateResult
from .result import Inconclusive as Inconclusive
from .result import Status as Status
from .result import Verdict as Verdict
from .rules import GateRules
from .scores import Claim, difference, floor, judge_claims, rates
from .sides import Gated


def judge(
    candidate: Gated,
    baseline: Gated | None,
    rules: GateRules,
    tasks: Sequence[str] | None = None,
) -> GateResult:
    """All verdicts of *rules* on the candidate.

    Args:
        candidate: What is to be let through.
        baseline: What it is held to; None only where no rule compares.
        rules: See rules.py.
        tasks: The tasks that count; all of both sides when None.

    Raises:
        InputError: A rule fits no task or is about something unknown, a task or all questions of
            the baseline are missing, or the sides cannot be joined.
    """
    samples = only_tasks(candidate.side, tasks)
    names = [str(name) for name in samples["task"].unique()]
    rules.check([str(name) for name in candidate.side.samples["task"].unique()])
    pairs, warnings = _pairs(candidate.side, baseline, tasks, samples)
    claims: list[Claim] = []
    rated: list[Verdict] = []
    for task in names:
        rule, own = rules.of(task), samples[samples["task"] == task]
        if rule.tolerance is not None and task in pairs:
            claims.append(difference(task, pairs[task], rule.tolerance, rules.confidence))
        if rule.floor is not None:
            claims.append(floor(task, own, rule.floor, rules.confidence))
        rated += rates(task, own, rule)
    claims += _pooled(rules, pairs)
    measured = judge_measured(rules, candidate.measured, baseline.measured if baseline else None)
    verdicts = (*judge_claims(claims, rules), *rated, *measured)
    if not verdicts:
        raise InputError("gate: no rule says anything about these tasks; give it a tolerance")
    called = (
        names_of(baseline.side, candidate.side)[::-1] if baseline else (candidate.side.name, "")
    )
    return GateResult(verdicts, *called, tuple(warnings))


def _pairs(
    candidate: Side, baseline: Gated | None, tasks: Sequence[str] | None, samples: pd.DataFrame
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The pairs of each task, and what a reader must know of them."""
    if baseline is None:
        return {}, list(candidate.named_notes)
    before = only_tasks(baseline.side, tasks)
    names = names_of(baseline.side, candidate)
    gone = [str(task) for task in before["task"].unique() if task not in set(samples["task"])]
    if gone:
        raise InputError(
            f"gate: {names[1]} has no answers to {', '.join(gone)}, which {names[0]} has; score "
            "them too, or name the tasks that count with --tasks"
        )
    joined = join(before, samples, names)
    pairs = {str(task): rows for task, rows in joined.pairs.groupby("task", sort=False)}
    for task in before["task"].unique():
        if task not in pairs:
            raise InputError(
                f"gate: task {task}: {names[1]} and {names[0]} have no question in common; "
                "score both on the same data"
            )
    return pairs, [*candidate.named_notes, *baseline.side.named_notes, *joined.warnings]


def _pooled(rules: GateRules, pairs: dict[str, pd.DataFrame]) -> list[Claim]:
    """The claims of the pooled rules, over the accuracies among their tasks."""
    found = []
    for rule in map(rules.filled, rules.pooled):
        tables = [
            rows
            for task, rows in pairs.items()
            if rule.fits(task) and rows["metric"].iloc[0] == ACCURACY
        ]
        if tables and rule.tolerance is not None:
            label = f"{', '.join(rule.tasks)} (pooled)"
            pooled = stats.pool(tables)
            found.append(difference(label, pooled, rule.tolerance, rules.confidence))
    return found
