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

Column = list[Any]


class Reader:
    """The columns of the records under medbench's names, checked for type."""

    def __init__(self, records: Records, columns: dict[str, str]) -> None:
        self.records = records
        self._columns = columns
        self._known: set[str] = set().union(*records.rows)
        for key in REQUIRED:
            self._source(key)
        for key in columns:
            self._source(key)

    def _source(self, key: str) -> str | None:
        """The records' own name for *key*; None where they have none."""
        name = self._columns.get(key, key)
        if name in self._known or name.startswith("="):
            return name
        path, shown = self.records.path, ", ".join(sorted(self._known)[:20])
        if key not in KEYS:
            raise InputError(f"{path}: --columns {key}=…: unknown name; known: {', '.join(KEYS)}")
        if key in self._columns:
            raise InputError(f"{path}: no column {name!r}, named for {key}; it has: {shown}")
        if key in REQUIRED:
            literal = f" (or --columns {key}==NAME for all rows)" if key == "task" else ""
            raise InputError(
                f"{path}: no column {key!r}; it has: {shown}; say which holds it with "
                f"--columns {key}=COLUMN{literal}"
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
