"""What lm-eval logs with ``--log_samples`` → the samples table (format of lm-eval 0.4.13).

One file a task, ``samples_<task>_<time>.jsonl``, one line a question and filter; numbers that
stand in lists are text there.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import InputError
from ..comparing.identity import UNKNOWN
from ..statistics.calibration import probabilities
from .files import Records, read_records
from .rows import frame

_KEYS = {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "doc_hash"}
_METRICS = ("acc", "exact_match", "bits_per_byte")
"""Metrics that count unless another is named, best first."""


def is_lm_eval(records: Records) -> bool:
    """Whether these are samples that lm-eval logged."""
    return set(records.rows[0]) >= _KEYS


def load_lm_eval_folder(folder: Path, columns: dict[str, str]) -> tuple[str, pd.DataFrame]:
    """The model's name and the samples of all tasks in an output folder of lm-eval.

    Raises:
        InputError: It holds no samples, those of several models, or a task twice.
    """
    logged = sorted(folder.rglob("samples_*.jsonl"))
    if not logged and any(folder.rglob("results_*.json")):
        raise InputError(
            f"{folder}: results of lm-eval without the answers to each question; "
            "run lm_eval again with --log_samples"
        )
    if not logged:
        raise InputError(
            f"{folder}: neither a run folder (manifest.json) nor lm-eval output "
            "(samples_*.jsonl); give a folder or file with predictions"
        )
    folders = sorted({path.parent for path in logged})
    if len(folders) > 1:
        raise InputError(
            f"{folder}: holds the samples of several models; name one of: "
            f"{', '.join(map(str, folders))}"
        )
    tasks: dict[str, Path] = {}
    for path in logged:
        other = tasks.setdefault(_task(path), path)
        if other != path:
            raise InputError(
                f"{folder}: task {_task(path)} stands there twice ({other.name}, {path.name}); "
                "give one of the files, or move one away"
            )
    if len(tasks) > 1 and columns.get("task", "").startswith("="):
        raise InputError(
            f"{folder}: holds {len(tasks)} tasks, which cannot all be "
            f"{columns['task'].removeprefix('=')!r}; give the file of one of them"
        )
    name = model_of(folders[0]) or folders[0].name
    tables = [load_lm_eval_file(_records(path), columns) for path in tasks.values()]
    return name, pd.concat(tables, ignore_index=True).assign(model=name)


def load_lm_eval_file(records: Records, columns: dict[str, str]) -> pd.DataFrame:
    """The samples of one task, without a model's name.

    Args:
        records: Lines of a samples file.
        columns: ``score`` may name the metric that counts, ``filter`` the filter, ``task`` the
            task as ``=NAME``. Others are for a plain file beside it and mean nothing here.

    Raises:
        InputError: A line is not lm-eval's, or metric or filter would have to be guessed.
    """
    named = columns.get("task", "")
    task = named.removeprefix("=") if named.startswith("=") else _task(records.path)
    for index, row in enumerate(records.rows):
        missing = sorted(_KEYS - set(row))
        if missing:
            records.refuse(index, f"{missing[0]} is missing; expected a line of lm-eval's samples")
    chosen = _filtered(records, columns.get("filter"))
    metric = _metric(records, columns.get("score"))
    rows = [_row(records, index, metric) | {"task": task} for index in chosen]
    table = frame({key: [row[key] for row in rows] for key in rows[0]})
    twice = table[table.duplicated(["doc_id", "order"])]
    if len(twice):
        at = chosen[int(twice.index[0])]
        records.refuse(at, f"doc_id {twice['doc_id'].iloc[0]} stands there twice; keep one of them")
    return table


def _records(path: Path) -> Records:
    records = read_records(path)
    if not is_lm_eval(records):
        missing = ", ".join(sorted(_KEYS - set(records.rows[0])))
        raise InputError(f"{path}, line 1: no samples of lm-eval, as {missing} is missing")
    return records


def _task(path: Path) -> str:
    """``samples_<task>_<time>.jsonl``; a file of another name is its own task."""
    name = path.stem.removeprefix("samples_")
    return name.rpartition("_")[0] or name if path.stem.startswith("samples_") else path.stem


def model_of(folder: Path) -> str | None:
    """The model's name in the results that lie in *folder*, if there are any."""
    for path in sorted(folder.glob("results_*.json")):
        try:
            found = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue  # the name is a convenience; the samples are read on their own
        if isinstance(found, dict) and isinstance(found.get("model_name"), str):
            return str(found["model_name"]) or None
    return None


def _filtered(records: Records, wanted: str | None) -> list[int]:
    """The rows of the filter that counts."""
    filters = list(dict.fromkeys(str(row["filter"]) for row in records.rows))
    if wanted is None and len(filters) > 1:
        raise InputError(
            f"{records.path}: answers under several filters ({', '.join(filters)}); name one with "
            f"--columns filter={filters[0]}"
        )
    if wanted is not None and wanted not in filters:
        raise InputError(f"{records.path}: no filter {wanted!r}; its filters: {', '.join(filters)}")
    return [
        index
        for index, row in enumerate(records.rows)
        if wanted is None or str(row["filter"]) == wanted
    ]


def _metric(records: Records, wanted: str | None) -> str:
    known = [str(name) for name in records.rows[0].get("metrics") or () if name in records.rows[0]]
    if wanted is not None:
        if wanted not in known:
            raise InputError(
                f"{records.path}: no metric {wanted!r}; its metrics: {', '.join(known)}"
            )
        return wanted
    for name in _METRICS:
        if name in known:
            return name
    raise InputError(
        f"{records.path}: none of its metrics is {', '.join(_METRICS)}; name the one that counts "
        f"with --columns score=METRIC (there are: {', '.join(known) or 'none'})"
    )


def _row(records: Records, index: int, metric: str) -> dict[str, Any]:
    sample = records.rows[index]
    doc = sample["doc"] if isinstance(sample["doc"], dict) else {}
    try:
        asked = [one["arg_0"] for one in sample["arguments"].values()]
        row = {
            "doc_id": int(sample["doc_id"]),
            "cluster": str(doc.get("cluster", sample["doc_hash"])),
            "order": int(doc.get("order", 0)),
            "doc_hash": str(sample["doc_hash"]),
            "prompt_hash": sample.get("prompt_hash"),
            "target_hash": sample.get("target_hash"),
            "protocol": UNKNOWN,
            "prompt": str(asked[0]),
            "subject": _text(doc.get("subject")),
            "question": _text(doc.get("question")) or str(asked[0]),
        }
        return row | _scored(sample, metric) | _answered(sample, metric)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        records.refuse(
            index,
            f"no line of lm-eval's samples ({type(error).__name__}: {' '.join(str(error).split())}"
            "); log them again with --log_samples",
        )


def _scored(sample: dict[str, Any], metric: str) -> dict[str, Any]:
    """The score of one question; see the table's ``score`` and ``weight``."""
    value = sample[metric]
    if metric == "bits_per_byte":
        log_likelihood, length = map(float, value)
        bits = -log_likelihood / math.log(2)
        if not math.isfinite(bits) or length <= 0:
            raise ValueError(f"bits_per_byte is {value}; expected a log-likelihood and a length")
        return {"metric": metric, "score": bits, "weight": length}
    if not isinstance(value, bool | int | float) or not 0 <= value <= 1:
        raise ValueError(f"{metric} is {value!r}; expected a number from 0 to 1")
    return {"metric": "acc", "score": float(value), "weight": 1.0}


def _answered(sample: dict[str, Any], metric: str) -> dict[str, Any]:
    """What was answered: the best option, or the text after lm-eval's filter."""
    answers, target = sample["filtered_resps"], str(sample["target"])
    blank = {"options": [], "option_scores": [], "confidence": math.nan, "problem": None}
    blank |= {"unparsed": False}
    if metric == "bits_per_byte":
        return blank | {"target": target, "prediction": None, "output": None}
    if isinstance(answers[0], list):
        return blank | {"target": target, "output": None} | _chosen(sample, target)
    output = sample["resps"][0]
    answer = str(answers[0])
    unread = answer in ("", "[invalid]")  # the latter is what lm-eval's regex filters leave
    return blank | {
        "target": target,
        "prediction": None if unread else answer,
        "output": str(output[0] if isinstance(output, list) else output),
        "unparsed": unread,
        "problem": "unstated" if unread else None,
    }


def _chosen(sample: dict[str, Any], target: str) -> dict[str, Any]:
    """The option that got the best log-likelihood, and all of them where the right one is known."""
    texts = [str(asked["arg_1"]).strip() for asked in sample["arguments"].values()]
    scores = [float(answer[0]) for answer in sample["filtered_resps"][: len(texts)]]
    if any(map(math.isnan, scores)):
        raise ValueError("a log-likelihood is NaN")
    best = max(range(len(scores)), key=scores.__getitem__)
    named = sample["doc"].get("options") if isinstance(sample["doc"], dict) else None
    if isinstance(named, list) and len(named) == len(texts) and all(map(_text, named)):
        texts = named  # letters were scored; the table has the options' texts
    # lm-eval writes the target as the option's index or as its text; options may be numbers too.
    by_index = texts[int(target)] if target.isdecimal() and int(target) < len(texts) else None
    found = {by_index, target if target in texts else None} - {None}
    if len(found) != 1 or len(texts) < 2:
        return {"prediction": texts[best]}
    return {
        "options": texts,
        "option_scores": scores,
        "target": found.pop(),
        "prediction": texts[best],
        "confidence": float(probabilities(scores)[best]),
    }


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None
