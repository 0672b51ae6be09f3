"""Files of rows: JSON, JSONL, CSV and Parquet, read alike; errors name the file and the row."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from pathlib import Path
from typing import Any

from ..errors import InputError

SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Rows of a JSON (list of objects), JSONL, CSV or Parquet file.

    Raises:
        InputError: The file cannot be read; the message names the file and the line or row.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: expected a file that ends in {', '.join(SUFFIXES)}")
    if path.suffix == ".parquet":
        return _parquet(path)
    text = _text(path)
    if path.suffix == ".csv":
        try:
            return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
        except csv.Error as error:
            raise InputError(f"{path}: not valid CSV: {error}") from None
    if path.suffix == ".jsonl":
        numbered = enumerate(text.split("\n"), start=1)
        return [_json(line, f"{path}, line {n}") for n, line in numbered if line.strip()]
    found: list[Row] = _json(text, str(path), expected=list)
    for n, row in enumerate(found):
        if not isinstance(row, dict):
            raise InputError(f"{path}, row {n}: expected an object, found {type(row).__name__}")
    return found


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
        InputError: It cannot be read or holds something else.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    found: dict[str, Any] = _json(_text(path), str(path))
    return found


def read_cells(path: Path) -> list[list[str]]:
    """The cells of a CSV file without a header line.

    Raises:
        InputError: It cannot be read.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        return list(csv.reader(io.StringIO(_text(path), newline=""), strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: not valid CSV: {error}") from None


def sha256(path: Path) -> str:
    """Of the file's bytes, whatever their number."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; convert it to UTF-8") from None


def _parquet(path: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[Row] = pq.read_table(path).to_pylist()
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"{path}: not readable as Parquet: {error}") from None
    return rows


def _json(text: str, where: str, expected: type = dict) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not valid JSON: {error.msg} (column {error.colno})") from None
    if not isinstance(value, expected):
        kind = "a list of objects" if expected is list else "an object"
        raise InputError(f"{where}: expected {kind}, found {type(value).__name__}")
    return value
