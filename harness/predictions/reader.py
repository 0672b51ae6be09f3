"""The columns of plain predictions under medbench's names, checked for type."""

from __future__ import annotations

import json
import math
from typing import Any

from ...errors import InputError
from .files import Records

REQUIRED = ("task", "doc_id", "target", "prediction")
KEYS = (
    *REQUIRED, "correct", "score", "scores", "cluster", "question", "options", "unparsed",
    "truncated", "order", "doc_hash", "subject", "protocol", "output",
)  # fmt: skip
"""What a record may hold; other keys are passed over."""

LIKELY = {
    "task": ("dataset", "benchmark", "subset"),
    "doc_id": ("id", "question_id", "qid", "idx", "index", "question"),
    "target": ("gold", "answer", "ground_truth", "label", "reference", "correct_answer"),
    "prediction": ("pred", "predicted", "response", "output", "model_answer"),
    "correct": ("is_correct",),
    "options": ("choices",),
    "scores": ("all_probs", "probs", "probabilities", "option_probs", "logprobs"),
}
"""What others call these columns; for what an error suggests, and never read without being told."""

Column = list[Any]


class Reader:
    """The columns of the records under medbench's names, checked for type."""

    def __init__(self, records: Records, columns: dict[str, str]) -> None:
        self.records = records
        self._columns = columns
        self._known: set[str] = set().union(*records.rows)
        for key in columns:
            self._source(key)
        missing = [key for key in REQUIRED if self._source(key) is None]
        if missing:
            names = ", ".join(map(repr, missing))
            raise InputError(
                f"{records.path}: no column {names}; it has: {self._names}; "
                f"say which holds what, such as {self._suggestion()}"
            )

    @property
    def _names(self) -> str:
        return ", ".join(sorted(self._known)[:20]) or "nothing"

    def _suggestion(self) -> str:
        """``--columns`` for this file: what was given, and columns of a likely name."""
        given = dict(self._columns)
        for key, names in LIKELY.items():
            found = next((name for name in names if name in self._known), None)
            if key in REQUIRED and key not in self._known:
                found = found or ("=NAME" if key == "task" else "COLUMN")
            if found and key not in self._known and found not in given.values():
                given.setdefault(key, found)
        return f"--columns {','.join(f'{key}={name}' for key, name in given.items())}"

    def _source(self, key: str) -> str | None:
        """The records' own name for *key*; None where they have none."""
        name = self._columns.get(key, key)
        if name in self._known or name.startswith("="):
            return name
        path = self.records.path
        if key not in KEYS:
            raise InputError(f"{path}: --columns {key}=…: unknown name; known: {', '.join(KEYS)}")
        if key in self._columns:
            raise InputError(
                f"{path}: no column {name!r}, named for {key}; it has: {self._names}; name one of "
                "them (two files of unlike columns: medbench import each of them first)"
            )
        return None

    def get(self, key: str) -> Column:
        """The values of *key* as they stand; None where a row has none."""
        source = self._source(key)
        rows = self.records.rows
        if source is None:
            return [None] * len(rows)
        if source.startswith("=") and source not in self._known:
            return [source[1:]] * len(rows)
        values = [row.get(source) for row in rows]
        if self.records.typed or key in ("prediction", "target"):
            return values
        return [value or None for value in values]  # an empty cell says nothing

    def texts(self, key: str, *, required: bool = False, present: bool = False) -> Column:
        """Text, stripped; None where there is none, unless it is *required*.

        With *present* the key must stand in each row, if only as null.
        """
        values = self.get(key)
        for index, value in enumerate(values):
            if isinstance(value, str) and (value.strip() or not required):
                continue
            if value is None and not required:
                if present and self._source(key) not in self.records.rows[index]:
                    self.records.refuse(index, f"{key} is missing; write null for no answer")
                continue
            self._refuse_text(index, key, value)
        return [value.strip() if isinstance(value, str) else None for value in values]

    def _refuse_text(self, index: int, key: str, value: Any) -> None:
        if value is None or value == "" or isinstance(value, str):
            self.records.refuse(index, f"{key} is missing or empty; write its text")
        if key in ("target", "prediction") and type(value) in (int, float):
            self.records.refuse(
                index,
                f"{key} is {value!r}, which may count from 0 or from 1; "
                "write the option's letter or its text",
            )
        self.records.refuse(index, f"{key} is {shown(value)}; expected text")

    def flags(self, key: str) -> list[bool | None]:
        """true, false, 1 or 0; None where a row does not say."""
        words = {} if self.records.typed else {"0": False, "1": True, "false": False, "true": True}
        found: list[bool | None] = []
        for index, value in enumerate(self.get(key)):
            if isinstance(value, str) and value.lower() in words:
                found.append(words[value.lower()])
            elif value is None or (isinstance(value, int | float) and value in (0, 1)):
                found.append(None if value is None else bool(value))
            else:
                self.records.refuse(
                    index, f"{key} is {shown(value)}; expected true or false, or 1 or 0"
                )
        return found

    def whole(self, key: str, default: int) -> list[int]:
        """Whole numbers from 0 on."""
        found = []
        for index, value in enumerate(self.get(key)):
            if not self.records.typed and isinstance(value, str) and value.isdecimal():
                value = int(value)
            if value is None:
                value = default
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                self.records.refuse(index, f"{key} is {shown(value)}; expected a whole number")
            found.append(value)
        return found

    def numbers(self, key: str) -> list[float | None]:
        """Finite numbers; None where a row has none."""
        found: list[float | None] = []
        for index, value in enumerate(self.get(key)):
            if value is None:
                found.append(None)
                continue
            finite = number(value, text=not self.records.typed)
            if finite is None:
                self.records.refuse(index, f"{key} is {shown(value)}; expected a finite number")
            found.append(finite)
        return found


def number(value: Any, *, text: bool = False) -> float | None:
    """*value* as a finite number; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | str if text else int | float):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def shown(value: Any) -> str:
    return repr(value)[:60]


def name_of(records: Records, index: int, key: str, value: Any) -> str:
    """An id as text: a whole number or words."""
    if isinstance(value, str) and value.strip():
        return value.strip()
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    records.refuse(index, f"{key} is {shown(value)}; expected a whole number or text")


def json_cell(records: Records, index: int, key: str, value: Any) -> Any:
    """In CSV a list or object is JSON text."""
    if records.typed or not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        records.refuse(index, f"{key} is {shown(value)}; in CSV write it as JSON")
