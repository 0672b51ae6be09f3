"""Which tasks there are: read from the specs, without lm-eval."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError

SPECS = Path(__file__).parent / "specs"


@dataclass(frozen=True)
class Task:
    """One task, as its spec describes it.

    Attributes:
        protocol: How it is asked and scored.
        metric: ``acc`` or ``bits_per_byte``.
        chance: Expected score of a guesser, or None.
        shows_options: The options stand in the prompt, so that their order can matter.
        questions: Number of test questions in the published data.
        data: ``clinic`` for the embedded fictional world, else the name of a data source.
    """

    name: str
    protocol: str
    metric: str
    higher_is_better: bool
    chance: float | None
    shows_options: bool
    questions: int | None
    source: str
    licence: str
    data: str
    spec: Path


class _Loader(yaml.SafeLoader):
    """Safe YAML in which lm-eval's ``!function`` stays the name it is."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))  # type: ignore[arg-type]


@cache
def tasks() -> dict[str, Task]:
    """Every task of medbench, by name, in alphabetical order."""
    found = [_read(path) for path in SPECS.glob("*.yaml") if not path.name.startswith("_")]
    return {task.name: task for task in sorted(found, key=lambda task: task.name)}


def task(name: str) -> Task:
    """The task called *name*.

    Raises:
        InputError: There is none.
    """
    if name not in tasks():
        raise InputError(f"task {name!r}: unknown; expected some of: {', '.join(tasks())}")
    return tasks()[name]


def _read(path: Path) -> Task:
    spec: dict[str, Any] = yaml.load(path.read_text("utf-8"), _Loader)  # noqa: S506  (a SafeLoader)
    about = spec["metadata"]
    metric = spec["metric_list"][0]
    return Task(
        name=spec["task"],
        protocol=about["protocol"],
        metric=metric["metric"],
        higher_is_better=metric["higher_is_better"],
        chance=about["chance"],
        shows_options=about["shows_options"],
        questions=about["questions"],
        source=about["source"],
        licence=about["licence"],
        data=about["data"],
        spec=path,
    )
