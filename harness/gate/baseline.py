"""Baseline files: the scores a model is held to, small enough to be kept in a repository.

The first line says whose scores they are; then one line a question and option order, sorted, in
JSON::

    {"medbench_baseline": 1, "model": "tuned", "suite": "quickstart", "created": "2026-03-04T…",
     "tasks": {"clinic_text": {"n": 256, "value": 0.9, "metric": "acc", "protocol": "…"}},
     "hardware": {"device": "cpu", …}, "latency": [{"format": "fp32", "ttft_ms_p50": 8.1, …}],
     "sha256": "…"}
    {"task": "clinic_text", "doc_id": 0, "order": 0, "score": 1, "weight": 1, "cluster": "0c1d…",
     "doc_hash": "…", "target_hash": "…", "prompt_hash": "…"}

No question, answer or output stands in it. The same run gives the same bytes, and a question whose
score changed is one changed line, so a new baseline can be reviewed in a pull request. ``n`` counts
the lines of a task, ``value`` is Σ score / Σ weight, ``sha256`` is that of all lines but the first
and is there against bad merges. Scores are exact: rounded ones would differ from the run they
came from, all in one direction.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from ...errors import InputError
from ..environment import timed_on
from ..folder.store import RunFolder, atomic_path
from . import git

if TYPE_CHECKING:
    import pandas as pd

VERSION = 1
"""Version of the file's format; a reader refuses a version it does not know."""

FILE = "medbench-baseline.jsonl"
"""Where a baseline lies unless another name is given."""

HARDWARE = ("device", "processor", "cores", "memory_bytes", "gpus")
"""Keys of a manifest's environment that say on what latency was measured."""

_QUESTION = {
    "task": str,
    "doc_id": (int, str, type(None)),
    "order": int,
    "score": (int, float),
    "weight": (int, float),
    "cluster": str,
    "doc_hash": str,
    "target_hash": (str, type(None)),
    "prompt_hash": (str, type(None)),
}
"""Keys of a question's line, in order, and what they hold."""


@dataclass(frozen=True)
class BaselineInfo:
    """Whose scores a baseline file holds.

    Attributes:
        model: The model's name in its suite.
        suite: The suite's name; None where the scores were made elsewhere.
        created: When the run began, UTC, ISO 8601; not when the file was written.
        hardware: :data:`HARDWARE` of the run's environment; empty where it is not known.
        latency: The model's rows of ``latency`` in results.json.
    """

    model: str
    suite: str | None = None
    created: str | None = None
    hardware: dict[str, Any] = field(default_factory=dict)
    latency: list[dict[str, Any]] = field(default_factory=list)


def info_of_run(run: RunFolder, model: str) -> BaselineInfo:
    """What a baseline says of *model* in *run*."""
    manifest, results = run.manifest(), run.results()
    environment = timed_on(manifest)
    return BaselineInfo(
        model=model,
        suite=manifest["suite"]["name"],
        created=manifest["created"],
        hardware={key: environment[key] for key in HARDWARE if key in environment},
        latency=[row for row in results["latency"] if row["model"] == model],
    )


def write(samples: pd.DataFrame, info: BaselineInfo, path: Path) -> None:
    """Write the scores of one model, replacing what *path* holds.

    Args:
        samples: Samples of one model on any number of tasks, a row per question and order.
        info: Whose they are.
        path: The file.

    Raises:
        InputError: There is no sample, or one without a finite score.
    """
    if samples.empty:
        raise InputError(f"{info.model}: no sample to make a baseline of; score the model first")
    body = "".join(_line(row) + "\n" for row in _questions(samples, info.model))
    header = {
        "medbench_baseline": VERSION,
        "model": info.model,
        "suite": info.suite,
        "created": info.created,
        "tasks": tasks(samples),
        "hardware": info.hardware,
        "latency": info.latency,
        "sha256": hashlib.sha256(body.encode()).hexdigest(),
    }
    with atomic_path(path) as draft:
        draft.write_text(f"{_line(header)}\n{body}", "utf-8", newline="\n")


def tasks(samples: pd.DataFrame) -> dict[str, dict[str, Any]]:
    """``{task: {n, value, metric, protocol}}`` of one model's samples, as the header has it."""
    return {
        str(task): {
            "n": len(table),
            "value": float(table["score"].sum() / table["weight"].sum()),
            "metric": str(table["metric"].iloc[0]),
            "protocol": str(table["protocol"].iloc[0]),
        }
        for task, table in samples.groupby("task", sort=True)
    }


def is_baseline(path: Path) -> bool:
    """Whether *path* is a file that begins as a baseline of whatever version."""
    try:
        with path.open("rb") as file:
            return file.read(64).removeprefix(b"\xef\xbb\xbf").startswith(b'{"medbench_baseline"')
    except OSError:
        return False


def read(path: Path) -> tuple[BaselineInfo, pd.DataFrame]:
    """The scores in a baseline file, as a samples table.

    The table has the columns of samples.parquet (docs/reference/run-folder.md) that say which
    question was asked and how it was scored. What the file does not know is None (the texts) or
    NaN (``unparsed``, ``truncated`` and ``cut`` among others).

    Raises:
        InputError: The file is missing, no baseline, of another version, or not as it was written.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); "
            f"make a baseline with `medbench baseline update RUN --out {path}`"
        ) from None
    return parse(data, str(path))


def read_at_ref(ref: str, path: Path | str = FILE) -> tuple[BaselineInfo, pd.DataFrame]:
    """The same for the file as it stands in another commit of this git checkout.

    Args:
        ref: A branch, tag or commit, such as ``origin/main``.
        path: The file, relative to the current folder.

    Raises:
        InputError: What :func:`.git.file_at` or :func:`read` raises.
    """
    return parse(git.file_at(ref, path), f"{ref}:{path}")


def parse(data: bytes, name: str) -> tuple[BaselineInfo, pd.DataFrame]:
    """The content of a baseline file; *name* is what errors call it. See :func:`read`."""
    import pandas as pd

    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        _refuse(name, f"not UTF-8 ({error.reason} at byte {error.start})")
    header = _header(lines[0] if lines else "", name)
    rows = [_question(line, number, name) for number, line in enumerate(lines[1:], start=2)]
    promised = header["tasks"]
    counts = dict.fromkeys(promised, 0)
    for number, row in enumerate(rows, start=2):
        if row["task"] not in counts:
            _refuse(name, f"line {number}: task {row['task']!r} is not in the first line")
        counts[row["task"]] += 1
    for task, count in counts.items():
        if count != promised[task]["n"]:
            _refuse(name, f"{count} lines of {task}, {promised[task]['n']} expected")
    body = "".join(f"{line}\n" for line in lines[1:])
    if hashlib.sha256(body.encode()).hexdigest() != header["sha256"]:
        _refuse(name, "its lines are not those that medbench wrote (sha256 differs)")
    info = BaselineInfo(**{key: header[key] for key in BaselineInfo.__dataclass_fields__})
    table = pd.DataFrame(rows, columns=list(_QUESTION))
    for key in ("metric", "protocol"):
        table[key] = table["task"].map({task: of[key] for task, of in promised.items()})
    unknown = ("question", "prompt", "target", "prediction", "output", "subject", "problem")
    for key in ("options", "option_scores"):
        table[key] = pd.Series([[] for _ in rows], dtype=object)
    return info, table.assign(
        model=info.model,
        score=table["score"].astype(float),
        weight=table["weight"].astype(float),
        **dict.fromkeys(unknown),
        **dict.fromkeys(("confidence", "output_tokens", "unparsed", "truncated", "cut"), math.nan),
    )


def _questions(samples: pd.DataFrame, model: str) -> list[dict[str, Any]]:
    """The lines, sorted by task, question and order."""
    rows = []
    for row in samples.reindex(columns=list(_QUESTION)).to_dict("records"):
        for key in ("score", "weight"):
            if not math.isfinite(row[key]):
                raise InputError(
                    f"{model}: task {row['task']}, question {row['doc_id']}: {key} is {row[key]}; "
                    "a baseline needs a finite one for every question"
                )
            row[key] = int(row[key]) if row[key] == int(row[key]) else float(row[key])
        # The name of a cluster may be anything, a patient's or a question among others.
        row["cluster"] = hashlib.sha256(str(row["cluster"]).encode()).hexdigest()[:12]
        row["order"] = int(row["order"])
        for key in ("doc_id", "target_hash", "prompt_hash"):
            known = row[key] if row[key] == row[key] else None  # NaN is unknown
            row[key] = int(known) if isinstance(known, float) else known
        rows.append({key: row[key] for key in _QUESTION})
    return sorted(rows, key=_position)


def _position(row: dict[str, Any]) -> tuple[Any, ...]:
    number = row["doc_id"] if isinstance(row["doc_id"], int) else -1
    return row["task"], number, str(row["doc_id"]), row["order"], row["doc_hash"]


def _line(value: dict[str, Any]) -> str:
    return json.dumps(value, allow_nan=False)


def _header(line: str, name: str) -> dict[str, Any]:
    header = _object(line, 1, name)
    version = header.get("medbench_baseline")
    if version is None:
        raise InputError(
            f'{name}: no baseline of medbench (its first line has no "medbench_baseline"); '
            "make one with `medbench baseline update RUN`"
        )
    if version != VERSION:
        raise InputError(
            f"{name}: baseline format {version!r}, this medbench reads format {VERSION}; "
            "make it again with `medbench baseline update RUN`"
        )
    expected = {key: (str, type(None)) for key in ("suite", "created")} | {
        "model": str,
        "tasks": dict,
        "hardware": dict,
        "latency": list,
        "sha256": str,
    }
    _check(header, expected, 1, name)
    for task, of in header["tasks"].items():
        if not isinstance(of, dict):
            _refuse(name, f"line 1: tasks.{task} must be an object")
        _check(of, {"n": int, "metric": str, "protocol": str}, 1, name)
    return header


def _question(line: str, number: int, name: str) -> dict[str, Any]:
    row = _object(line, number, name)
    _check(row, _QUESTION, number, name)
    return row


def _object(line: str, number: int, name: str) -> dict[str, Any]:
    try:
        value = json.loads(line, parse_constant=_no_constant)
    except ValueError as error:
        _refuse(name, f"line {number}: not valid JSON ({error})")
    if not isinstance(value, dict):
        _refuse(name, f"line {number}: expected a JSON object")
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def _check(row: dict[str, Any], expected: dict[str, Any], number: int, name: str) -> None:
    for key, kind in expected.items():
        if key not in row:
            _refuse(name, f"line {number}: {key} is missing")
        if not isinstance(row[key], kind) or isinstance(row[key], bool):
            _refuse(name, f"line {number}: {key} is {row[key]!r}, which is of a wrong type")


def _refuse(name: str, problem: str) -> NoReturn:
    raise InputError(
        f"{name}: {problem}; the file was edited, merged or cut: "
        "write it again with `medbench baseline update RUN`"
    )
