"""Whether the statistics keep their word, by simulation and by exact sums.

    python benchmarks/coverage.py            # tables
    python benchmarks/coverage.py --json     # the same as JSON on stdout

Right and wrong answers of two models that are right with probability 0.5 and 0.5 + difference, with
a correlation of 0 to 0.9 between them: how often the 95 % interval holds the true difference, how
often the gate raises a false alarm at level 5 %, and how often a comparison shows the difference
that ``smallest_detectable`` names for 80 % power. ``--pairs`` tables are drawn for each; beside the
simulated share stands the exact one, a sum over all tables that have any probability. Then scores
that are not 0/1: four option orders of a question, grades between 0 and 1, and two tasks that ask
the same questions, pooled. Last, the time of the sign-flip test over 100,000 questions, five tasks
and 10,000 resamples.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from machine import processor  # type: ignore[import-not-found]
from scipy import stats as reference

from medbench.harness.statistics import power, resampling, stats
from medbench.harness.statistics.intervals import tango, tango_z
from medbench.harness.statistics.pooling import pool

SIZES = (100, 500, 1273)
CORRELATIONS = (0.0, 0.3, 0.5, 0.7, 0.9)
DIFFERENCES = (0.0, 0.03)
ACCURACY = 0.5
Z = float(reference.norm.isf(0.025))
LEVEL = 0.05
Ints = npt.NDArray[np.int64]
Chosen = npt.NDArray[np.bool_]
Table = Callable[[Ints, Ints], Chosen]


def main() -> None:
    options = _arguments()
    rng = np.random.default_rng(options.seed)
    report = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": " ".join(["python", "benchmarks/coverage.py", *sys.argv[1:]]),
        "device": processor(),
        "pairs": options.pairs,
        "coverage": [
            coverage(n, correlation, difference, options.pairs, rng)
            for n in SIZES
            for difference in DIFFERENCES
            for correlation in CORRELATIONS
        ],
        "gate": [
            false_alarms(n, correlation, margin, options.pairs, rng)
            for n in SIZES
            for margin in (0.0, 0.01)
            for correlation in CORRELATIONS
        ],
        "power": [
            detected(n, correlation, options.pairs, rng)
            for n in SIZES
            for correlation in CORRELATIONS
        ],
        "other_scores": [
            other(kind, n, options.pairs, rng) for kind in (orders, grades, twice) for n in SIZES
        ],
        "sign_flip": timings(),
    }
    sys.stdout.write((json.dumps(report, indent=1) if options.json else _tables(report)) + "\n")


def coverage(
    n: int, correlation: float, difference: float, pairs: int, rng: np.random.Generator
) -> dict[str, Any]:
    """How often the 95 % interval of a 0/1 comparison holds the true difference."""

    def holds(only_a: Ints, only_b: Ints) -> Chosen:
        low, high = tango(only_a, only_b, n, Z)
        return (low <= difference) & (difference <= high)

    chances = discordant(correlation, difference)
    _same_as_compare(n, chances, rng)
    return {
        "n": n, "correlation": correlation, "difference": difference,
        "discordant_expected": n * sum(chances), **_share(holds, n, chances, pairs, rng),
    }  # fmt: skip


def false_alarms(
    n: int, correlation: float, margin: float, pairs: int, rng: np.random.Generator
) -> dict[str, Any]:
    """How often the gate says "worse by more than the margin" of two equally good models.

    ``worst`` is the same for a model that is worse by the margin exactly, where a false alarm is
    likeliest; None where the correlation makes that impossible.
    """

    def alarm(only_a: Ints, only_b: Ints) -> Chosen:
        _, up = tango_z(only_a, only_b, n, -margin, correction=1.0)
        return np.asarray(reference.norm.cdf(up) < LEVEL)

    edge = discordant(correlation, -margin)
    return {
        "n": n, "correlation": correlation, "margin": margin,
        **_share(alarm, n, discordant(correlation, 0.0), pairs, rng),
        "worst": exact(alarm, n, edge) if min(edge) >= 0 else None,
    }  # fmt: skip


def detected(n: int, correlation: float, pairs: int, rng: np.random.Generator) -> dict[str, Any]:
    """How often a comparison, and the gate, show the smallest detectable difference."""
    differing = sum(discordant(correlation, 0.0))
    spread = stats.Spread(n, math.sqrt(differing), differing)
    named = power.smallest_detectable(spread)
    lost = power.smallest_detectable(spread, sides=1)

    def found(only_a: Ints, only_b: Ints) -> Chosen:
        low, _ = tango(only_a, only_b, n, Z)
        fewer, both = np.minimum(only_a, only_b), only_a + only_b
        return (low > 0) & (2 * reference.binom.cdf(fewer, both, 0.5) < LEVEL)

    def alarm(only_a: Ints, only_b: Ints) -> Chosen:
        _, up = tango_z(only_a, only_b, n, 0.0, correction=1.0)
        return np.asarray(reference.norm.cdf(up) < LEVEL)

    a, b = _moved(differing, named), _moved(differing, -lost)
    return {
        "n": n, "correlation": correlation, "smallest_detectable": named,
        **_share(found, n, a, pairs, rng), "gate_smallest_detectable": lost,
        "gate_exact": exact(alarm, n, b),
    }  # fmt: skip


def other(
    kind: Callable[[int, float, np.random.Generator], pd.DataFrame],
    n: int,
    pairs: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Coverage of ± t · stderr, false alarms of gate and sign-flip test, beside the bootstrap's."""
    difference, held, boot, alarms, flips = 0.03, 0, 0, 0, 0
    for _ in range(pairs):
        table = kind(n, difference, rng)
        bounds = stats.one_sided(table, 0.0, 0.975)  # two of them are the two-sided interval
        held += bounds.low <= difference <= bounds.high
        sums = (table["score_b"] - table["score_a"]).groupby(table["cluster"]).sum().to_numpy()
        weight = np.full(n, len(table) / n)
        low, high = resampling.bootstrap(sums, weight, resamples=1000)
        boot += low <= difference <= high
        table = kind(n, 0.0, rng)
        alarms += stats.one_sided(table, 0.0).p_worse_than_margin < LEVEL
        sums = (table["score_b"] - table["score_a"]).groupby(table["cluster"]).sum().to_numpy()
        flips += resampling.sign_flip(sums, resamples=999).p < LEVEL
    counts = {"t": held, "bootstrap": boot, "gate": alarms, "sign_flip": flips}
    return {"scores": kind.__name__, "n": n} | {key: c / pairs for key, c in counts.items()}


def orders(n: int, difference: float, rng: np.random.Generator) -> pd.DataFrame:
    """Questions under four option orders, right or wrong, alike within a question."""
    skill = rng.beta(1, 1, n)[:, None]
    a = rng.random((n, 4)) < skill
    gained = rng.random((n, 4)) < 2 * difference  # ½ + 2δ·½ = ½ + δ
    b = gained | (rng.random((n, 4)) < skill)
    return _frame(a, b)


def grades(n: int, difference: float, rng: np.random.Generator) -> pd.DataFrame:
    """One grade between 0 and 1 a question, of the two models alike on a question."""
    skill = 0.1 + 0.7 * rng.beta(2, 1, (n, 1))
    a, b = (skill + rng.uniform(-0.1, 0.1, (n, 1)) for _ in range(2))
    return _frame(a, b + difference)


def twice(n: int, difference: float, rng: np.random.Generator) -> pd.DataFrame:
    """The same questions in two tasks, pooled; four answers in five are the same in both."""
    skill, tasks = rng.beta(1, 1, n), []

    def answers() -> tuple[Chosen, Chosen]:
        gained = rng.random(n) < 2 * difference
        return rng.random(n) < skill, gained | (rng.random(n) < skill)

    known = answers()
    for _ in range(2):
        again = rng.random(n) < 0.2
        a, b = (np.where(again, new, old) for new, old in zip(answers(), known, strict=True))
        table = _frame(a[:, None], b[:, None])
        tasks.append(table.assign(order=0, doc_hash=table["cluster"], question="", target=""))
    return pool(tasks)


def discordant(correlation: float, difference: float) -> tuple[float, float]:
    """Probabilities (only a right, only b right) at the benchmark's accuracy."""
    a, b = ACCURACY, ACCURACY + difference
    both = a * b + correlation * math.sqrt(a * (1 - a) * b * (1 - b))
    return a - both, b - both


def exact(chosen: Table, n: int, chances: tuple[float, float]) -> float:
    """Probability of the tables that are *chosen*, up to the 1e-12 in the far tails."""
    a, b = (_likely(n, chance) for chance in chances)
    only_a, only_b = (axis.ravel() for axis in np.meshgrid(a, b, indexing="ij"))
    possible = only_a + only_b <= n
    only_a, only_b = only_a[possible], only_b[possible]
    cells = np.stack([only_a, only_b, n - only_a - only_b], axis=1)
    likely = np.asarray(reference.multinomial.pmf(cells, n, [*chances, 1 - sum(chances)]))
    return float(likely[chosen(only_a, only_b)].sum())


def timings() -> dict[str, Any]:
    """Seconds of the sign-flip test: five tasks of 100,000 questions, the best of three."""
    rng = np.random.default_rng(0)
    tasks = [rng.normal(0.002, 0.5, 100_000) for _ in range(5)]
    whole = [rng.integers(-4, 5, 100_000).astype(float) for _ in range(5)]
    return {
        "tasks": 5, "questions": 100_000, "resamples": resampling.RESAMPLES,
        "seconds": _best(lambda: [resampling.sign_flip(task) for task in tasks]),
        "exact_seconds": _best(lambda: [resampling.sign_flip(task) for task in whole]),
    }  # fmt: skip


def _best(work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _share(
    chosen: Table, n: int, chances: tuple[float, float], pairs: int, rng: np.random.Generator
) -> dict[str, float]:
    drawn = rng.multinomial(n, [*chances, 1 - sum(chances)], size=pairs)
    return {
        "simulated": float(chosen(drawn[:, 0], drawn[:, 1]).mean()),
        "exact": exact(chosen, n, chances),
    }


def _moved(differing: float, difference: float) -> tuple[float, float]:
    """Discordant probabilities with this difference; more differ only where they must."""
    whole = max(differing, abs(difference))
    return (whole - difference) / 2, (whole + difference) / 2


def _likely(n: int, chance: float) -> Ints:
    """Counts within eight standard deviations."""
    reach = 8 * math.sqrt(n * chance * (1 - chance)) + 8
    return np.arange(max(0, int(n * chance - reach)), min(n, int(n * chance + reach)) + 1)


def _same_as_compare(n: int, chances: tuple[float, float], rng: np.random.Generator) -> None:
    """The formulas used here for whole arrays are what compare and one_sided give for a table."""
    for only_a, only_b, rest in rng.multinomial(n, [*chances, 1 - sum(chances)], size=5):
        a = np.repeat([1.0, 0.0, 1.0], [only_a, only_b, rest])
        b = np.repeat([0.0, 1.0, 1.0], [only_a, only_b, rest])
        table = _frame(a[:, None], b[:, None])
        found, gate = stats.compare(table), stats.one_sided(table, 0.01)
        low, high = tango(only_a, only_b, n, Z)
        _, up = tango_z(only_a, only_b, n, -0.01, correction=1.0)
        pairs = [
            (found.low, low),
            (found.high, high),
            (gate.p_worse_than_margin, reference.norm.cdf(up)),
        ]
        if not all(math.isclose(one, other, abs_tol=1e-9) for one, other in pairs):
            raise AssertionError(f"compare and the formulas differ on {only_a}, {only_b}, {n}")


def _frame(a: Any, b: Any) -> pd.DataFrame:
    """Pairs of arrays (questions, rows a question)."""
    n, rows = a.shape
    return pd.DataFrame({
        "score_a": a.ravel().astype(float), "score_b": b.ravel().astype(float), "weight": 1.0,
        "metric": "acc", "cluster": np.arange(n).repeat(rows),
    })  # fmt: skip


def _tables(report: dict[str, Any]) -> str:
    flip = report["sign_flip"]
    return "\n\n".join([
        f"{report['device']}; {report['pairs']:,} tables a cell; {report['date']}",
        _table("95 % interval: share that holds the difference", report["coverage"]),
        _table("gate, level 5 %: false alarms without a change", report["gate"]),
        _table("shown, of the smallest detectable difference (80 %)", report["power"]),
        _table("other scores: coverage of t and bootstrap, false alarms", report["other_scores"]),
        f"sign-flip test, {flip['tasks']} tasks of {flip['questions']:,} questions: "
        f"{flip['seconds']:.2f} s for {flip['resamples']:,} resamples, "
        f"{flip['exact_seconds']:.2f} s exact for whole numbers",
    ])  # fmt: skip


def _table(title: str, rows: list[dict[str, Any]]) -> str:
    return f"{title}\n{pd.DataFrame(rows).round(4).to_string(index=False)}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", action="store_true", help="JSON on stdout instead of tables")
    parser.add_argument("--pairs", type=int, default=2000, help="simulated tables a cell")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
