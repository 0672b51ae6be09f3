"""The run folder: where everything a run produced lies, and how it gets there.

Layout, columns and keys are documented in docs/reference/run-folder.md. Writes go to a temporary
name in the same folder and are renamed, so a killed process leaves the old file or the new one.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1
"""Version of the run folder's layout; a reader refuses a version it does not know."""

_DRAFT = re.compile(r"\..+\.[a-z0-9_]{8}")
"""Names of the folders in which :func:`atomic_path` holds drafts."""


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary sibling of *path*; rename it over *path* when the block succeeds.

    The block may make a file or a folder. Nothing is left behind when it raises.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    draft = holder / path.name
    try:
        yield draft
        if draft.is_file():
            with draft.open("rb") as file:
                os.fsync(file.fileno())
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        draft.replace(path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


class RunFolder:
    """One run on disk. Reading methods never change it.

    Args:
        path: The folder; it need not exist until something is written.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __truediv__(self, relative: str) -> Path:
        return self.path / relative

    @classmethod
    def open(cls, path: Path | str) -> RunFolder:
        """An existing run folder.

        Raises:
            InputError: *path* holds no manifest, or one of another format version.
        """
        run = cls(path)
        if not (run / "manifest.json").is_file():
            raise InputError(
                f"{path}: no manifest.json there, so it is no run folder; "
                "make one with `medbench run --out DIR`"
            )
        version = run.manifest().get("format")
        if version != FORMAT:
            raise InputError(
                f"{path}/manifest.json: format {version!r}, this medbench reads format {FORMAT}; "
                "use the medbench version that wrote it, or run again with --fresh"
            )
        return run

    def is_run(self) -> bool:
        """Whether the folder is medbench's, of whatever format: its manifest says so."""
        try:
            manifest = json.loads((self / "manifest.json").read_text("utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(manifest, dict) and {"format", "suite", "stages"} <= set(manifest)

    def sweep(self) -> None:
        """Remove the drafts that a killed process left behind."""
        for path in self.path.rglob(".*"):
            if path.is_dir() and _DRAFT.fullmatch(path.name):
                shutil.rmtree(path)

    # -- writing ---------------------------------------------------------------------------------

    def write_bytes(self, relative: str, data: bytes) -> Path:
        path = self / relative
        with atomic_path(path) as draft:
            draft.write_bytes(data)
        return path

    def write_text(self, relative: str, text: str) -> Path:
        return self.write_bytes(relative, text.encode("utf-8"))

    def write_json(self, relative: str, value: Any) -> Path:
        """JSON with NaN and infinities as null, so that every parser reads it."""
        text = json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False)
        return self.write_text(relative, text + "\n")

    def write_table(self, relative: str, table: pd.DataFrame) -> Path:
        path = self / relative
        with atomic_path(path) as draft:
            table.to_parquet(draft, index=False)
        return path

    # -- reading ---------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        return self._read_json("manifest.json")

    def results(self) -> dict[str, Any]:
        return self._read_json("results.json")

    def samples(self) -> pd.DataFrame:
        return self.table("samples.parquet")

    def timings(self) -> pd.DataFrame:
        return self.table("timings.parquet")

    def table(self, relative: str) -> pd.DataFrame:
        import pandas as pd

        return pd.read_parquet(self / relative)

    def losses(self, model: str) -> pd.DataFrame | None:
        """The training log of *model* (step, loss, …), or None when it was not tuned here."""
        import pandas as pd

        path = self / f"adapters/{model}/losses.csv"
        return pd.read_csv(path) if path.is_file() else None

    def _read_json(self, relative: str) -> dict[str, Any]:
        path = self / relative
        try:
            value = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise InputError(
                f"{path}: missing; finish the run with the command that started it"
            ) from None
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: not valid JSON ({error}); run again with --fresh") from None
        if not isinstance(value, dict):
            raise InputError(f"{path}: expected a JSON object; run again with --fresh")
        return value


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
