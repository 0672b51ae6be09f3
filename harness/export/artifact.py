"""A finished export on disk: known by what it was made of, and whole or not there.

``export.json`` is written last. It holds the key, a hash of everything the graph depends on, and
the size of every file, so that a folder that was cut off, or changed since, is never taken for an
export.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..folder import fingerprint
from ..folder.store import atomic_path

RECORD = "export.json"
FORMAT = 1
"""Version of export.json and of how graphs are made; another one is never reused."""
_NOT_THE_MODEL = ("README.md", "medbench-merge.json", RECORD, ".gitattributes")


@dataclass(frozen=True)
class Artifact:
    """One finished export.

    Attributes:
        path: Folder with ``model.onnx``, its data, ``genai_config.json`` and the tokenizer.
        key: sha256 of the checkpoint's files, the precision, the provider and what made it.
        precision: Of the weights: fp32, fp16, bf16, int8 or int4.
        provider: cpu or cuda.
        seconds: Wall time of building, loading and the first steps; of whoever made it.
        bytes: Size on disk, this record aside.
        builder: Distribution and version of what made it: the Model Builder, or torch.onnx.
        max_positions: Longest context, prompt and output together.
        builder_bytes: Peak resident memory of the builder; None where it is not known.
        estimate: What was expected before: ``disk``, ``memory`` (bytes) and ``seconds``.
        reused: Whether it was there already.
        cache: ``shared`` where it grows in place; ``concatenated`` where every step hands on a
            longer one, which takes longer.
    """

    path: Path
    key: str
    precision: str
    provider: str
    seconds: float
    bytes: int
    builder: str
    max_positions: int
    builder_bytes: int | None = None
    estimate: dict[str, float] = field(default_factory=dict)
    reused: bool = False
    cache: str = "shared"


def key_of(model_dir: Path, recipe: dict[str, Any]) -> str:
    """sha256 of the checkpoint's files by name and content, and of how it is exported."""
    files = {}
    for path in sorted(model_dir.iterdir()):
        if path.is_file() and path.name not in _NOT_THE_MODEL:
            about = path.stat()
            files[path.name] = _digest(path, about.st_size, about.st_mtime_ns)
    return fingerprint.of([FORMAT, files, recipe])


def seal(folder: Path, **known: Any) -> None:
    """Write the record of a finished *folder*, after its files have reached the disk."""
    sizes = {}
    for path in _files(folder):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
    record = {"format": FORMAT, **known, "bytes": sum(sizes.values()), "files": sizes}
    draft = folder / f"{RECORD}.draft"
    draft.write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    draft.replace(folder / RECORD)


def read(folder: Path) -> Artifact | None:
    """The export in *folder*; None where none is, or not all of one."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        sizes = {
            path.relative_to(folder).as_posix(): path.stat().st_size for path in _files(folder)
        }
        if record.pop("format") != FORMAT or record.pop("files") != sizes:
            return None
        return Artifact(path=folder, **record)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def find(root: Path, key: str) -> Artifact | None:
    """An export with this *key* in one of the folders of *root*."""
    for record in sorted(root.glob(f"*/{RECORD}")):
        found = read(record.parent)
        if found and found.key == key:
            return found
    return None


def place(found: Artifact, out: Path) -> None:
    """Put an export at *out* as well: by hard links, or copies on another file system."""
    with atomic_path(out) as draft:
        shutil.copytree(found.path, draft, copy_function=_link)


def as_detail(artifact: Artifact) -> dict[str, Any]:
    """What a manifest keeps of an export."""
    return {name: value for name, value in asdict(artifact).items() if name != "path"}


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    """sha256 of a file; of one size and time it is read once, though exported to many formats."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(RECORD))


def _link(source: str, target: str) -> None:
    with contextlib.suppress(OSError):
        os.link(source, target)
        return
    shutil.copy2(source, target)
