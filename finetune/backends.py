"""Which libraries train a recipe: Unsloth, in a process of its own, or trl with peft here.

Unsloth replaces functions of transformers, peft and trl for the whole process that imports it, and
has to be imported before them. So it runs in a child (:mod:`.unsloth_child`), and what is scored
afterwards is scored by libraries that nobody has changed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .. import errors
from ..errors import InputError, MedbenchError, StageError
from ..harness.orphans import lifeline
from ..harness.progress import Tick
from ..harness.ranks import world
from .recipe import Recipe

if TYPE_CHECKING:
    from .train import Job

_ERROR_LINES = 15


@dataclass(frozen=True)
class Choice:
    """The back end that is taken, and a few words on why."""

    name: Literal["unsloth", "trl"]
    why: str


def choose(recipe: Recipe, device: str) -> Choice:
    """The back end of *recipe* on *device* (``cpu``, ``cuda`` or ``cuda:N``).

    Raises:
        InputError: The recipe asks for Unsloth, which cannot train it here.
    """
    if recipe.backend == "trl":
        return Choice("trl", "the recipe asks for it")
    obstacle = _obstacle(recipe, device)
    if recipe.backend == "unsloth":
        if obstacle:
            raise InputError(
                f"recipe {recipe.name!r}, backend: unsloth cannot be taken: {obstacle}; "
                "use backend: auto or trl"
            )
        return Choice("unsloth", "the recipe asks for it")
    if obstacle:
        return Choice("trl", obstacle)
    return Choice("unsloth", "it is installed and there is a CUDA GPU")


def _obstacle(recipe: Recipe, device: str) -> str | None:
    """Why Unsloth cannot train *recipe* here."""
    if find_spec("unsloth") is None:
        return "Unsloth is not installed (pip install 'medbench[unsloth]')"
    if not device.startswith("cuda"):
        return "Unsloth needs a CUDA GPU"
    if world() > 1:
        return "medbench runs Unsloth on one GPU only"
    adapter = recipe.adapter
    if adapter.kind != "lora" or adapter.dora:
        kind = "dora" if adapter.kind == "lora" else adapter.kind
        return f"medbench runs Unsloth for plain LoRA only, not {kind}"
    if recipe.quantization == "int8":
        return "medbench runs Unsloth over nf4 or 16-bit weights only, not int8"
    if recipe.precision == "float32":
        return "medbench runs Unsloth in 16-bit precision only, not float32"
    return None


def tune_with_unsloth(job: Job, tick: Tick) -> dict[str, Any]:
    """Run *job* in a child that has Unsloth; the same as :func:`.train.tune_here` returns.

    Raises:
        InputError, StageError: As the child raised it, or with the end of its output if it died.
    """
    with tempfile.TemporaryDirectory(prefix="medbench-unsloth-") as name:
        folder = Path(name)
        (folder / "job.json").write_text(_written(job), "utf-8")
        environment = {
            **os.environ,
            "UNSLOTH_COMPILE_LOCATION": str(folder / "compiled"),  # else the working folder
            "UNSLOTH_DISABLE_STATISTICS": "1",  # it would fetch a file to be counted
        }
        command = [sys.executable, "-m", f"{__package__}.unsloth_child", name]
        with (folder / "stderr").open("w+", encoding="utf-8", errors="replace") as stderr:
            outcome, code = _heard(command, environment, stderr, tick)
            stderr.seek(0)
            said = stderr.read()
        sys.stderr.write(said)  # into run.log
        if "detail" in outcome:
            return dict(outcome["detail"])
        if "error" in outcome:
            kind: type[MedbenchError] = getattr(errors, outcome["error"])
            raise kind(outcome["message"])
        end = "\n".join(said.strip().splitlines()[-_ERROR_LINES:])
        raise StageError(
            f"recipe {job.recipe.name!r}: Unsloth's process failed (exit code {code}); "
            f"backend: trl does without it. The end of its output:\n{end}"
        )


def _heard(
    command: list[str], environment: dict[str, str], stderr: Any, tick: Tick
) -> tuple[dict[str, Any], int]:
    """(what the child said last, its exit code); its progress is passed on to *tick*."""
    outcome: dict[str, Any] = {}
    with (
        lifeline() as stdin,
        subprocess.Popen(
            command, env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as child,
    ):
        try:
            for line in child.stdout or ():
                said = json.loads(line)
                if isinstance(said, list):
                    tick(*said)
                else:
                    outcome = said
        except BaseException:  # Ctrl-C, or a tick that raises: do not wait for the rest
            child.kill()
            raise
    return outcome, child.returncode


def _written(job: Job) -> str:
    return json.dumps(
        {
            "base": job.base.model_dump(),
            "recipe": job.recipe.model_dump(),
            "out": str(job.out),
            "scratch": str(job.scratch),
            "device": job.device,
            "dropped": sorted(job.dropped),
            "watch": str(job.watch) if job.watch else None,
        }
    )
