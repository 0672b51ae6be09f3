"""The regression gate: has the candidate become worse than its baseline, by more than is tolerated?

Three answers, since "not shown to be worse" is no evidence of being as good:

* *pass*: the one-sided lower bound of the difference is above −tolerance;
* *regression*: there is evidence that the difference is below −tolerance;
* *inconclusive*: neither; the verdict says how many questions would decide it.

docs/reference/gate.md says which error each answer can make, and how often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from ...errors import InputError
from ..comparing.comparison import ACCURACY, names_of, notes_of, only_tasks
from ..comparing.join import Joined, join
from ..predictions.load import Side
from ..statistics.pooling import pool
from .measured import judge_measured
from .result import GateResult, Verdict
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
        InputError: A rule fits no task or is about something unknown, the candidate lacks a task
            or more of the baseline's answers than its rule allows, or the two cannot be joined.
    """
    samples = only_tasks(candidate.side, tasks)
    names = [str(name) for name in samples["task"].unique()]
    rules.check([str(name) for name in candidate.side.samples["task"].unique()])
    pairs: dict[str, pd.DataFrame] = {}
    warnings = [f"{candidate.side.name}: {note}" for note in candidate.side.notes]
    if baseline:
        joined = _joined(candidate.side, baseline.side, rules, tasks)
        pairs = {str(task): rows for task, rows in joined.pairs.groupby("task", sort=False)}
        warnings = [*notes_of(baseline.side, candidate.side), *joined.warnings]
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


def _joined(
    candidate: Side, baseline: Side, rules: GateRules, tasks: Sequence[str] | None
) -> Joined:
    """The two sides on the tasks that count; the candidate answers what the baseline does."""
    before, samples = only_tasks(baseline, tasks), only_tasks(candidate, tasks)
    names = names_of(baseline, candidate)
    gone = [str(task) for task in before["task"].unique() if task not in set(samples["task"])]
    if gone:
        raise InputError(
            f"gate: {names[1]} has no answers to {', '.join(gone)}, which {names[0]} has; score "
            "them too, or name the tasks that count with --tasks"
        )
    joined = join(before, samples, names)
    asked, absent = (table["task"].value_counts() for table in (before, joined.only_a))
    for task in map(str, absent.index):
        share, allowed = absent[task] / asked[task], rules.of(task).missing
        if share == 1:
            raise InputError(
                f"gate: task {task}: {names[1]} and {names[0]} have no question in common; "
                "score both on the same data"
            )
        if share > allowed:
            raise InputError(
                f"gate: task {task}: {names[1]} lacks {absent[task]} of the {asked[task]} answers "
                f"of {names[0]}, and those may be the hard ones; score the same questions, or "
                f"allow it by a rule with 'missing: {math.ceil(100 * share) / 100:g}'"
            )
    return joined


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
            pooled = pool(tables)
            found.append(difference(label, pooled, rule.tolerance, rules.confidence))
    return found
