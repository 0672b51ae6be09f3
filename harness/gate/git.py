"""Files as other commits of the checkout around the current folder have them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from ...errors import InputError

_REF = re.compile(r"[^-\s:\x00-\x1f\x7f][^\s:\x00-\x1f\x7f]*")
"""No option, no path, no blank: what reaches git as one name of a commit."""


def file_at(ref: str, path: Path | str) -> bytes:
    """The content of a file in a commit.

    Args:
        ref: A branch, tag or commit, such as ``origin/main``.
        path: The file, relative to the current folder.

    Raises:
        InputError: *ref* cannot be a commit's name, there is no git or checkout, or no such commit
            or file in it.
    """
    if not _REF.fullmatch(ref):
        raise InputError(
            f"baseline {ref!r}: no name of a commit; expected a branch, tag or hash, "
            "such as origin/main"
        )
    relative = Path(os.path.relpath(path)).as_posix()
    if _git("rev-parse", "--is-inside-work-tree").returncode:
        raise InputError(
            f"baseline {ref!r}: {_last_line(_git('rev-parse', '--git-dir').stderr)}; "
            "run medbench inside the git checkout, or name a baseline file"
        )
    if _git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").returncode:
        raise InputError(
            f"baseline {ref!r}: no such file, run folder or commit here; make a file with "
            "`medbench baseline update RUN`, or for a commit fetch the history (in CI "
            "actions/checkout with `fetch-depth: 0`)"
        )
    found = _git("cat-file", "blob", f"{ref}:./{relative}")
    if found.returncode:
        raise InputError(
            f"baseline {ref!r}: {relative} is no file in that commit; commit one there with "
            f"`medbench baseline update RUN --out {relative}`"
        )
    return found.stdout


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    git = shutil.which("git")
    if git is None:
        raise InputError("git is not installed; name a baseline file instead of a commit")
    return subprocess.run([git, *arguments], capture_output=True, check=False)


def _last_line(stderr: bytes) -> str:
    lines = stderr.decode("utf-8", "replace").strip().splitlines()
    return lines[-1].removeprefix("fatal: ") if lines else "no git checkout"
