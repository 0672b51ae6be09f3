"""Files of predictions as plain records: JSONL, JSON, CSV and Parquet. Nothing is interpreted."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from ...errors import InputError

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")

csv.field_size_limit(2**27)  # a reasoning trace is longer than the 128 KiB that csv allows


@dataclass(frozen=True)
class Records:
    """The objects of one file.

    Attributes:
        path: The file.
        rows: One object each.
        numbers: Where each stands: the line of a JSONL file, else the row; both count from 1.
        word: ``line`` or ``row``.
        typed: Whether values have types of their own; in CSV everything is text.
    """

    path: Path
    rows: list[dict[str, Any]]
    numbers: list[int]
    word: str
    typed: bool = True

    def refuse(self, index: int, problem: str) -> NoReturn:
        """Raise for the row at *index*; *problem* says what is wrong and how to mend it."""
        raise InputError(f"{self.path}, {self.word} {self.numbers[index]}: {problem}")


def read_records(path: Path) -> Records:
    """The records of *path*, by its suffix.

    A byte order mark and CRLF are accepted, empty lines are skipped. A ``.json`` file holds a list
    of objects, an object with exactly one such list among its values, or JSON lines.

    Raises:
        InputError: The suffix is unknown, or the file cannot be read as what it says it is.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(
            f"{path}: unknown kind of file {path.suffix!r}; expected {', '.join(SUFFIXES)}, "
            "a run folder or an lm-eval output folder"
        )
    found = _parquet(path) if suffix == ".parquet" else _text(path, suffix)
    if not found.rows:
        raise InputError(f"{path}: holds no prediction; write one object a question")
    return found


def _text(path: Path, suffix: str) -> Records:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    for problem, at in (("a NUL byte", data.find(b"\0")), ("no UTF-8", _not_utf8(data))):
        if at >= 0:
            line = data.count(b"\n", 0, at) + 1
            raise InputError(f"{path}, line {line}: {problem} in it; save the file as UTF-8 text")
    text = data.decode("utf-8-sig")
    if suffix == ".csv":
        return _csv(path, text)
    if suffix == ".json":
        return _json(path, text)
    return _jsonl(path, text)


def _not_utf8(data: bytes) -> int:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.start
    return -1


def _jsonl(path: Path, text: str) -> Records:
    rows, numbers = [], []
    # Not splitlines: U+2028 and the like may stand inside a JSON string.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        value = _parse(path, line, f"line {number}")
        if not isinstance(value, dict):
            raise InputError(
                f"{path}, line {number}: expected a JSON object, found {_kind(value)}; write one "
                'object a line, such as {"task": …, "doc_id": …, "target": …, "prediction": …}'
            )
        rows.append(value)
        numbers.append(number)
    return Records(path, rows, numbers, "line")


def _json(path: Path, text: str) -> Records:
    begin = text.lstrip()
    first = begin.split("\n", 1)[0].strip()
    if first.startswith("{") and first.endswith("}") and begin.strip() != first:
        return _jsonl(path, text)
    value = _parse(path, text, "the file")
    if isinstance(value, dict):
        lists = [one for one in value.values() if _objects(one)]
        if len(lists) != 1:
            if "results" in value and "configs" in value:
                raise InputError(
                    f"{path}: results of lm-eval without the answers to each question; run lm_eval "
                    "again with --log_samples and give its folder or the samples_*.jsonl file"
                )
            raise InputError(
                f"{path}: an object in which {len(lists) or 'no'} lists of objects stand, so its "
                "predictions are not told; give a list of objects"
            )
        value = lists[0]
    if not isinstance(value, list):
        raise InputError(f"{path}: expected a list of objects, found {_kind(value)}")
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise InputError(
                f"{path}, row {number}: expected a JSON object, found {_kind(row)}; "
                "write one object a question"
            )
    return Records(path, value, list(range(1, len(value) + 1)), "row")


def _objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def _parse(path: Path, text: str, where: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        at = getattr(error, "msg", None) or type(error).__name__
        if where != "the file":
            at += f" at character {getattr(error, 'pos', 0) + 1}"
            raise InputError(f"{path}, {where}: not valid JSON ({at}); mend the line") from None
        line = getattr(error, "lineno", 1)
        raise InputError(f"{path}, line {line}: not valid JSON ({at}); mend the file") from None
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InputError(
                f"{path}, {where}: half a character (a lone surrogate such as \\ud83d); "
                "write whole characters"
            ) from None
    return value


def _kind(value: Any) -> str:
    names = {list: "a list", dict: "an object", str: "text", bool: "true or false"}
    return names.get(type(value), "null" if value is None else "a number")


def _csv(path: Path, text: str) -> Records:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, numbers = [], []
    try:
        header = next(reader, [])
        doubled = sorted({name for name in header if header.count(name) > 1})
        if doubled:
            raise InputError(
                f"{path}, line 1: column {doubled[0]!r} stands there twice; rename one"
            )
        if len(header) == 1 and ("\t" in header[0] or ";" in header[0]):
            raise InputError(
                f"{path}, line 1: one column, {header[0][:60]!r}; separate columns by commas"
            )
        for number, cells in enumerate(filter(None, reader), start=1):
            if len(cells) != len(header):
                raise InputError(
                    f"{path}, row {number}: {len(cells)} cells under {len(header)} columns; "
                    "put quotes around text with commas"
                )
            rows.append(dict(zip(header, cells, strict=True)))
            numbers.append(number)
    except csv.Error as error:
        raise InputError(
            f"{path}, line {reader.line_num}: no valid CSV ({error}); "
            "put quotes around text with commas or quotes"
        ) from None
    return Records(path, rows, numbers, "row", typed=False)


def _parquet(path: Path) -> Records:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        said = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path}: no whole Parquet file ({said}); write it or copy it again"
        ) from None
    return Records(path, rows, list(range(1, len(rows) + 1)), "row")
