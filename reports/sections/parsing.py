"""Of the answers that were generated: how many could not be read, why, and how many were cut.

From the samples table alone; tasks whose options were scored generate nothing and have no row.
What each problem means stands in docs/reference/answers.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import pandas as pd

from ...tasks.reading import Problem
from ..formatting import percent
from ..text import one_line

PARSING = (
    "An answer that could not be read counts as wrong and stays in the denominator, so a model "
    "cannot gain by saying nothing. Truncated answers stopped at the token limit, whether they "
    "were read or not."
)
PROBLEMS: tuple[str, ...] = get_args(Problem)


@dataclass(frozen=True)
class Parsing:
    """The answers that one model generated on one task.

    Attributes:
        n: How many there are; each option order of a question counts.
        problems: Share of the answers by why they were not read, in the order of PROBLEMS; only
            those that occurred.
        truncated: Share that stopped at the token limit.
    """

    task: str
    model: str
    n: int
    problems: dict[str, float]
    truncated: float

    @property
    def unparsed(self) -> float:
        return sum(self.problems.values())

    @property
    def line(self) -> str:
        """One line for the terminal; empty where every answer was read and none was cut."""
        named = [f"{wording(name)} {percent(share)}" for name, share in self.problems.items()]
        parts = [f"not read {percent(self.unparsed)} ({', '.join(named)})"] if named else []
        parts += [f"truncated {percent(self.truncated)}"] if self.truncated else []
        return "; ".join(parts)

    def cells(self, problems: tuple[str, ...]) -> tuple[str, ...]:
        """Unparsed in all, then by each of *problems*, then truncated."""
        shares = (self.unparsed, *(self.problems.get(name, 0.0) for name in problems))
        return tuple(map(percent, (*shares, self.truncated)))


def parsing(samples: pd.DataFrame) -> tuple[Parsing, ...]:
    """The rates of every task and model in *samples* for which text was generated."""
    generated = samples[samples["output"].notna()]
    return tuple(
        Parsing(
            task=one_line(str(task)),
            model=one_line(str(model)),
            n=len(table),
            problems={
                name: float(share)
                for name in PROBLEMS
                if (share := (table["problem"] == name).mean()) > 0
            },
            truncated=float(table["truncated"].mean()),
        )
        for (task, model), table in generated.groupby(["task", "model"], sort=False)
    )


def occurring(found: tuple[Parsing, ...]) -> tuple[str, ...]:
    """The problems that occur anywhere in *found*: the columns of its table."""
    return tuple(name for name in PROBLEMS if any(name in one.problems for one in found))


def wording(problem: str) -> str:
    return problem.replace("_", " ")
