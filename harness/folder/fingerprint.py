"""What a stage depends on, as one hash: it is run again when and only when the hash changes."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

WHOLE = 64 * 2**20
"""Files up to this many bytes are always read; larger ones are known by name, size and time."""


def of(value: Any) -> str:
    """sha256 of a JSON-like value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def of_path(path: Path) -> str:
    """sha256 of a file, or of a folder's files with their names; empty when nothing is there."""
    if path.is_dir():
        files = sorted(item for item in path.rglob("*") if item.is_file())
        return of({str(item.relative_to(path)): of_path(item) for item in files})
    if not path.is_file():
        return ""
    about = path.stat()
    if about.st_size > WHOLE:
        return of([path.name, about.st_size, about.st_mtime_ns])
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def of_code(package: str) -> str:
    """sha256 of the sources of one of medbench's own packages, e.g. ``tasks``."""
    root = Path(__file__).parents[2] / package
    files = sorted(item for item in root.rglob("*") if item.suffix in {".py", ".yaml"})
    return of({str(item.relative_to(root)): of_path(item) for item in files})
