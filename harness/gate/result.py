"""What a gate says: a verdict for each rule on each task, and one for all of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["pass", "regression", "inconclusive"]
Inconclusive = Literal["inconclusive", "pass", "fail"]

EXIT_CODES: dict[Status, int] = {"pass": 0, "regression": 1, "inconclusive": 3}


@dataclass(frozen=True)
class Verdict:
    """One rule on one task (or on what the rule is about).

    Attributes:
        rule: ``difference``, ``floor``, ``unparsed``, ``truncated``, ``parity``, ``latency`` or
            ``memory``.
        task: The task; of a pooled rule its patterns; of the last three the series or export.
        status: What the rule says.
        observed: Of ``difference`` candidate − baseline, signed so that negative is worse; of the
            others the value itself. Accuracies and rates are fractions of 1, parity is in logits or
            a fraction, latency a ratio, memory a ratio or gigabytes.
        limit: What *observed* is held against: −tolerance, the floor, the largest rate or ratio.
        low, high: One-sided confidence bounds of *observed*; None where it is no estimate.
        n: Questions (or requests, or tokens) behind it; None where there is no such number.
        needed: Questions that would decide an inconclusive verdict; None where it is decided, or
            where no number would.
        sentence: The verdict in plain words, with its evidence.
    """

    rule: str
    task: str
    status: Status
    observed: float
    limit: float
    low: float | None
    high: float | None
    n: int | None
    needed: int | None
    sentence: str


@dataclass(frozen=True)
class GateResult:
    """All verdicts of one gate; ``warnings`` are what a reader of them should know."""

    verdicts: tuple[Verdict, ...]
    candidate: str = "candidate"
    baseline: str = "baseline"
    warnings: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """Regression if any rule says so, else inconclusive if any is, else pass."""
        found = {one.status for one in self.verdicts}
        if "regression" in found:
            return "regression"
        return "inconclusive" if "inconclusive" in found else "pass"

    def exit_code(self, inconclusive: Inconclusive = "inconclusive") -> int:
        """0 pass, 1 regression, 3 inconclusive, which *inconclusive* turns into 0 or 1."""
        if self.status == "inconclusive" and inconclusive != "inconclusive":
            return 0 if inconclusive == "pass" else 1
        return EXIT_CODES[self.status]
