"""Latency of any folder with a model in it: exported where it must be, measured, and kept."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InputError
from ...tasks.clinic import choice_docs
from ...tasks.files import read_rows
from ..attempt import Watcher
from ..environment import environment
from ..export import PAIRS, as_detail, export_onnx
from ..export.artifact import RECORD
from ..folder.store import RunFolder
from . import machine
from .measure import measure
from .settings import LatencyJob, LatencySettings
from .statistics import against, summarise

FORMAT = 1
"""Version of latency.json."""
RESULT = "latency.json"


@dataclass(frozen=True)
class Asked:
    """What is to be measured.

    Attributes:
        folder: A transformers checkpoint with its tokenizer, or a Model Builder export.
        name: What tables call it.
        out: Where timings.parquet, latency.json and new exports go.
        device: ``cpu`` or ``cuda``.
        formats: ONNX formats to export, ``auto`` and ``all`` resolved; of an export it is its own.
        prompts: A file of prompts; questions of the embedded fictional clinic when None.
        settings: The protocol.
        trust_remote_code: Run model code that the checkpoint ships.
    """

    folder: Path
    name: str
    out: Path
    device: str
    formats: tuple[str, ...]
    prompts: Path | None
    settings: LatencySettings
    trust_remote_code: bool = False


def formats_of(chosen: str, device: str) -> tuple[str, ...]:
    """Comma-separated formats with ``auto`` and ``all`` resolved.

    Raises:
        InputError: One of them does not run on *device*.
    """
    every = PAIRS[device]
    meant = {"auto": every[:1], "all": every}
    found = [one for name in chosen.split(",") for one in meant.get(name, (name,))]
    for name in found:
        if name not in every:
            raise InputError(
                f"--formats {chosen}: {name!r} does not run on {device}; expected some of: auto, "
                f"all, {', '.join(every)}"
            )
    return tuple(dict.fromkeys(found))


def check(asked: Asked) -> Asked:
    """*asked* with what its folder leaves no choice about.

    Raises:
        InputError: The folder holds no model, *out* something else, there are no prompts, or the
            settings ask for what this machine has not.
    """
    folder, out = asked.folder, asked.out
    machine.check_settings(asked.settings, asked.device)
    read_prompts(asked.prompts)
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / RESULT).is_file())):
        raise InputError(
            f"--out {out}: holds something that `medbench latency` did not write; choose another "
            "name"
        )
    if (folder / "genai_config.json").is_file():
        settings = asked.settings.model_copy(update={"engines": ["onnxruntime"]})
        return dataclasses.replace(
            asked, formats=(_format(folder, asked.device),), settings=settings
        )
    if not (folder / "config.json").is_file():
        raise InputError(
            f"{folder}: neither config.json nor genai_config.json there; expected the folder of a "
            "transformers checkpoint, or one that the ONNX Model Builder wrote"
        )
    return asked


def run(asked: Asked, watcher: Watcher) -> dict[str, Any]:
    """Export, measure, and write *asked.out*; returns what latency.json holds.

    Raises:
        MedbenchError: Something given is wrong, or a stage failed.
    """
    name, out = asked.name, RunFolder(asked.out)
    out.write_json(RESULT, {"format": FORMAT, "status": "running"})  # the folder is ours from now
    prompts = read_prompts(asked.prompts)
    exports: dict[str, Path] = {}
    details: dict[str, Any] = {}
    if (asked.folder / "genai_config.json").is_file():
        exports = {asked.formats[0]: asked.folder}
    elif "onnxruntime" in asked.settings.engines:
        out.sweep()
        for kind in asked.formats:
            watcher.begin(f"export/{kind}")
            made = export_onnx(
                asked.folder,
                out / f"exports/{name}-{kind}",
                precision=kind,
                provider=asked.device,
                trust_remote_code=asked.trust_remote_code,
            )
            exports[kind], details[kind] = made.path, as_detail(made)
    job = LatencyJob(
        model=name,
        model_dir=asked.folder,
        onnx=exports,
        prompts=prompts,
        settings=asked.settings,
        device=asked.device,
        trust_remote_code=asked.trust_remote_code,
    )
    timings = measure(job, watcher.begin("latency"))
    result = {
        "format": FORMAT,
        "status": "done",
        "model": name,
        "settings": asked.settings.model_dump(),
        "environment": environment() | {"device": asked.device},
        "exports": details,
        **{str(key): value for key, value in timings.attrs.items()},
        "latency": summarise(timings),
    }
    timings.attrs = {}
    out.write_table("timings.parquet", timings)
    out.write_json(RESULT, result)
    return result


def compared(out: Path, before: Path) -> list[dict[str, Any]]:
    """The series of two folders with timings.parquet: how much slower *out* is.

    Raises:
        InputError: One has no timings, or they were measured on unlike hardware.
    """
    import pandas as pd

    tables = []
    for folder in (out, before):
        path = folder / "timings.parquet"
        if not path.is_file():
            raise InputError(
                f"{path}: missing; expected a folder that `medbench latency` or `medbench run` "
                "measured"
            )
        tables.append(pd.read_parquet(path))
    return against(*tables)


def read_prompts(path: Path | None) -> list[str]:
    """Texts to measure with: of a table the column ``prompt``, of any other file its lines.

    Raises:
        InputError: The file cannot be read or holds none.
    """
    if path is None:
        return [f"{doc['question']}\nAnswer:" for doc in choice_docs("test")]
    if path.suffix in {".jsonl", ".json", ".csv", ".parquet"}:
        found: list[Any] = [row.get("prompt") for row in read_rows(path)]
    else:
        try:
            found = list(path.read_text("utf-8").splitlines())
        except (OSError, ValueError) as error:
            raise InputError(f"--prompts {path}: cannot be read as text ({error})") from None
    prompts = [text for text in found if isinstance(text, str) and text.strip()]
    if not prompts:
        raise InputError(
            f"--prompts {path}: no prompts there; expected one a line, or a table with a column "
            "'prompt'"
        )
    return prompts


def _format(folder: Path, device: str) -> str:
    """The precision of an export, as its record says; its provider must be the one asked for."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
        kind, provider = str(record["precision"]), str(record["provider"])
    except (OSError, ValueError, KeyError, TypeError):
        return "onnx"  # not made by medbench
    if provider != device:
        raise InputError(
            f"{folder}: exported for {provider}, to be measured on {device}; give --device "
            f"{provider}, or export it again"
        )
    return kind
