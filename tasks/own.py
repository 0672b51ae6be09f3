"""Your own file of questions as a task: which column is what, declared in a suite.

::

    tasks: [medqa, cardiology]
    question_files:
      cardiology:
        file: questions.jsonl
        question: stem
        options: [a, b, c, d]
        answer: label
        answer_kind: letter
        protocols: [letters, cot]
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from ..errors import InputError
from ..harness.config import Section
from . import integrity
from .files import SUFFIXES, Row, read_rows
from .local import LETTERS

Protocol = Literal["letters", "text", "cot"]


class QuestionFile(Section):
    """A JSON, JSONL, CSV or Parquet file of multiple-choice questions.

    Attributes:
        file: Its path.
        question: The column of the question.
        options: The columns of the options in order, or the one column that holds them all: a
            list, ``{A: text, …}``, or either as JSON text. Up to 26; trailing empty columns are
            options that a question does not have.
        answer: The column of the right answer.
        answer_kind: What stands there: ``letter`` (A is the first), ``index`` (0 is the first),
            ``index1`` (1 is the first) or ``text`` (the option's own text). Never guessed.
        several: Questions have several right options: a list in ``answer``, JSON text of one, or
            letters or indices with commas between them (letters also without).
        subject, context: Columns of what a question is about, and of a text to read before it.
        protocols: How it is asked; each becomes a task, ``NAME_letters`` and so on.
        language: Of the words around the question.
        shots: Another file of the same columns that few-shot examples are taken from.
        licence: Shown in reports.
    """

    file: str
    question: str = "question"
    options: str | list[str]
    answer: str
    answer_kind: Literal["letter", "index", "index1", "text"]
    several: bool = False
    subject: str | None = None
    context: str | None = None
    protocols: list[Protocol] = Field(["letters"], min_length=1)
    language: Literal["en", "zh"] = "en"
    shots: str | None = None
    licence: str = "not stated"

    @model_validator(mode="after")
    def _sensible(self) -> QuestionFile:
        for path in filter(None, (self.file, self.shots)):
            if Path(path).suffix not in SUFFIXES:
                raise ValueError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")
        if self.shots and Path(self.shots).resolve() == Path(self.file).resolve():
            raise ValueError("shots: expected another file than the test's own")
        if self.several and self.shots:
            raise ValueError("shots: lm-eval shows no examples of questions with several answers")
        if len(set(self.protocols)) < len(self.protocols):
            raise ValueError("protocols: one is named twice; name each once")
        return self

    def questions(self, path: str | None = None) -> list[Row]:
        """The questions of the file (or of *path*, in the same columns), checked.

        Raises:
            InputError: A row that is no sound question, with file and row.
        """
        where = path or self.file
        found = []
        for number, row in enumerate(read_rows(Path(where))):
            try:
                found.append(self._question(row))
            except ValueError as error:
                raise InputError(f"{where}, row {number}: {error}") from None
        if not found:
            raise InputError(f"{where}: no question in it; expected one a row")
        indexed = self.answer_kind == "index" and not self.several and path is None
        integrity.check(found, where, integrity.Expected(indexed=indexed))
        return found

    def _question(self, row: Row) -> Row:
        options = self._options(row)
        golds = sorted(self._index(value, options) for value in self._answers(row))
        question: dict[str, Any] = {
            "question": _cell(row, self.question),
            "options": options,
            "gold": golds[0],
            "subject": None if self.subject is None else str(_cell(row, self.subject)),
        }
        if self.several:
            question["golds"] = golds
        if self.context is not None:
            question["context"] = _cell(row, self.context)
        return question

    def _options(self, row: Row) -> list[Any]:
        if isinstance(self.options, list):
            found = [_cell(row, column) for column in self.options]
            while found and found[-1] in (None, ""):
                found.pop()
        else:
            whole = _json(_cell(row, self.options), self.options)
            if isinstance(whole, dict):
                whole = {key: text for key, text in whole.items() if text is not None}
                if list(whole) != list(LETTERS[: len(whole)]):
                    raise ValueError(f"{self.options}: expected keys A, B, …, found {list(whole)}")
                whole = list(whole.values())
            if not isinstance(whole, list):
                raise ValueError(f"{self.options}: expected a list of options, found {whole!r}")
            found = whole
        if len(found) > len(LETTERS):
            raise ValueError(f"options: expected at most {len(LETTERS)}, found {len(found)}")
        return [str(text) if isinstance(text, int | float) else text for text in found]

    def _answers(self, row: Row) -> list[Any]:
        value = _cell(row, self.answer)
        if not self.several:
            return [value]
        if isinstance(value, str) and value.lstrip().startswith("["):
            value = _json(value, self.answer)
        if isinstance(value, str) and self.answer_kind == "letter":
            value = re.findall(r"[^\s,;]", value)
        elif isinstance(value, str) and self.answer_kind != "text":
            value = re.split(r"[\s,;]+", value.strip())
        found = value if isinstance(value, list) else [value]
        if not found:
            raise ValueError(f"{self.answer}: expected at least one right option")
        return found

    def _index(self, value: Any, options: list[Any]) -> int:
        text = str(value).strip()
        if self.answer_kind == "text":
            matches = [n for n, option in enumerate(options) if option == value]
            if not matches:
                raise ValueError(f"{self.answer}: {text[:60]!r} is the text of no option")
            return matches[0]
        if self.answer_kind == "letter":
            if len(text) == 1 and text.upper() in LETTERS:
                return LETTERS.index(text.upper())
            raise ValueError(f"{self.answer}: expected one letter, found {text[:60]!r}")
        if not re.fullmatch(r"\d+(\.0)?", text):
            raise ValueError(f"{self.answer}: expected an index, found {text[:60]!r}")
        if self.answer_kind == "index1" and float(text) == 0:
            raise ValueError(f"{self.answer}: 0, though answers were declared to count from 1")
        return int(float(text)) - (self.answer_kind == "index1")


def _cell(row: Row, column: str) -> Any:
    if column not in row:
        raise ValueError(f"no column {column!r}; its columns are: {', '.join(map(str, row))}")
    return row[column]


def _json(value: Any, column: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"{column}: not valid JSON: {error.msg}") from None
