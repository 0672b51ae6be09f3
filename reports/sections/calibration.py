"""What a score leaves out: is a model sure of the right answers, and does it keep them?

As results.json has it, with the way to show it; "keep" is across several orders of the options.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...harness.statistics.calibration import Bin
from ..formatting import DASH, number, percent

CALIBRATION = (
    "Lower is better for all three: ECE is the average gap between how sure a model is and how "
    "often it is right, Brier the squared error of its probabilities, AURC its mean error rate "
    "as it skips more and more of the questions it is least sure of."
)
ORDERS = (
    "A model that knows an answer keeps it wherever it stands. The worst order is picked "
    "afterwards, so by chance alone it lies a little below the mean. Two orders of one model lie "
    "further apart than its noise floor (in points) in one case of twenty: a smaller difference "
    "between runs that differ in the order may be the order's."
)
CLUSTERED = (
    "Where a question was asked under several option orders, its answers count as one: standard "
    "errors are clustered by question, the interval of a difference is from the t distribution, "
    "and the sign-flip test flips a question's answers together."
)


@dataclass(frozen=True)
class Calibration:
    """One model on one multiple-choice task; confidence is the probability of the option chosen."""

    ece: float | None
    brier: float | None
    aurc: float | None
    bins: tuple[Bin, ...]
    risk_coverage: tuple[tuple[float, float], ...]

    @property
    def confidence(self) -> float | None:
        """Mean over all answers."""
        return self._mean([one.confidence for one in self.bins])

    @property
    def accuracy(self) -> float | None:
        return self._mean([one.accuracy for one in self.bins])

    @property
    def cells(self) -> tuple[str, ...]:
        """Confidence, accuracy, ECE, Brier score and AURC."""
        shares = (percent(self.confidence), percent(self.accuracy))
        return (*shares, *(number(value, 3) for value in (self.ece, self.brier, self.aurc)))

    def _mean(self, values: Sequence[float]) -> float | None:
        n = sum(one.n for one in self.bins)
        total = sum(one.n * value for one, value in zip(self.bins, values, strict=True))
        return total / n if n else None


@dataclass(frozen=True)
class OrderEffect:
    """One model on one task that was asked under several orders of its options."""

    orders: int
    mean: float | None
    worst: float | None
    changed: float | None
    floor: float | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """Orders, mean and worst accuracy, share of questions whose answer changes, noise floor."""
        shares = map(percent, (self.mean, self.worst, self.changed))
        return (str(self.orders), *shares, self._floor or DASH)

    @property
    def line(self) -> str:
        floor = f", noise floor {self._floor} points" if self._floor else ""
        return (
            f"{self.orders} option orders: worst {percent(self.worst)}, "
            f"answers that change {percent(self.changed)}{floor}"
        )

    @property
    def _floor(self) -> str:
        """In points; empty where it is not known."""
        return "" if self.floor is None else number(100 * self.floor)


def read_calibration(score: dict[str, Any]) -> Calibration | None:
    """The calibration beside a score of results.json, where there is one."""
    found = score.get("calibration")
    if not found:
        return None
    return Calibration(
        **{key: found.get(key) for key in ("ece", "brier", "aurc")},
        bins=tuple(Bin(**one) for one in found.get("bins", [])),
        risk_coverage=tuple((share, risk) for share, risk in found.get("risk_coverage", [])),
    )


def read_orders(score: dict[str, Any]) -> OrderEffect | None:
    """The effect of option order beside a score of results.json, where there is one."""
    found = score.get("orders")
    if not found:
        return None
    floor = (score.get("noise") or {}).get("floor")
    mean, worst, changed = (found.get(key) for key in ("mean", "worst", "changed"))
    return OrderEffect(int(found["orders"]), mean, worst, changed, floor)


def even_guess(chance: float) -> Calibration:
    """What is expected of a model that finds every option equally likely, and says so."""
    return Calibration(
        ece=0.0,
        brier=1 - chance,
        aurc=1 - chance,
        bins=(Bin(0.0, 1.0, 1, chance, chance),),
        risk_coverage=(),
    )


def order_sentence(task: str, effects: Sequence[tuple[str, OrderEffect]]) -> str:
    """How often the answers of each model to *task* depend on the order, in plain words."""
    (model, first), *others = effects
    rest = "".join(f", {name} to {percent(effect.changed)}" for name, effect in others)
    return (
        f"{model} changes its answer to {percent(first.changed)} of the questions of {task} "
        f"when the options are shifted{rest}."
    )
