"""The run folder: where everything a run produced lies, and how it gets there.

Layout, columns and keys are documented in docs/reference/run-folder.md. Writes go to a temporary
name in the same folder, reach the disk and are renamed, so a killed process leaves the old file or
the new one.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError, StageError

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 2
"""Version of the run folder's layout that is written."""

READABLE = (1, 2)
"""Versions that are read; others are refused."""

MANIFEST = "manifest.json"
PREVIOUS = "parts/manifest.json"
"""The manifest before the last change, for the day the newest is damaged."""

UNWRITABLE = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO,
}  # fmt: skip
"""Why a file cannot be written through nobody's mistake but the disk's."""

_DRAFT = re.compile(r"\..+\.[a-z0-9_]{8}")
"""Names of the folders in which :func:`atomic_path` holds drafts."""


@contextlib.contextmanager
def atomic_path(path: Path, *, sync: bool = True) -> Iterator[Path]:
    """Yield a temporary sibling of *path*; rename it over *path* when the block succeeds.

    The block may make a file or a folder. Nothing is left behind when it raises. With *sync* it has
    reached the disk before it takes the place of what was there.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    holder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    draft = holder / path.name
    try:
        yield draft
        for file in draft.rglob("*") if draft.is_dir() else [draft]:
            if sync and file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
        if draft.exists() and path.is_dir() and not path.is_symlink():
            path.replace(holder / "before")  # removed with the holder
        draft.replace(path)
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def explain_unwritable(error: Exception, folder: Path) -> StageError | None:
    """*error* as one line with a remedy, where it means that *folder* could not be written to.

    Libraries in Rust tell the operating system's number in their message only.
    """
    told = re.search(r"os error (\d+)", str(error))
    number = int(told[1]) if told else getattr(error, "errno", None)
    if number not in UNWRITABLE:
        return None
    remedy = (
        "make it writable"
        if number in {errno.EROFS, errno.EACCES, errno.EPERM}
        else f"free space there ({shutil.disk_usage(folder).free / 2**20:.0f} MiB are free)"
    )
    place = getattr(error, "filename", None) or folder
    return StageError(f"{place}: cannot be written ({os.strerror(number)}); {remedy}")


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Say in one line why the Parquet file *path* cannot be read in the block.

    Raises:
        InputError: It is missing or damaged.
    """
    from pyarrow import ArrowException

    try:
        yield
    except FileNotFoundError:
        raise InputError(
            f"{path}: missing; finish the run with the command that started it"
        ) from None
    except (ArrowException, OSError) as error:
        raise InputError(
            f"{path}: damaged, not readable as Parquet ({_one_line(error)}); give the command "
            "that made this run again, and what is damaged is made anew"
        ) from None


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
            InputError: *path* holds no manifest, one of an unknown format version, or a link out
                of it.
        """
        run = cls(path)
        if not (run / "manifest.json").is_file():
            raise InputError(
                f"{path}: no manifest.json there, so it is no run folder; "
                "make one with `medbench run --out DIR`"
            )
        version = run.manifest().get("format")
        if version not in READABLE:
            raise InputError(
                f"{path}/manifest.json: format {version!r}, this medbench reads format "
                f"{' and '.join(map(str, READABLE))}; use the medbench version that wrote it, or "
                "run again with --fresh"
            )
        run.check_links()
        return run

    def check_links(self) -> None:
        """Refuse a folder in which a link leads out of it: nothing is read or written there.

        Raises:
            InputError: There is one.
        """
        whole = self.path.resolve()
        for folder, folders, files in os.walk(self.path):
            for path in (Path(folder, name) for name in (*folders, *files)):
                if path.is_symlink() and not path.resolve().is_relative_to(whole):
                    raise InputError(
                        f"{path}: a link out of the run folder, to {path.resolve()}; replace it by "
                        "what it points to, or remove it"
                    )

    def is_run(self) -> bool:
        """Whether the folder is medbench's, of whatever format: its manifest says so."""
        return self.last_manifest() is not None

    def last_manifest(self) -> dict[str, Any] | None:
        """The manifest; the one before its last change where it is damaged; None without one."""
        for name in (MANIFEST, PREVIOUS):
            try:
                found = json.loads((self / name).read_text("utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(found, dict) and {"format", "suite", "stages"} <= set(found):
                return found
        return None

    def manifest_damaged(self) -> bool:
        """Whether :meth:`last_manifest` is not the newest."""
        try:
            json.loads((self / MANIFEST).read_text("utf-8"))
        except ValueError:
            return True
        except FileNotFoundError:
            return (self / PREVIOUS).is_file()
        return False

    def sweep(self) -> None:
        """Remove the drafts that a killed process left behind."""
        for path in self.path.rglob(".*"):
            if path.is_dir() and not path.is_symlink() and _DRAFT.fullmatch(path.name):
                shutil.rmtree(path, ignore_errors=True)

    def clear(self, keep: str) -> None:
        """Remove everything but the file *keep*; links are removed, not followed."""
        for path in self.path.iterdir():
            if path.name == keep:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    def discard(self, relative: str | None) -> None:
        """Remove a folder that is not needed any more, if there is one."""
        if relative is not None and (self / relative).is_dir():
            shutil.rmtree(self / relative, ignore_errors=True)

    # -- writing ---------------------------------------------------------------------------------

    def write_bytes(self, relative: str, data: bytes) -> Path:
        path = self / relative
        with atomic_path(path) as draft:
            draft.write_bytes(data)
        return path

    def write_text(self, relative: str, text: str) -> Path:
        return self.write_bytes(relative, text.encode("utf-8"))

    def write_json(self, relative: str, value: Any) -> Path:
        return self.write_text(relative, as_json(value))

    def write_manifest(self, text: str, *, sync: bool = True) -> None:
        """Change the manifest; with *sync* what it was before is kept beside it."""
        path, previous = self / MANIFEST, self / PREVIOUS
        with atomic_path(path, sync=sync) as draft:
            draft.write_text(text, "utf-8")
            if sync and path.is_file():
                previous.parent.mkdir(exist_ok=True)
                previous.unlink(missing_ok=True)
                try:
                    previous.hardlink_to(path)
                except OSError:  # a file system without links
                    shutil.copyfile(path, previous)

    def write_table(self, relative: str, table: pd.DataFrame) -> Path:
        path = self / relative
        with atomic_path(path) as draft:
            table.to_parquet(draft, index=False)
        return path

    # -- reading ---------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        return self._read_json(MANIFEST)

    def results(self) -> dict[str, Any]:
        return self._read_json("results.json")

    def samples(self, leave_out: Collection[str] = ()) -> pd.DataFrame:
        """The samples table without the columns *leave_out*; what format 1 had not is filled in.

        Raises:
            InputError: It is missing or damaged.
        """
        from .samples import upgraded

        return upgraded(self.table("samples.parquet", leave_out))

    def timings(self) -> pd.DataFrame:
        return self.table("timings.parquet")

    def table(self, relative: str, leave_out: Collection[str] = ()) -> pd.DataFrame:
        """A Parquet file without the columns *leave_out*.

        Raises:
            InputError: It is missing or damaged.
        """
        import pandas as pd
        from pyarrow.parquet import read_schema

        path = self / relative
        with readable(path):
            names = read_schema(path).names if leave_out else []
            return pd.read_parquet(path, columns=[n for n in names if n not in leave_out] or None)

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
        except ValueError as error:
            raise InputError(
                f"{path}: damaged, not valid JSON ({error}); give the command that made this run "
                "again, and what is damaged is made anew"
            ) from None
        if not isinstance(value, dict):
            raise InputError(f"{path}: expected a JSON object; run again with --fresh")
        return value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def as_json(value: Any) -> str:
    """JSON with NaN and infinities as null, so that every parser reads it."""
    return json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """*value* with None for every number that JSON has no word for, and text for every key."""
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
