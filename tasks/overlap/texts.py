"""One column of a file as texts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..files import read_rows


def texts(path: Path, column: str, option: str) -> list[str]:
    """The column called *column* of every row of *path*; an empty cell is ``""``.

    Args:
        option: What chose the column, for messages: ``--train-column``.

    Raises:
        InputError: No row, no such column, a cell that is no text, or no text at all.
    """
    rows = read_rows(path)
    if not rows:
        raise InputError(f"{path}: no row in it; expected rows with a column {column!r}")
    columns = dict.fromkeys(str(key) for row in rows for key in row)
    if column not in columns:
        raise InputError(
            f"{path}: no column {column!r} ({option}); its columns are: {', '.join(columns)}"
        )
    found = [_text(row.get(column), f"{path}, row {n}: {column}") for n, row in enumerate(rows)]
    if not any(text.strip() for text in found):
        raise InputError(
            f"{path}: column {column!r} ({option}) is empty in all {len(rows)} rows; "
            f"its columns are: {', '.join(columns)}"
        )
    return found


def _text(value: Any, where: str) -> str:
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, int | float):
        return str(value)
    raise InputError(f"{where}: expected text, found {type(value).__name__}; choose a text column")
