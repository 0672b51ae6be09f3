"""A tuned model of a finished run: which base it stands on, and where its adapter lies."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ..errors import InputError
from .folder.store import RunFolder
from .suite import ModelSpec, Suite


@dataclass(frozen=True)
class Tuned:
    """Model *name* of *run*: *adapter* over *base*."""

    run: RunFolder
    name: str
    base: ModelSpec
    adapter: Path


def suite_of(run: RunFolder) -> Suite:
    """The resolved suite that *run* was made by.

    Raises:
        InputError: The manifest has none that this medbench can read.
    """
    raw = copy.deepcopy(run.manifest().get("suite") or {})
    for name, spec in (raw.get("models") or {}).items():
        # Every default is spelled out there, and tuned models and exports may not have them.
        if spec.get("base"):
            raw["models"][name] = {key: spec.get(key) for key in ("base", "adapter")}
        elif spec.get("of"):
            raw["models"][name] = {}
        elif spec.get("of"):
            raw["models"][name] = {key: spec.get(key) for key in ("of", "onnx")}
    try:
        return Suite.model_validate(raw)
    except ValidationError as error:
        raise InputError(
            f"{run.path}/manifest.json: its suite cannot be read ({error.error_count()} problems); "
            "use the medbench version that wrote it"
        ) from None


def adapter_of(run: RunFolder, suite: Suite, name: str) -> Path:
    """The folder of the adapter of model *name*.

    Raises:
        InputError: It is not there.
    """
    spec = suite.models[name].adapter
    folder = Path(spec.path) if spec and spec.path else run / f"adapters/{name}"
    if not (folder / "adapter_config.json").is_file():
        raise InputError(
            f"{folder}: no adapter of {name} there; tune it first with "
            f"`medbench run --suite … --models {name} --out {run.path}`"
        )
    return folder


def public_name(base: ModelSpec) -> str:
    """What *base* is called where others read it: its Hub id, or a folder's last name."""
    name = str(base.pretrained)
    return Path(name).name if Path(name).exists() else name


def find_tuned(text: str) -> Tuned:
    """``RUN`` or ``RUN:MODEL``; a run with one tuned model needs no name.

    Raises:
        InputError: No such run, or no such tuned model in it.
    """
    folder, name = (text, "") if Path(text).is_dir() else _parted(text)
    run = RunFolder.open(folder)
    suite = suite_of(run)
    tuned = [model for model, spec in suite.models.items() if spec.base]
    if not tuned:
        raise InputError(f"{folder}: this run has no tuned model; expected one with an adapter")
    if not name and len(tuned) > 1:
        raise InputError(
            f"{text}: several tuned models; expected {folder}:NAME of {', '.join(tuned)}"
        )
    name = name or tuned[0]
    if name not in tuned:
        raise InputError(f"{text}: {name!r} is no tuned model; expected one of: {', '.join(tuned)}")
    base = suite.models[str(suite.models[name].base)]
    return Tuned(run, name, base, adapter_of(run, suite, name))


def _parted(text: str) -> tuple[str, str]:
    folder, colon, name = text.rpartition(":")
    return (folder, name) if colon else (text, "")
