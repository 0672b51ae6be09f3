"""Options and their scores: probabilities or log-likelihoods, in the order of the options."""

from __future__ import annotations

import math
from typing import Any

from ...tasks.prompts import LETTERS
from .files import Records
from .reader import Column, Reader, json_cell, number, shown

SUM_TOLERANCE = 0.02
"""How far probabilities may sum beside 1: four of them in bfloat16 are off by up to 0.008."""

SMALLEST = 1e-12
"""What a probability of 0 counts as, so that it has a logarithm."""


def read_options(records: Records, index: int, value: Any) -> list[str]:
    value = json_cell(records, index, "options", value)
    if value is None:
        return []
    if isinstance(value, dict):
        given = {letter: text for letter, text in value.items() if text is not None}
        if sorted(given) != list(LETTERS[: len(given)]):
            records.refuse(
                index, f"options has the keys {', '.join(given)[:60]}; expected A, B, C, …"
            )
        value = [given[letter] for letter in sorted(given)]
    if not isinstance(value, list) or not all(isinstance(o, str) and o.strip() for o in value):
        records.refuse(index, f"options is {shown(value)}; expected a list of texts, or {{A: …}}")
    texts = [option.strip() for option in value]
    if not 2 <= len(texts) <= len(LETTERS) or len(set(texts)) < len(texts):
        records.refuse(
            index,
            f"options has {len(texts)} texts, {len(set(texts))} of them different; "
            f"expected 2 to {len(LETTERS)}, no two alike",
        )
    return texts


def read_scores(raw: Reader, index: int, value: Any) -> dict[str, float] | None:
    """Scores by the option that each is for; those in a list are for A, B, C and so on."""
    value = json_cell(raw.records, index, "scores", value)
    if value is None:
        return None
    if isinstance(value, list) and len(value) <= len(LETTERS):
        value = dict(zip(LETTERS, value, strict=False))
    elif isinstance(value, dict):  # Parquet has null for an option that only other rows have
        value = {option: score for option, score in value.items() if score is not None}
    if not isinstance(value, dict) or len(value) < 2:
        raw.records.refuse(
            index, f"scores is {shown(value)}; expected a number for each of two or more options"
        )
    found = {}
    for option, given in value.items():
        value_of = number(given)
        if value_of is None:
            raw.records.refuse(
                index,
                f"the score of option {option[:40]!r} is {shown(given)}; expected a finite number",
            )
        found[option.strip()] = value_of
    return found


def in_order(
    raw: Reader, options: list[list[str]], scores: list[dict[str, float] | None], tasks: Column
) -> list[list[float]]:
    """The scores in the order of the options, as log-likelihoods; empty where there are none."""
    rows: list[list[float]] = []
    for index, (texts, given) in enumerate(zip(options, scores, strict=True)):
        if given is None:
            rows.append([])
            continue
        letters = list(LETTERS[: len(texts)])
        keys = texts if set(given) == set(texts) else letters
        if set(given) != set(keys):
            odd = sorted(set(given) - set(keys)) or sorted(set(keys) - set(given))
            what = "is for no option" if set(given) - set(keys) else "is missing"
            raw.records.refuse(
                index,
                f"the score of {odd[0][:40]!r} {what}; expected one for each of: "
                f"{', '.join(keys)[:120]}",
            )
        rows.append([given[key] for key in keys])
    # A score above 0 is no log-likelihood, so every row of its task has to hold probabilities.
    shares = {task for task, row in zip(tasks, rows, strict=True) if max(row, default=0) > 0}
    for index, (task, row) in enumerate(zip(tasks, rows, strict=True)):
        if row and task in shares:
            _check_probabilities(raw.records, index, row)
            rows[index] = [math.log(max(share, SMALLEST)) for share in row]
    return rows


def _check_probabilities(records: Records, index: int, row: list[float]) -> None:
    total = sum(row)
    if min(row) < 0 or max(row) > 1 or abs(total - 1) > SUM_TOLERANCE:
        records.refuse(
            index,
            f"scores {', '.join(f'{score:g}' for score in row)} are neither probabilities (0 to 1, "
            f"sum 1; here {total:g}) nor log-likelihoods (at most 0); give one of the two",
        )


def confidence(scores: list[list[float]], options: list[list[str]], chosen: Column) -> Column:
    """The share of the option chosen, softmax over the options; NaN where none were scored."""
    found = []
    for row, texts, prediction in zip(scores, options, chosen, strict=True):
        if not row:
            found.append(math.nan)
            continue
        top = max(row)
        weights = [math.exp(score - top) for score in row]
        at = texts.index(prediction) if prediction in texts else row.index(top)
        found.append(weights[at] / sum(weights))
    return found
