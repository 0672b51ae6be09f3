"""Numbers as a reader sees them. Pure functions; a missing number is an en dash.

Minus is U+2212, and a number and its unit are joined by a no-break space, so that no table or
sentence breaks between them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

DASH = "–"
MINUS = "−"
NBSP = "\u00a0"

Number = float | int | None


def missing(value: Number) -> bool:
    return value is None or not math.isfinite(value)


def number(value: Number, digits: int = 1, *, signed: bool = False) -> str:
    """``-0.04`` with one digit is ``0.0``: a rounded zero has no sign."""
    if value is None or not math.isfinite(value):
        return DASH
    rounded = round(float(value), digits) + 0.0
    text = f"{abs(rounded):,.{digits}f}"
    if rounded < 0:
        return MINUS + text
    return f"+{text}" if signed and rounded > 0 else text


def percent(share: Number, digits: int = 1) -> str:
    """A share of 1 as a percentage."""
    return DASH if missing(share) else f"{number(_times(share, 100), digits)}{NBSP}%"


def p_value(p: Number) -> str:
    """``< 0.001``, three decimals below 0.1, two above."""
    if p is None or not math.isfinite(p):
        return DASH
    if p < 0.001:
        return f"<{NBSP}0.001"
    return number(p, 3 if p < 0.1 else 2)


def milliseconds(value: Number) -> str:
    """About three significant digits, without the unit."""
    if value is None or not math.isfinite(value):
        return DASH
    return number(value, 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2)


def interval(low: Number, high: Number, digits: int = 1) -> str:
    """``low to high``; a dash when either end is missing."""
    if missing(low) or missing(high):
        return DASH
    return f"{number(low, digits)} to {number(high, digits)}"


def duration(seconds: Number) -> str:
    """``40 µs``, ``3.1 ms``, ``0.4 s``, ``36 s``, ``3 min 05 s``, ``1 h 02 min``."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if 0 < abs(seconds) < 0.0995:
        small, unit = (seconds * 1e6, "µs") if abs(seconds) < 0.995e-4 else (seconds * 1e3, "ms")
        return f"{number(small, 0 if abs(small) >= 9.95 else 1)}{NBSP}{unit}"
    if seconds < 9.95:
        return f"{number(seconds, 1)}{NBSP}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{NBSP}s"
    if whole < 3600:
        return f"{whole // 60}{NBSP}min {whole % 60:02d}{NBSP}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{NBSP}h {minutes % 60:02d}{NBSP}min"


def size(count: Number) -> str:
    """Bytes in decimal units."""
    if count is None or not math.isfinite(count):
        return DASH
    value, unit = float(count), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if abs(value) < 1000:
            break
        value, unit = value / 1000, larger
    return f"{number(value, 0 if unit == 'B' or value >= 100 else 1)}{NBSP}{unit}"


def small(value: Number) -> str:
    """A magnitude that may be tiny, e.g. a parity error: ``0.012``, ``3.1e−06``."""
    if value is None or not math.isfinite(value):
        return DASH
    if value == 0 or 0.001 <= abs(value) < 1000:
        return f"{value:.3g}".replace("-", MINUS)
    return f"{value:.1e}".replace("-", MINUS)


def count(value: Number, singular: str = "", plural: str = "") -> str:
    """``1 question``, ``1,273 questions``; the number alone without a noun."""
    text = number(value, 0)
    noun = singular if value == 1 else plural or f"{singular}s"
    return f"{text}{NBSP}{noun}" if singular else text


def _times(value: Number, factor: float) -> Number:
    return None if value is None else value * factor


@dataclass(frozen=True)
class Scale:
    """How the values of a metric are shown: accuracies in percent, the rest as they are."""

    factor: float
    digits: int
    unit: str
    """After a value; empty where the metric's name already says it."""
    step: str
    """What a difference counts."""

    def value(self, value: Number) -> str:
        text = number(_times(value, self.factor), self.digits)
        return text if missing(value) or not self.unit else f"{text}{NBSP}{self.unit}"

    def difference(self, value: Number, *, signed: bool = True) -> str:
        return number(_times(value, self.factor), self.digits, signed=signed)

    def interval(self, low: Number, high: Number) -> str:
        return interval(_times(low, self.factor), _times(high, self.factor), self.digits)


ACCURACY = Scale(100, 1, "%", "points")


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95 % interval, with the way to show them; empty where unknown.

    Attributes:
        signed: Whether it is a difference, shown without its unit.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    scale: Scale = ACCURACY
    signed: bool = False

    @property
    def shown(self) -> str:
        if missing(self.value):
            return ""
        show = self.scale.difference if self.signed else self.scale.value
        return show(self.value)

    @property
    def interval(self) -> str:
        return "" if missing(self.value) else self.scale.interval(self.low, self.high)


def scale_of(metric: str) -> Scale:
    """The scale of a metric named in results.json."""
    return ACCURACY if metric == "acc" else Scale(1, 3, "", metric.replace("_", " "))


NOTHING = Estimate()
