"""Where question and tuning rows come from: the Hub, or local files put in its place.

Every data set has one name. ``rows(name)`` reads it from the Hub unless a data folder is given
(``--data-dir DIR`` or the environment variable MEDBENCH_DATA_DIR), in which case it reads
``DIR/<folder>/``, for the first of the source's folders that is there: the file called
``<split>.*`` if there is one, else the only data file. Rows come in the Hub's columns either way.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .files import SUFFIXES as SUFFIXES
from .files import Row as Row
from .files import read_rows as read_rows
from .files import sha256
from .published import MMLU as MMLU
from .published import SOURCES as SOURCES
from .published import Local
from .published import Source as Source

DATA_DIR = "MEDBENCH_DATA_DIR"


TEST_ONLY = {name for name, source in SOURCES.items() if not source.tunable}
"""Sources that are tests: no recipe may tune on them."""


@dataclass(frozen=True)
class Table:
    """The rows of one source, and where they were read, for messages."""

    rows: list[Row]
    where: str


def tunable() -> list[str]:
    """Sources that a recipe may name."""
    return [name for name in SOURCES if name not in TEST_ONLY]


def named(source: str, config: str | None = None) -> set[str]:
    """The data sets that a recipe calls *source*: by name, or as ``hub:OWNER/NAME``.

    Where no known data set of that address has the *config*, it may be any of them.
    """
    alike = {name for name, one in SOURCES.items() if source in (name, f"hub:{one.hub}")}
    return {name for name in alike if SOURCES[name].config == config} or alike


def which_test(source: str, config: str | None = None, split: str | None = None) -> str | None:
    """The test set whose test rows a recipe's *source* is; None for any other.

    Args:
        split: Of a ``hub:`` source; ``train`` when None.
    """
    if source in TEST_ONLY:
        return source
    rows = {part.partition("[")[0] for part in (split or "train").split("+")}
    found = sorted(named(source, config) & TEST_ONLY)
    return next((name for name in found if SOURCES[name].split in rows), None)


def share_questions(one: Collection[str], data: str) -> bool:
    """Whether any of the data sets *one* has questions of data set *data*, in whatever columns."""
    origins = {SOURCES[name].origin or name for name in one}
    return data in SOURCES and (SOURCES[data].origin or data) in origins


def data_dir() -> Path | None:
    """The folder of local files, when the user gave one."""
    value = os.environ.get(DATA_DIR)
    return Path(value) if value else None


def rows(name: str) -> list[Row]:
    """All rows of the source called *name*, in file order.

    Raises:
        InputError: Unknown name, no local file where one was promised, or the Hub is out of reach.
    """
    return table(name).rows


def table(name: str) -> Table:
    """All rows of the source called *name*, and where they come from.

    Raises:
        InputError: As for ``rows``.
    """
    source = _source(name)
    found = _local(name)
    if found:
        place, path = found
        return Table(place.read(path), str(path))
    return Table(_from_hub(name, source, source.split), f"{source.hub} ({source.split})")


def shots(name: str, count: int) -> Table:
    """The rows that few-shot examples are taken from: the first of a split that is not the test.

    From the Hub come as many as *count* and some to spare, from a local file all.

    Raises:
        InputError: The source has no such split, or its file is not there.
    """
    source = _source(name)
    if source.shots is None:
        raise InputError(f"data source {name!r}: has no split for few-shot examples; ask 0-shot")
    if data_dir() is None:
        split = f"{source.shots}[:{4 * count}]"
        return Table(_from_hub(name, source, split), f"{source.hub} ({source.shots})")
    place, path = _local(name) or _missing(name)
    stem = place.shots or source.shots
    for file in (path.parent / f"{stem}{suffix}" for suffix in SUFFIXES):
        if file.is_file():
            return Table((place.read_shots or place.read)(file), str(file))
    raise InputError(
        f"{path.parent}: no few-shot examples of {name}: expected {stem}.* beside the test file "
        f"({', '.join(SUFFIXES)}); put it there or ask 0-shot"
    )


def local_file(name: str) -> Path | None:
    """The local file that stands in for source *name*; None when the Hub is to be used.

    Raises:
        InputError: A data folder is given, but it holds no one file for *name*.
    """
    found = _local(name)
    return found[1] if found else None


def local_files(name: str) -> list[Path]:
    """Every local file that the rows of source *name* depend on."""
    path = local_file(name)
    if path is None:
        return []
    beside = path.parent / "test_ground_truth.json"
    return [path, beside] if path.stem == "ori_pqal" and beside.is_file() else [path]


def provenance(name: str) -> dict[str, Any]:
    """Exactly which data *name* is: Hub commit or file hashes, and the number of rows.

    Args:
        name: A data source, ``clinic``, or the path of a file.

    Returns:
        ``{source, hub, revision, files: {name: sha256}, rows}``; ``revision`` is the commit that
        the pinned name stands for, None with local files. The clinic is made by the package.

    Raises:
        InputError: As for ``rows``.
    """
    if name == "clinic":
        return {"source": name, "hub": None, "revision": None, "files": {}, "rows": None}
    path = Path(name)
    if name not in SOURCES and path.suffix in SUFFIXES:
        count, files = len(read_rows(path)), {path.name: sha256(path)}
        return {"source": path.name, "hub": None, "revision": None, "files": files, "rows": count}
    source, here = _source(name), local_file(name) is not None
    return {
        "source": name,
        "hub": None if here else source.hub,
        "revision": None if here else _commit(source),
        "files": {one.name: sha256(one) for one in local_files(name)},
        "rows": len(rows(name)),
    }


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise InputError(f"data source {name!r}: unknown; expected one of: {', '.join(SOURCES)}")
    return SOURCES[name]


def _local(name: str) -> tuple[Local, Path] | None:
    root = data_dir()
    if root is None:
        return None
    places = SOURCES[name].local or (Local(name),)
    place = next((one for one in places if (root / one.folder).is_dir()), places[0])
    return place, _one_file(root / place.folder, place.file or SOURCES[name].split, place.file)


def _one_file(folder: Path, stem: str, exact: str | None) -> Path:
    found = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES)
    named = [path for path in found if path.stem == stem]
    chosen = named if named or exact else found
    if len(chosen) != 1:
        seen = ", ".join(path.name for path in found) or "none"
        raise InputError(
            f"{folder}: expected one data file ({', '.join(SUFFIXES)}), or one called "
            f"{stem}.*; found: {seen}. Put the file there or leave out --data-dir"
        )
    return chosen[0]


def _missing(name: str) -> tuple[Local, Path]:
    raise InputError(f"data source {name!r}: no local file")


def _commit(source: Source) -> str:
    if len(source.revision) == 40:
        return source.revision
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return str(HfApi().dataset_info(source.hub, revision=source.revision).sha)
    except (HfHubHTTPError, OSError):
        return source.revision


def _from_hub(name: str, source: Source, split: str) -> list[Row]:
    if source.hub is None:
        raise InputError(
            f"data source {name!r}: no Hub copy is known; put its file at DIR/{name}/ and pass "
            "--data-dir DIR"
        )
    from datasets import load_dataset

    try:
        found = load_dataset(source.hub, source.config, split=split, revision=source.revision)
    except Exception as error:
        raise InputError(
            f"data source {name!r}: the Hub data set {source.hub} cannot be loaded "
            f"({type(error).__name__}: {error}). Check the network, or put a file at "
            f"DIR/{name}/ and pass --data-dir DIR"
        ) from error
    return [dict(row) for row in found]
