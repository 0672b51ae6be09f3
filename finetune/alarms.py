"""What a training log says has gone wrong. Pure functions over its lines.

A line is what transformers logs: ``step``, ``loss`` and ``grad_norm`` (training), or ``step`` and
``eval_loss`` (validation). Some alarms stop the run, because nothing after them is worth its time;
the others are kept with the adapter and shown in the report.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

PATIENCE = 3
"""Validation lines above the lowest before it counts as having turned: one or two may be noise."""

TURNED = 0.01
"""By how much of itself the validation loss must have risen."""

MEMORISED = 0.05
"""Nats a token. Text of this entropy is not learned but known by heart: English prose stays above
0.5 even for the largest models."""

LEARNED = 2 * MEMORISED
"""Where loss on rows kept out falls so low too, the text is predictable and was learned: answers of
one word, or of a small invented world."""

FLAT = 0.005
"""A loss that has fallen by less than this share of itself has not moved."""

FLAT_LINES = 6


@dataclass(frozen=True)
class Alarm:
    """Something wrong with a run; ``kind`` is not_finite, no_gradient, flat, memorised, turned."""

    kind: str
    step: int
    stop: bool
    sentence: str


Line = dict[str, Any]


def raised(log: Iterable[Line]) -> list[Alarm]:
    """All that is wrong in *log*, each kind once, in the order in which it was seen."""
    watch = Watch()
    for line in log:
        watch.hear(line)
    return watch.raised()


class Watch:
    """The alarms of a log that is still being written; a line costs the same however many were.

    Steps never fall, and the training line of a step comes before its validation line: so
    transformers writes them.
    """

    def __init__(self) -> None:
        self._listeners = (_NotFinite(), _NoGradient(), _Flat(), _Memorised(), _Turned())

    def hear(self, line: Line) -> None:
        """Take the next line of the log."""
        for listener in self._listeners:
            listener.hear(line)

    def raised(self) -> list[Alarm]:
        """What is wrong in the lines so far, each kind once, in the order of its step."""
        found = (listener.alarm for listener in self._listeners)
        return sorted((alarm for alarm in found if alarm), key=lambda alarm: alarm.step)


class _NotFinite:
    alarm: Alarm | None = None

    def hear(self, line: Line) -> None:
        if self.alarm or "loss" not in line:
            return
        for key, name in (("loss", "loss"), ("grad_norm", "gradient norm")):
            value = line.get(key)
            if value is not None and not math.isfinite(float(value)):
                self.alarm = Alarm(
                    "not_finite",
                    int(line["step"]),
                    True,
                    f"{name} is {value}; lower the recipe's learning_rate or check the rows "
                    "around this step",
                )
                return


class _NoGradient:
    alarm: Alarm | None = None

    def __init__(self) -> None:
        self._norms: list[Any] = []

    def hear(self, line: Line) -> None:
        if "loss" not in line or len(self._norms) == 2:
            return
        self._norms.append(line.get("grad_norm"))
        if self._norms == [0, 0]:
            self.alarm = Alarm(
                "no_gradient",
                int(line["step"]),
                True,
                "no gradient reaches the adapter, so nothing is trained; check that its "
                "target_modules are on the way to the loss and that completions are not empty",
            )


class _Mean:
    """The mean of a window of losses, exact, as what leaves it is taken off again."""

    def __init__(self) -> None:
        self._total = Fraction()
        self._odd: Counter[str] = Counter()  # NaN and the infinities, which no sum gives back
        self._count = 0

    def add(self, value: float, times: int = 1) -> None:
        self._count += times
        if math.isfinite(value):
            self._total += times * Fraction(value)
        else:
            self._odd[str(value)] += times

    @property
    def value(self) -> float:
        odd = [float(name) for name, times in self._odd.items() if times]
        return sum(odd) if odd else float(self._total / self._count)


class _Flat:
    """The last third of the losses against the first; the run may still come out of it."""

    alarm: Alarm | None = None

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._first, self._last = _Mean(), _Mean()

    def hear(self, line: Line) -> None:
        if "loss" not in line:
            return
        third = len(self._losses) // 3
        self._losses.append(float(line["loss"]))
        self._last.add(self._losses[-1])
        if len(self._losses) // 3 > third:
            self._first.add(self._losses[third])
        else:
            self._last.add(self._losses[-third - 1], -1)
        self.alarm = self._judge(int(line["step"]))

    def _judge(self, step: int) -> Alarm | None:
        if len(self._losses) < FLAT_LINES:
            return None
        first, last = self._first.value, self._last.value
        if not (math.isfinite(first) and last > first * (1 - FLAT)):
            return None
        return Alarm(
            "flat",
            step,
            False,
            f"the loss has not fallen ({first:.3f} over the first third of the run, {last:.3f} "
            "over the last); the learning rate may be too low or too high",
        )


class _Memorised:
    """A training loss so low as only known text has, beside the validation loss that follows it."""

    alarm: Alarm | None = None

    def __init__(self) -> None:
        self._held: tuple[int, float] | None = None
        self._low: list[tuple[int, float]] = []  # of lines that no validation has followed

    def hear(self, line: Line) -> None:
        if self._held and self.alarm:
            return
        if "eval_loss" in line:
            self._held, self.alarm = (int(line["step"]), float(line["eval_loss"])), None
            self._compare()
        loss, step = float(line.get("loss", math.inf)), int(line["step"])
        if 0 <= loss < MEMORISED:
            self._low.append((step, loss))
            if self._held is None:
                self.alarm = self.alarm or self._perhaps(*self._low[0])
            else:
                self._compare()

    def _compare(self) -> None:
        """Look at the low losses up to the last validation."""
        at, beside = self._held or (-1, math.nan)
        while self._low and self._low[0][0] <= at:
            step, loss = self._low.pop(0)
            if beside >= LEARNED:
                known = (
                    f"training loss fell to {loss:.3f} nats a token and that of validation rows "
                    f"is {beside:.3f}: the rows are known by heart"
                )
                self.alarm = self.alarm or Alarm("memorised", step, False, known)

    @staticmethod
    def _perhaps(step: int, loss: float) -> Alarm:
        return Alarm(
            "memorised",
            step,
            False,
            f"training loss fell to {loss:.3f} nats a token: the rows may be known by heart, which "
            "validation_rows would tell",
        )


class _Turned:
    """Validation loss up while training loss falls (Prechelt 1998, "Early Stopping, but When?")."""

    alarm: Alarm | None = None

    def __init__(self) -> None:
        self._train: dict[int, float] = {}
        self._best: tuple[int, float] | None = None
        self._since = 0

    def hear(self, line: Line) -> None:
        if "loss" in line:
            self._train[int(line["step"])] = float(line["loss"])
        if self.alarm or "eval_loss" not in line:
            return
        at, held = int(line["step"]), float(line["eval_loss"])
        if self._best is None or held < self._best[1]:
            self._best, self._since = (at, held), 0
            return
        self._since += 1
        then, lowest = self._best
        falling = self._train.get(at, math.inf) < self._train.get(then, math.inf)
        if self._since >= PATIENCE and held > lowest * (1 + TURNED) and falling:
            self.alarm = Alarm(
                "turned",
                at,
                False,
                f"validation loss turned up after step {then} ({lowest:.3f} to {held:.3f}) while "
                "training loss kept falling: stop there",
            )
