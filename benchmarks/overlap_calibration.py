"""Derives the weights of the paraphrase measure, and what it finds and mistakes.

    python benchmarks/overlap_calibration.py DIR

DIR holds `paraphrase_pairs/*.jsonl` (`demo_row`, `original_mcq_stem`, `rewritten_question`) and the
data sets they were made from and are told apart from: `medical_o1_en`, `medqa_us_4options`,
`medmcqa_dev`, `mmlu_medical`. Each pair of a rewritten question and its original is a positive,
every other pair of questions a negative, but for those that are the same item (`SAME`).

Recall is cross-validated over five folds of rewritten questions: weights and threshold come from
four of them, positives and negatives alike, and are tried on the fifth.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from medbench.tasks.overlap import paraphrase

FALSE_RATE = 1.5e-6
"""False pairs allowed per pair of negatives, on which the threshold is set."""
SAME = 0.68
"""Cosine above which a supposed negative was read, and found to be the same item in two sets."""
STEM = "Noxbinle"
"""Two questions on one printed advertisement: the text is shared, the question is not."""


@dataclass(frozen=True)
class Pairs:
    """Pairs of two corpora: fold group, figures, and whether they are the same question."""

    name: str
    group: Any
    figures: Any
    same: Any
    compared: int
    texts: list[tuple[str, str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("data", type=Path, metavar="DIR")
    options = parser.parse_args()
    paraphrase.INTERCEPT, paraphrase.WEIGHTS = 1e9, dict(paraphrase.WEIGHTS)  # leave none out
    sets = read(options.data)
    sys.stdout.write(json.dumps(report(sets), indent=1) + "\n")


def read(data: Path) -> list[Pairs]:
    """All pairs of figures, positives first."""
    positives = [
        json.loads(line)
        for path in sorted((data / "paraphrase_pairs").glob("*.jsonl"))
        for line in path.read_text("utf-8").splitlines()
    ]
    o1 = [row["Question"] for row in _json(data / "medical_o1_en/demo_data.json")]
    originals = [row["original_mcq_stem"] for row in positives]
    rewritten = [row["rewritten_question"] for row in positives]
    origin = {row["demo_row"]: number for number, row in enumerate(positives)}
    medqa = _questions(data / "medqa_us_4options/test.jsonl")
    medmcqa = _questions(data / "medmcqa_dev/dev.jsonl")
    mmlu = [
        row[0]
        for path in sorted((data / "mmlu_medical").glob("*.csv"))
        for row in csv.reader(path.open(encoding="utf-8"))
    ]
    own = {row["rewritten_question"]: row["demo_row"] for row in positives}
    return [
        pairs("medical_o1 × originals + MedQA", o1, originals + medqa, origin),
        pairs("medical_o1 × originals + MedMCQA", o1, originals + medmcqa, origin),
        pairs("medical_o1 × originals + MMLU", o1, originals + mmlu, origin),
        pairs(
            "rewritten × originals",
            rewritten,
            originals,
            {n: n for n in range(len(rewritten))},
            [own[text] for text in rewritten],
        ),
        pairs("MedQA × MMLU", medqa, mmlu, {}),
        pairs("MedMCQA × MedQA", medmcqa, medqa, {}),
    ]


def pairs(
    name: str, a: list[str], b: list[str], origin: dict[int, int], groups: list[int] | None = None
) -> Pairs:
    """The figures of every pair of *a* and *b* above the floor; row → its original in *origin*."""
    rows, columns, figures = paraphrase.features(a, b)
    same = np.array([origin.get(int(r)) == int(c) for r, c in zip(rows, columns, strict=True)])
    texts = [(a[r], b[c]) for r, c in zip(rows, columns, strict=True)]
    doubtful = ~same & (
        (figures[:, 0] > SAME) | np.array([STEM in one and STEM in other for one, other in texts])
    )
    group = np.array(groups)[rows] if groups else rows
    kept = np.flatnonzero(~doubtful)
    return Pairs(
        name,
        group[kept],
        figures[kept],
        same[kept],
        len(a) * len(b),
        [texts[n] for n in kept],
    )


def report(sets: list[Pairs]) -> dict[str, Any]:
    """Weights over everything; recall and false pairs out of fold and in."""
    figures = np.concatenate([one.figures for one in sets])
    same = np.concatenate([one.same for one in sets])
    group = np.concatenate([one.group for one in sets])
    source = np.concatenate([np.full(len(one.same), n) for n, one in enumerate(sets)])
    compared = sum(one.compared for one in sets)
    # Positives below the floor have no figures; they count as missed.
    positives = max(int(one.same.sum()) for one in sets)
    fold = np.random.default_rng(0).permutation(int(group.max()) + 1)[group] % 5
    out = np.zeros(len(same))
    for k in range(5):
        weights, threshold = fit(figures[fold != k], same[fold != k], compared * 0.8)
        out[fold == k] = figures[fold == k] @ weights - threshold
    weights, threshold = fit(figures, same, compared)
    inside = figures @ weights - threshold
    return {
        "weights": dict(zip(paraphrase.WEIGHTS, weights.round(3).tolist(), strict=True)),
        "intercept": round(-threshold, 3),
        "positives": positives,
        "sets": {
            one.name: {
                "pairs": one.compared,
                **{
                    name: {
                        "found": int((same & (score >= 0))[source == n].sum()),
                        "of": int(same[source == n].sum()),
                        "false": int((~same & (score >= 0))[source == n].sum()),
                    }
                    for name, score in (("out_of_fold", out), ("in_sample", inside))
                },
                "nearest_false": [
                    [round(float(inside[source == n][at]), 2), *one.texts[at]]
                    for at in np.argsort(-np.where(one.same, -99, inside[source == n]))[:6]
                ],
            }
            for n, one in enumerate(sets)
        },
    }


def fit(figures: Any, same: Any, compared: float) -> tuple[Any, float]:
    """Weights, and the threshold on their sum at which FALSE_RATE of *compared* pairs is false."""
    scale = figures.std(axis=0)
    model = LogisticRegression(C=1.0).fit(figures / scale, same)
    weights = model.coef_[0] / scale
    negatives = np.sort(figures[~same] @ weights)[::-1]
    return weights, float(negatives[int(FALSE_RATE * compared)])


def _json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def _questions(path: Path) -> list[str]:
    return [json.loads(line)["question"] for line in path.read_text("utf-8").splitlines()]


if __name__ == "__main__":
    main()
