"""What a training log says has gone wrong. Pure functions over its lines.

A line is what transformers logs: ``step``, ``loss`` and ``grad_norm`` (training), or ``step`` and
``eval_loss`` (validation). Some alarms stop the run, because nothing after them is worth its time;
the others are kept with the adapter and shown in the report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
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


Log = Sequence[dict[str, Any]]


def raised(log: Log) -> list[Alarm]:
    """All that is wrong in *log*, each kind once, in the order in which it was seen."""
    train = [line for line in log if "loss" in line]
    checks = (
        _not_finite(train),
        _no_gradient(train),
        _flat(train),
        _memorised(log),
        _turned(log),
    )
    return sorted((alarm for alarm in checks if alarm), key=lambda alarm: alarm.step)


def _not_finite(train: Log) -> Alarm | None:
    for line in train:
        for key, name in (("loss", "loss"), ("grad_norm", "gradient norm")):
            value = line.get(key)
            if value is not None and not math.isfinite(float(value)):
                return Alarm(
                    "not_finite",
                    int(line["step"]),
                    True,
                    f"{name} is {value}; lower the recipe's learning_rate or check the rows "
                    "around this step",
                )
    return None


def _no_gradient(train: Log) -> Alarm | None:
    if len(train) < 2 or any(line.get("grad_norm") != 0 for line in train[:2]):
        return None
    return Alarm(
        "no_gradient",
        int(train[1]["step"]),
        True,
        "no gradient reaches the adapter, so nothing is trained; check that its target_modules "
        "are on the way to the loss and that completions are not empty",
    )


def _flat(train: Log) -> Alarm | None:
    if len(train) < FLAT_LINES:
        return None
    third = len(train) // 3
    ends = train[:third], train[-third:]
    first, last = (mean(float(line["loss"]) for line in part) for part in ends)
    if not (math.isfinite(first) and last > first * (1 - FLAT)):
        return None
    return Alarm(
        "flat",
        int(train[-1]["step"]),
        False,
        f"the loss has not fallen ({first:.3f} over the first third of the run, {last:.3f} over "
        "the last); the learning rate may be too low or too high",
    )


def _memorised(log: Log) -> Alarm | None:
    held = [(int(line["step"]), float(line["eval_loss"])) for line in log if "eval_loss" in line]
    for line in log:
        loss, step = float(line.get("loss", math.inf)), int(line["step"])
        if not 0 <= loss < MEMORISED:
            continue
        fell = f"training loss fell to {loss:.3f} nats a token"
        beside = next((other for at, other in held if at >= step), None)
        if beside is not None and beside >= LEARNED:
            known = (
                f"{fell} and that of validation rows is {beside:.3f}: the rows are known by heart"
            )
            return Alarm("memorised", step, False, known)
        if not held:
            perhaps = f"{fell}: the rows may be known by heart, which validation_rows would tell"
            return Alarm("memorised", step, False, perhaps)
    return None


def _turned(log: Log) -> Alarm | None:
    """Validation loss up while training loss falls (Prechelt 1998, "Early Stopping, but When?")."""
    held = [line for line in log if "eval_loss" in line]
    train = {int(line["step"]): float(line["loss"]) for line in log if "loss" in line}
    lowest = 0
    for place, line in enumerate(held):
        if line["eval_loss"] < held[lowest]["eval_loss"]:
            lowest = place
        best = held[lowest]
        risen = line["eval_loss"] > best["eval_loss"] * (1 + TURNED)
        at, then = int(line["step"]), int(best["step"])
        falling = train.get(at, math.inf) < train.get(then, math.inf)
        if place - lowest >= PATIENCE and risen and falling:
            return Alarm(
                "turned",
                at,
                False,
                f"validation loss turned up after step {then} ({best['eval_loss']:.3f} to "
                f"{line['eval_loss']:.3f}) while training loss kept falling: stop there",
            )
    return None
