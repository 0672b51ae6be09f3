"""Why Tango's interval, and why a correction of one question for the gate: exact sums, no draws.

    python benchmarks/intervals.py            # tables
    python benchmarks/intervals.py --json     # the same as JSON on stdout

Coverage of four 95 % intervals of a difference of paired shares over questions, correlations and
accuracies; and the largest rate of false alarms of the gate's score test under three corrections,
for models that are worse by exactly the margin.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from coverage import CORRELATIONS, SIZES, Chosen, Ints, Z, exact  # type: ignore[import-not-found]
from scipy import stats as reference

from medbench.harness.statistics.intervals import tango, tango_z

TRUTHS = ((0.5, 0.0), (0.5, 0.03), (0.6, 0.02), (0.75, 0.02), (0.3, 0.05), (0.9, 0.0))
"""(accuracy of a, difference)."""
SHARES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7)
"""Of questions on which the two differ."""
Array = npt.NDArray[np.float64]
Ends = tuple[Array, Array]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of tables")
    report = {"intervals": intervals(), "corrections": corrections()}
    if parser.parse_args().json:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
        return
    for rows in report.values():
        sys.stdout.write(pd.DataFrame(rows).round(4).to_string(index=False) + "\n\n")


def intervals() -> list[dict[str, Any]]:
    """Lowest and highest coverage of each interval, and its share of cells within 94 to 96 %."""
    rows = []
    for interval in (t, score, bonett_price, agresti_min):
        found = []
        for n in SIZES:
            for accuracy, difference in TRUTHS:
                for correlation in CORRELATIONS:
                    other = accuracy + difference
                    root = math.sqrt(accuracy * (1 - accuracy) * other * (1 - other))
                    both = accuracy * other + correlation * root
                    chances = (accuracy - both, other - both)
                    if min(chances) < 0:
                        continue

                    def holds(only_a: Ints, only_b: Ints, n: int = n, d: float = difference,
                              ends: Any = interval) -> Chosen:  # fmt: skip
                        low, high = ends(only_a, only_b, n)
                        return (low <= d) & (d <= high)

                    found.append(exact(holds, n, chances))
        within = [0.94 <= share <= 0.96 for share in found]
        rows.append({
            "interval": interval.__name__, "cells": len(found), "lowest": min(found),
            "highest": max(found), "within": sum(within),
        })  # fmt: skip
    return rows


def corrections() -> list[dict[str, Any]]:
    """The largest rate of false alarms by level, margin and correction, over sizes and shares."""
    rows = []
    for level in (0.05, 0.01):
        for margin in (0.0, 0.01, 0.03):
            for correction in (0.0, 0.5, 1.0):
                found = []
                for n in (20, 50, *SIZES):
                    for share in SHARES:
                        if share < margin:
                            continue

                        def alarm(
                            only_a: Ints, only_b: Ints,
                            put: tuple[int, float, float, float] = (n, -margin, correction, level),
                        ) -> Chosen:  # fmt: skip
                            _, up = tango_z(only_a, only_b, *put[:3])
                            return np.asarray(reference.norm.cdf(up) < put[3])

                        chances = ((share + margin) / 2, (share - margin) / 2)
                        found.append(exact(alarm, n, chances))
                rows.append({
                    "level": level, "margin": margin, "correction": correction, "worst": max(found),
                })  # fmt: skip
    return rows


def t(only_a: Ints, only_b: Ints, n: int) -> Ends:
    """Difference ± t · stderr."""
    difference = (only_b - only_a) / n
    variance = ((only_a + only_b) / n - difference**2) / (n - 1)
    reach = float(reference.t.isf(0.025, n - 1)) * np.sqrt(variance)
    return difference - reach, difference + reach


def score(only_a: Ints, only_b: Ints, n: int) -> Ends:
    """Tango 1998."""
    low, high = tango(only_a, only_b, n, Z)
    return low, high


def bonett_price(only_a: Ints, only_b: Ints, n: int) -> Ends:
    """Bonett and Price 2012."""
    a, b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    reach = Z * np.sqrt((a + b - (b - a) ** 2) / (n + 2))
    return b - a - reach, b - a + reach


def agresti_min(only_a: Ints, only_b: Ints, n: int) -> Ends:
    """Agresti and Min 2005: half a question to each cell."""
    a, b, whole = only_a + 0.5, only_b + 0.5, n + 2
    difference = (b - a) / whole
    reach = Z * np.sqrt(a + b - (b - a) ** 2 / whole) / whole
    return difference - reach, difference + reach


if __name__ == "__main__":
    main()
