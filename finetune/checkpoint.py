"""The state of a training run on disk: what a killed run goes on from.

A checkpoint is a folder ``step-N`` that appears complete or not at all::

    adapter_model.safetensors, adapter_config.json   the weights that are trained
    optimizer.safetensors                            the optimizer's tensors, by parameter and key
    state.json                                       its plain values, the scheduler's, Python's and
                                                     numpy's random states
    random.safetensors                               torch's random states
    trainer_state.json                               transformers' own: step, epoch, log
    files.json                                       sha256 of each file above

Nothing in it is pickled, which transformers' own checkpoints are.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerState

from ..harness.folder.store import atomic_path

KEPT = 2
"""The newest and the one before it, should the newest turn out to be damaged."""

_NAME = re.compile(r"step-(\d+)")


def save(trainer: Any, folder: Path) -> None:
    """Write the checkpoint of *trainer*'s step into *folder* and drop those of long ago."""
    with atomic_path(folder / f"step-{trainer.state.global_step}") as draft:
        draft.mkdir()
        trainer.accelerator.unwrap_model(trainer.model).save_pretrained(draft)
        tensors, plain = _split(trainer.optimizer.state_dict())
        save_file(tensors, draft / "optimizer.safetensors")
        generators, others = _random_states()
        save_file(generators, draft / "random.safetensors")
        state = {"optimizer": plain, "scheduler": trainer.lr_scheduler.state_dict(), **others}
        (draft / "state.json").write_text(json.dumps(state), "utf-8")
        trainer.state.save_to_json(str(draft / "trainer_state.json"))
        files = {path.name: _sha256(path) for path in sorted(draft.iterdir())}
        (draft / "files.json").write_text(json.dumps(files, indent=1), "utf-8")
    # One of a later step is left from a try that ended, and damaged: else it had been gone on from.
    steps = _found(folder)
    valid = [path for step, path in steps if step <= trainer.state.global_step]
    for _, path in steps:
        if path not in valid[-KEPT:]:
            shutil.rmtree(path)


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint in *folder*, and the names of newer ones that are damaged."""
    damaged: list[str] = []
    for _, path in reversed(_found(folder)):
        if _whole(path):
            return path, damaged
        damaged.append(path.name)
    return None, damaged


def restore(trainer: Any, path: Path) -> None:
    """Put optimizer and scheduler back as they were; the weights transformers loads itself."""
    state = json.loads((path / "state.json").read_text("utf-8"))
    tensors = load_file(path / "optimizer.safetensors")
    trainer.optimizer.load_state_dict(_joined(tensors, state["optimizer"]))
    trainer.lr_scheduler.load_state_dict(state["scheduler"])


def restore_random(path: Path) -> None:
    """Put the random states back, last of all: loading draws random numbers itself."""
    state = json.loads((path / "state.json").read_text("utf-8"))
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))
    generators = load_file(path / "random.safetensors")
    torch.set_rng_state(generators.pop("cpu"))
    if torch.cuda.is_available():
        for name, generator in generators.items():
            torch.cuda.set_rng_state(generator, int(name.removeprefix("cuda:")))


def log_of(path: Path) -> list[dict[str, Any]]:
    """The log lines up to the checkpoint *path*."""
    return list(TrainerState.load_from_json(str(path / "trainer_state.json")).log_history)


def _found(folder: Path) -> list[tuple[int, Path]]:
    names = ((_NAME.fullmatch(path.name), path) for path in folder.glob("step-*"))
    return sorted((int(match[1]), path) for match, path in names if match)


def _whole(path: Path) -> bool:
    try:
        files = json.loads((path / "files.json").read_text("utf-8"))
        return all(_sha256(path / name) == expected for name, expected in files.items())
    except (OSError, ValueError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _split(state: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """An optimizer's state as tensors ``<parameter>.<key>`` and everything else as JSON."""
    flat = dict(_flattened(state["state"]))
    tensors = {k: v.detach().contiguous().cpu().clone() for k, v in flat.items() if _is_tensor(v)}
    plain = {k: v for k, v in flat.items() if not _is_tensor(v)}
    return tensors, {"state": plain, "param_groups": state["param_groups"]}


def _joined(tensors: dict[str, torch.Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for name, value in [*tensors.items(), *plain["state"].items()]:
        parameter, *between, key = name.split(".")
        node = state.setdefault(int(parameter), {})
        for part in between:
            node = node.setdefault(part, {})
        node[key] = value
    return {"state": state, "param_groups": plain["param_groups"]}


def _flattened(state: dict[Any, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, value) of each leaf; bitsandbytes' 8-bit optimizers nest theirs."""
    for key, value in state.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def _random_states() -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    generators = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states = enumerate(torch.cuda.get_rng_state_all())
        generators |= {f"cuda:{number}": state for number, state in states}
    name, keys, *rest = np.random.get_state(legacy=True)
    return generators, {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
    }
