"""Whether two sides that were joined may be compared: same targets, protocol, metric, prompts.

Both tables have one row a question, in the same order.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ...errors import InputError
from ...tasks.prompts import LETTERS
from .identity import TEXT, UNKNOWN, text_hash

Names = tuple[str, str]
Rows = npt.NDArray[np.int64]
Chosen = npt.NDArray[np.bool_]

_LETTER = re.compile(f"[{LETTERS}]")
_SHOWN = 3


def agree(left: pd.DataFrame, right: pd.DataFrame, names: Names) -> list[str]:
    """What a reader should know of the two sides together.

    Raises:
        InputError: They differ in metric, protocol or right answers.
    """
    for task, one, other in _differing(left, right, "metric"):
        raise InputError(
            f"task {task}: {names[0]} is measured in {one}, {names[1]} in {other}; "
            "score both with the same metric"
        )
    known = []
    for task, one, other in _differing(left, right, "protocol"):
        if UNKNOWN not in (one, other):
            raise InputError(
                f"task {task}: {names[0]} was asked by {one!r} and {names[1]} by {other!r}, and a "
                "protocol alone moves a score by points; score both in the same way"
            )
        known.append(Remark(task, f"how {names[one != UNKNOWN]} was asked is unknown"))
    unlike, unchecked = _targets(left, right)
    for _, rows in _by_task(left, unlike):
        _refuse(left.iloc[rows], right.iloc[rows], names)
    counted = [
        (unchecked, "the right answers of {} could not be compared; one side has no text of them"),
        (_unlike(left, right, "prompt_hash"), "the prompts of {} differ"),
        (_other_questions(left, right), "the texts of {} differ, though their ids are the same"),
    ]
    known += [
        Remark(task, sentence, len(rows))
        for chosen, sentence in counted
        for task, rows in _by_task(left, chosen)
    ]
    return told(known)


@dataclass(frozen=True)
class Remark:
    """Something to know of one task; with a count ``{}`` stands for so many questions."""

    task: str
    sentence: str
    count: int | None = None


def told(remarks: Sequence[Remark]) -> list[str]:
    """The remarks as sentences; what is to be said of several tasks is said once."""
    alike: dict[str, list[Remark]] = {}
    for one in remarks:
        alike.setdefault(one.sentence, []).append(one)
    found = []
    for sentence, same in alike.items():
        counts = [one.count for one in same if one.count is not None]
        said = sentence.replace("{}", questions(sum(counts))) if counts else sentence
        found.append(f"{tasks([one.task for one in same])}: {said}")
    return found


def spelled(
    left: pd.DataFrame, right: pd.DataFrame, names: Names
) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Both sides with letters replaced by the options that the other side knows them to mean.

    Only in tasks where one side's targets are all letters without options and the other's are not.
    """
    lettered = [_lettered(side) for side in (left, right)]
    remarks = []
    for here, there, swap in ((0, 1, False), (1, 0, True)):
        one, other = (right, left) if swap else (left, right)
        lacking = _with_options(other, lettered[here] - lettered[there])
        if not lacking:
            continue
        one = _spell(one, other, lacking)
        left, right = (other, one) if swap else (one, other)
        said = f"the letters of {names[here]} were read as the options of {names[there]}"
        remarks += [Remark(task, said) for task in sorted(lacking)]
    return left, right, told(remarks)


def some(ids: Sequence[Any] | pd.Series[Any]) -> str:
    """The first few of *ids*, in one line."""
    shown = [" ".join(str(one).split())[:40] for one in list(ids[:_SHOWN])]
    return ", ".join(shown) + (", …" if len(ids) > _SHOWN else "")


def tasks(names: Sequence[str]) -> str:
    """One task by its name, several by their number and the first few names."""
    return f"task {names[0]}" if len(names) == 1 else f"{len(names)} tasks ({some(names)})"


def questions(count: int) -> str:
    """A number of questions in words."""
    return "1 question" if count == 1 else f"{count} questions"


def _lettered(side: pd.DataFrame) -> set[str]:
    """Tasks whose targets are all letters that stand for options nobody gave."""
    all_letters = side["target"].isin(list(LETTERS)).groupby(side["task"]).all()
    found = set()
    for task in all_letters.index[all_letters.astype(bool)]:
        known = side.loc[side["task"] == task, "options"]
        texts = (text for options in known if options is not None for text in options)
        if all(_LETTER.fullmatch(text) for text in texts):
            found.add(str(task))
    return found


def _with_options(side: pd.DataFrame, tasks: set[str]) -> set[str]:
    """Those of *tasks* in which the side knows the options of any question."""
    rows = side[side["task"].isin(tasks)]
    known = [options is not None and len(options) > 0 for options in rows["options"]]
    return {str(task) for task in rows["task"][known].unique()}


def _spell(side: pd.DataFrame, other: pd.DataFrame, tasks: set[str]) -> pd.DataFrame:
    rows = np.flatnonzero(side["task"].isin(tasks))
    columns = {key: side[key].astype(object).to_numpy(copy=True) for key in _SPELLED}
    options = other["options"].to_numpy()
    for row in rows:
        known = () if options[row] is None else options[row]
        for key in ("target", "prediction"):
            letter = columns[key][row]
            place = LETTERS.find(letter) if isinstance(letter, str) and len(letter) == 1 else -1
            if 0 <= place < len(known):
                columns[key][row] = known[place]
        columns["target_hash"][row] = text_hash(columns["target"][row])
    return side.assign(**columns)


_SPELLED = ("target", "prediction", "target_hash")


def _targets(left: pd.DataFrame, right: pd.DataFrame) -> tuple[Chosen, Chosen]:
    """Which rows have different right answers, and which cannot be compared.

    Two hashes of one kind are compared as they are. lm-eval's hash may be that of an index, so
    against a hash of a text the texts are compared.
    """
    hashes = [_texts(side["target_hash"]) for side in (left, right)]
    texts = [side["target"].to_numpy(object) for side in (left, right)]
    unlike = np.asarray(hashes[0] != hashes[1], bool)
    unchecked = np.zeros(len(left), bool)
    for row in np.flatnonzero(unlike):
        marks = [one[row] for one in hashes]
        if all(marks) and marks[0].startswith(TEXT) == marks[1].startswith(TEXT):
            continue
        words = [one[row] for one in texts]
        if isinstance(words[0], str) and words[0] == words[1]:
            unlike[row] = False
            continue
        marks = [
            text_hash(text) if isinstance(text, str) and not mark.startswith(TEXT) else mark
            for mark, text in zip(marks, words, strict=True)
        ]
        unchecked[row] = not all(mark.startswith(TEXT) for mark in marks)
        unlike[row] = not unchecked[row] and marks[0] != marks[1]
    return unlike, unchecked


def _refuse(left: pd.DataFrame, right: pd.DataFrame, names: Names) -> None:
    """Raise for these rows of one task, whose right answers differ."""
    one, other = left["target"].iloc[0], right["target"].iloc[0]
    shown, fix = "", "score both on the same data"
    if isinstance(one, str) and isinstance(other, str):
        shown = f" (the first: {one[:60]!r} and {other[:60]!r})"
    letters = [isinstance(text, str) and bool(_LETTER.fullmatch(text)) for text in (one, other)]
    if letters[0] != letters[1]:
        name = names[0] if letters[0] else names[1]
        fix = f"the answers of {name} are letters, so give its options too, or its texts"
    raise InputError(
        f"task {left['task'].iloc[0]}: the right answers of {questions(len(left))} differ in "
        f"{names[0]} and {names[1]}: doc_id {some(left['doc_id'])}{shown}; {fix}"
    )


def _other_questions(left: pd.DataFrame, right: pd.DataFrame) -> Chosen:
    """Rows whose questions are other texts: an id may be the position in other data."""
    texts = [_texts(side["question"]) for side in (left, right)]
    known = (texts[0] != "") & (texts[1] != "")
    unlike: Chosen = np.asarray(known & (texts[0] != texts[1]), bool)
    for row in np.flatnonzero(unlike):
        unlike[row] = text_hash(texts[0][row]) != text_hash(texts[1][row])
    return unlike


def _texts(column: pd.Series[Any]) -> npt.NDArray[np.object_]:
    """A column that may be one of categories; what is not known is empty."""
    return column.astype(object).fillna("").to_numpy(object)


def _unlike(left: pd.DataFrame, right: pd.DataFrame, key: str) -> Chosen:
    """Rows in which both sides know *key* and it differs."""
    one, other = left[key], right[key]
    return np.asarray((one != other) & one.notna() & other.notna(), bool)


def _differing(left: pd.DataFrame, right: pd.DataFrame, key: str) -> Iterator[tuple[str, str, str]]:
    """Each task in which the sides differ in *key*, and how in its first such row."""
    for task, rows in _by_task(left, _unlike(left, right, key)):
        yield task, str(left[key].iloc[rows[0]]), str(right[key].iloc[rows[0]])


def _by_task(left: pd.DataFrame, chosen: Chosen) -> Iterator[tuple[str, Rows]]:
    """The chosen rows of each task that has any."""
    rows = np.flatnonzero(chosen)
    tasks = left["task"].iloc[rows].to_numpy(object)
    for task in dict.fromkeys(tasks):
        yield str(task), rows[tasks == task]
