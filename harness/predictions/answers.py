"""Answers of a prediction file against its targets: letters as letters, texts as texts.

A letter means the option that it stands for, so it needs the options unless the targets are letters
too. Where a file says itself what is right, that holds, and what contradicts it is counted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NoReturn

from ...errors import InputError
from ...tasks.prompts import LETTERS
from ..comparing.identity import same_text
from .files import Records

_BARE = re.compile(rf"\(?([{LETTERS}])[).:]{{0,2}}", re.I)
_LED = re.compile(rf"\(?([{LETTERS}])[).:]{{1,2}}\s+(.+)", re.S)
_HINT = (
    "give the options of each question (--columns options=COLUMN), or whether each answer is right "
    "(--columns correct=COLUMN)"
)


@dataclass(frozen=True)
class Answers:
    """The answers of a file; every list has one entry a row.

    Attributes:
        tasks: Names of tasks.
        targets: The right answers, letters or texts.
        predictions: The answers given; None where there is none.
        options: The options as texts, or as bare letters, or empty where they are not known.
        score: 0 to 1, or None where the file does not say.
        problems: Why an answer could not be read, or None.
    """

    tasks: list[str]
    targets: list[str]
    predictions: list[str | None]
    options: list[list[str]]
    score: Sequence[float | None]
    problems: list[str | None] = field(default_factory=list)


def grade(records: Records, given: Answers) -> tuple[Answers, tuple[str, ...]]:
    """*given* with letters resolved and every score known, and what to say of it.

    Raises:
        InputError: A target is none of its options, or letters stand against texts.
    """
    letters = _letter_tasks(given)
    said = [_by_letter(given, column) for column in (given.targets, given.predictions)]
    targets, predictions, problems, own = [], [], [], []
    for row, task in enumerate(given.tasks):
        target, answer, graded = given.targets[row], given.predictions[row], given.score[row]
        options = given.options[row] or (list(LETTERS) if task in letters else [])
        if options:
            meant, problem = find(target, options, said[0].get(task))
            if meant is None:
                _refuse_target(records, row, target, options, problem)
            chosen, problem = find(answer, options, said[1].get(task))
            if problem == "ambiguous":
                if graded is None:
                    records.refuse(
                        row,
                        f"prediction {answer!r} is the letter of one option and the text of "
                        "another; write letters alone or texts alone in this column",
                    )
                chosen, problem = answer, None
            right = chosen == meant
        else:
            meant, chosen, problem = target, answer or None, None if answer else "empty"
            right = chosen is not None and same_text(chosen, target)
            if graded is None and answer and _BARE.fullmatch(answer) and not right:
                records.refuse(
                    row,
                    f"prediction {answer!r} is a letter, target {target[:60]!r} is not; {_HINT}",
                )
        targets.append(meant)
        predictions.append(chosen)
        problems.append(problem)
        own.append(float(right))
    _refuse_texts(records, given, predictions, letters)
    score = [mine if known is None else known for known, mine in zip(given.score, own, strict=True)]
    graded_answers = replace(
        given, targets=targets, predictions=predictions, problems=problems, score=score
    )
    return graded_answers, _notes(given, own)


def find(
    answer: str | None, options: Sequence[str], by_letter: bool | None = None
) -> tuple[str | None, str | None]:
    """The one of *options* that *answer* names, or None and why not.

    In this order: the text of an option as it stands; its letter (``B``, ``b``, ``(B)``, ``B.``);
    its text but for case, punctuation and spacing; its letter before words (``B. …``), unless the
    words are another option's. Options may themselves be letters, of a figure for example: what
    is the letter of one option and the text of another is ``ambiguous`` unless *by_letter* says.
    """
    if not answer:
        return None, "empty"
    bare = _BARE.fullmatch(answer)
    named = _at(bare[1], options) if bare else (None, None)
    if answer in options:
        if bare and named[0] != answer and by_letter is not False:
            return named if by_letter else (None, "ambiguous")
        return answer, None
    if bare:
        return named
    alike = [option for option in options if same_text(option, answer)]
    if alike:
        return (alike[0], None) if len(alike) == 1 else (None, "several")
    led = _LED.fullmatch(answer)
    if led is None:
        return None, "unstated"
    named = _at(led[1], options)
    others = [option for option in options if option != named[0] and same_text(option, led[2])]
    return (None, "several") if others else named


def _at(letter: str, options: Sequence[str]) -> tuple[str | None, str | None]:
    place = LETTERS.index(letter.upper())
    return (options[place], None) if place < len(options) else (None, "out_of_range")


def _letter_tasks(given: Answers) -> set[str]:
    """Tasks whose targets are all bare letters."""
    texts = {
        task
        for task, target in zip(given.tasks, given.targets, strict=True)
        if not _BARE.fullmatch(target)
    }
    return set(given.tasks) - texts


def _by_letter(given: Answers, column: Sequence[str | None]) -> dict[str, bool]:
    """Whether a task's answers in *column* are letters or texts; without what could be both.

    A task that has both, or neither, is left out.
    """
    letters, texts = set(), set()
    for task, answer, options in zip(given.tasks, column, given.options, strict=True):
        if answer and options:
            bare = _BARE.fullmatch(answer)
            if bare and answer not in options:
                letters.add(task)
            elif not bare and answer in options:
                texts.add(task)
    return {task: task in letters for task in letters ^ texts}


def _refuse_target(
    records: Records, row: int, target: str, options: Sequence[str], problem: str | None
) -> NoReturn:
    shown = f"target {target[:60]!r}"
    if problem == "ambiguous":
        records.refuse(
            row,
            f"{shown} is the letter of one option and the text of another; "
            "write letters alone or texts alone in this column",
        )
    records.refuse(
        row,
        f"{shown} is none of its {len(options)} options ({'; '.join(options)[:120]}); write its "
        "letter or its text, and check that options and target come from the same data",
    )


def _refuse_texts(
    records: Records, given: Answers, found: Sequence[str | None], letters: set[str]
) -> None:
    """Letters as targets, no options, and no answer that is a letter: it cannot be graded."""
    for task in sorted(letters):
        rows = [
            row
            for row, name in enumerate(given.tasks)
            if name == task and given.score[row] is None and given.predictions[row]
        ]
        if rows and all(not given.options[row] and found[row] is None for row in rows):
            answer = str(given.predictions[rows[0]])
            raise InputError(
                f"{records.path}, {records.word} {records.numbers[rows[0]]}: the targets of task "
                f"{task!r} are letters and no prediction is (here {answer[:40]!r}); {_HINT}"
            )


def _notes(given: Answers, own: Sequence[float]) -> tuple[str, ...]:
    notes, total = [], f"{len(own)} answer{'' if len(own) == 1 else 's'}"
    graded = sum(score is None for score in given.score)
    if graded:
        notes.append(f"no score for {graded} of {total}; medbench compared them with their targets")
    unlike = sum(
        said in (0, 1) and said != mine for said, mine in zip(given.score, own, strict=True)
    )
    if unlike:
        notes.append(
            f"{unlike} of {total} scored otherwise than by comparing them with their targets; "
            "the scores given were kept"
        )
    return tuple(notes)
