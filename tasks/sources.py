"""Where question and tuning rows come from: the Hub, or local files put in its place.

Every data set has one name. ``rows(name)`` reads it from the Hub unless a data folder is given
(``--data-dir DIR`` or the environment variable MEDBENCH_DATA_DIR), in which case it reads
``DIR/<name>/``: the file called ``<split>.*`` if there is one, else the only data file there.
"""

from __future__ import annotations

import csv
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError

DATA_DIR = "MEDBENCH_DATA_DIR"
SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")

Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """One data set: its Hub address, and under which terms its rows may be used."""

    hub: str
    config: str | None
    split: str
    licence: str
    revision: str = "main"


SOURCES = {
    "medical_o1_en": Source(
        hub="FreedomIntelligence/medical-o1-reasoning-SFT",
        config="en",
        split="train",
        licence="Apache-2.0",
        revision="fc2c9e8a37b38f38da6d449564a8c350b244aef4",
    ),
    "medqa_us_4options": Source(
        hub="GBaker/MedQA-USMLE-4-options",
        config=None,
        split="test",
        licence="MIT (jind11/MedQA)",
        revision="0fb93dd23a7339b6dcd27e241cb9b5eca62d4d18",
    ),
}

TEST_ONLY = {name for name, source in SOURCES.items() if source.split == "test"}
"""Sources that are tests: no recipe may tune on them."""


def tunable() -> list[str]:
    """Sources that a recipe may name."""
    return [name for name in SOURCES if name not in TEST_ONLY]


def data_dir() -> Path | None:
    """The folder of local files, when the user gave one."""
    value = os.environ.get(DATA_DIR)
    return Path(value) if value else None


def rows(name: str) -> list[Row]:
    """All rows of the source called *name*, in file order.

    Raises:
        InputError: Unknown name, no local file where one was promised, or the Hub is out of reach.
    """
    source = SOURCES.get(name)
    if source is None:
        raise InputError(f"data source {name!r}: unknown; expected one of: {', '.join(SOURCES)}")
    local = local_file(name)
    return read_rows(local) if local else _from_hub(name, source)


def local_file(name: str) -> Path | None:
    """The local file that stands in for source *name*; None when the Hub is to be used.

    Raises:
        InputError: A data folder is given, but it holds no one file for *name*.
    """
    root = data_dir()
    if root is None:
        return None
    folder = root / name
    found = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES)
    named = [path for path in found if path.stem == SOURCES[name].split]
    chosen = named or found
    if len(chosen) != 1:
        seen = ", ".join(path.name for path in found) or "none"
        raise InputError(
            f"{folder}: expected one data file ({', '.join(SUFFIXES)}), or one called "
            f"{SOURCES[name].split}.*; found: {seen}. Put the file there or leave out --data-dir"
        )
    return chosen[0]


def read_rows(path: Path) -> list[Row]:
    """Rows of a JSON (list of objects), JSONL, CSV or Parquet file.

    Raises:
        InputError: The file cannot be read; the message names the file and the line or row.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix == ".parquet":
        import pandas as pd

        try:
            table = pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not readable as Parquet: {error}") from None
        return [{str(key): value for key, value in row.items()} for row in table.to_dict("records")]
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; convert it to UTF-8") from None
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


def _json(text: str, where: str, expected: type = dict) -> Any:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not valid JSON: {error.msg} (column {error.colno})") from None
    if not isinstance(value, expected):
        kind = "a list of objects" if expected is list else "an object"
        raise InputError(f"{where}: expected {kind}, found {type(value).__name__}")
    return value


def _from_hub(name: str, source: Source) -> list[Row]:
    from datasets import load_dataset

    try:
        found = load_dataset(
            source.hub,
            source.config,
            split=source.split,
            revision=source.revision,
        )
    except Exception as error:
        raise InputError(
            f"data source {name!r}: the Hub data set {source.hub} cannot be loaded "
            f"({type(error).__name__}: {error}). Check the network, or put a file at "
            f"DIR/{name}/ and pass --data-dir DIR"
        ) from error
    return [dict(row) for row in found]
