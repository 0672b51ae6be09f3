"""Rows to tune on → prompt and completion texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from string import Formatter

from ..errors import InputError
from ..tasks.clinic import tuning_rows
from ..tasks.sources import SOURCES, Row, read_rows
from ..tasks.sources import rows as source_rows
from ..tasks.splits import is_held_out
from .recipe import Data, Recipe

Example = dict[str, str]


def examples(recipe: Recipe, seed: int) -> list[Example]:
    """``[{prompt, completion}, …]`` in the order the recipe's data has them.

    Raises:
        InputError: A row lacks a column that a template names, or no row is left.
    """
    rows = list(_select(recipe.data, _read(recipe.data.source, seed)))
    if not rows:
        raise InputError(
            f"recipe {recipe.name!r}: no row of {recipe.data.source!r} is left to tune on"
        )
    return [
        {
            "prompt": _fill(recipe, "prompt", row, number),
            "completion": _fill(recipe, "completion", row, number),
        }
        for number, row in enumerate(rows)
    ]


def fingerprint(found: list[Example]) -> str:
    """sha256 over all examples, in order."""
    return hashlib.sha256(json.dumps(found, ensure_ascii=False).encode("utf-8")).hexdigest()


def _read(source: str, seed: int) -> list[Row]:
    if source == "clinic":
        return [dict(row) for row in tuning_rows(seed)]
    if source in SOURCES:
        return source_rows(source)
    path = Path(source)
    if path.is_file():
        return read_rows(path)
    raise InputError(
        f"recipe data.source {source!r}: no such file or source; expected a path or one of: "
        f"clinic, {', '.join(SOURCES)}"
    )


def _select(data: Data, rows: list[Row]) -> Iterable[Row]:
    if data.hold_out:
        for number, row in enumerate(rows):
            if not isinstance(row.get(data.question), str):
                raise InputError(
                    f"{data.source}, row {number}: no text in column {data.question!r}, by which "
                    f"rows are held out; its columns are: {', '.join(row)}"
                )
        rows = [row for row in rows if not is_held_out(row[data.question])]
    return rows[: data.rows]


def _fill(recipe: Recipe, key: str, row: Row, number: int) -> str:
    template: str = getattr(recipe, key)
    for _, column, _, _ in Formatter().parse(template):
        if column is not None and not isinstance(row.get(column), str):
            raise InputError(
                f"{recipe.data.source}, row {number}: no text in column {column!r}, which the "
                f"{key} of recipe {recipe.name!r} names; its columns are: {', '.join(row)}"
            )
    return template.format_map(row)
