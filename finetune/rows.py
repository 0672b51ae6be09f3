"""Where a recipe's rows come from, and which of them may be tuned on."""

from __future__ import annotations

from itertools import compress
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..tasks.clinic import tuning_rows
from ..tasks.overlap import resembles
from ..tasks.sources import SOURCES, Row, read_rows
from ..tasks.sources import rows as source_rows
from ..tasks.splits import is_held_out
from .recipe import HUB, Data


def eligible(data: Data, seed: int) -> list[tuple[int, Row]]:
    """The rows that may be tuned on, each with its place in the source.

    Of a held-out question neither the row itself nor one that resembles it is among them. The two
    rows alone decide whether they do, so a data set that grows moves no other row across the line.

    Raises:
        InputError: The source cannot be read, or lacks a column that *data* names.
    """
    rows = _read(data, seed)
    numbered = list(enumerate(rows))
    if not data.hold_out:
        return numbered
    for number, row in numbered:
        if not isinstance(row.get(data.question), str):
            raise InputError(
                f"{data.source}, row {number}: no text in column {data.question!r}, by which "
                f"rows are held out; its columns are: {', '.join(map(str, row))}"
            )
    questions = [row[data.question] for row in rows]
    held_out = np.array([is_held_out(question) for question in questions], bool)
    left_out = resembles(questions, list(compress(questions, held_out))) | held_out
    return list(compress(numbered, ~left_out))


def _read(data: Data, seed: int) -> list[Row]:
    if data.source == "clinic":
        return [dict(row) for row in tuning_rows(seed)]
    if data.source in SOURCES:
        rows = source_rows(data.source)
    elif data.source.startswith(HUB):
        rows = _from_hub(data)
    elif Path(data.source).is_file():
        rows = read_rows(Path(data.source))
    else:
        raise InputError(
            f"recipe data.source {data.source!r}: no such file or source; expected a path, "
            f"hub:OWNER/NAME, or one of: clinic, {', '.join(SOURCES)}"
        )
    return [_renamed(row, data, number) for number, row in enumerate(rows)]


def _from_hub(data: Data) -> list[Row]:
    from datasets import load_dataset

    name = data.source.removeprefix(HUB)
    try:
        found = load_dataset(name, data.config, split=data.split or "train", revision=data.revision)
    except Exception as error:  # whatever the Hub's client raises
        raise InputError(
            f"recipe data.source {data.source!r}: the Hub data set cannot be loaded "
            f"({type(error).__name__}: {error}). Check name and network, or give a local file"
        ) from error
    return [dict(row) for row in found]


def _renamed(row: Row, data: Data, number: int) -> Row:
    if data.columns is None:
        return row
    for theirs in data.columns.values():
        if theirs not in row:
            raise InputError(
                f"{data.source}, row {number}: no column {theirs!r}, which data.columns names; "
                f"its columns are: {', '.join(map(str, row))}"
            )
    return row | {ours: row[theirs] for ours, theirs in data.columns.items()}
