"""Whether what a stage left is still what it left."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .fingerprint import WHOLE


def checksums(root: Path, outputs: Iterable[str]) -> dict[str, dict[str, Any]]:
    """``{file: {sha256, bytes, modified}}`` of every file in *outputs*, relative to *root*.

    Args:
        root: The run folder.
        outputs: Files and folders in it; ``modified`` is in nanoseconds since 1970.
    """
    found = {}
    for output in outputs:
        path = root / output
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            about = file.stat()
            found[str(file.relative_to(root))] = {
                "sha256": _sha256(file),
                "bytes": about.st_size,
                "modified": about.st_mtime_ns,
            }
    return found


def damage(root: Path, known: dict[str, dict[str, Any]]) -> str | None:
    """What is wrong with the files that *known* (:func:`checksums`) tells of; None when nothing is.

    Files that were added since do not matter. A file above :data:`WHOLE` whose size and time are
    the same is taken to be whole: reading tens of gigabytes again would delay every resumed run.
    """
    for name, was in known.items():
        path = root / name
        if not path.is_file():
            return f"{name} is missing"
        about = path.stat()
        if about.st_size != was["bytes"]:
            return f"{name} has {about.st_size} bytes instead of {was['bytes']}"
        if about.st_size > WHOLE and about.st_mtime_ns == was["modified"]:
            continue
        if _sha256(path) != was["sha256"]:
            return f"{name} has another sha256 than when it was written"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
