"""A tuning that is killed goes on, and its log is that of one that was not."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from medbench.finetune import checkpoint
from medbench.finetune.recipe import builtin_recipes, load_recipe
from medbench.finetune.train import Job, tune
from medbench.harness.progress import Tick, silent
from medbench.harness.suite import ModelSpec

BASE = ModelSpec(pretrained="embedded:clinic")
EXACT = ["step", "epoch", "loss", "validation_loss", "grad_norm", "learning_rate"]
TUNE = """
import os, sys
from pathlib import Path
from medbench.finetune.recipe import load_recipe
from medbench.finetune.train import Job, tune
from medbench.harness.suite import ModelSpec
folder = Path(sys.argv[1])
def tick(done, total, note=""):
    print(done, flush=True)
tune(
    Job(
        ModelSpec(pretrained="embedded:clinic"), load_recipe(str(folder / "recipe.yaml")),
        folder / "tuned", folder / "steps", "cpu",
    ),
    tick,
)
"""


def recipe_of(folder: Path, steps: int, **change: object) -> None:
    """Two epochs and a bit, in which dropout draws random numbers at every step."""
    clinic = load_recipe("clinic")
    recipe = clinic.model_copy(
        update={
            "data": clinic.data.model_copy(update={"rows": 40, "validation_rows": 4}),
            "adapter": clinic.adapter.model_copy(update={"dropout": 0.1}),
            "quantization": "none",
            "schedule": "cosine",
            "batch_size": 4,
            "micro_batch_size": 2,
            "steps": steps,
            "logging_steps": 1,
            "checkpoint_steps": 1,
            **change,
        }
    )
    folder.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump()), "utf-8")


def losses(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "tuned" / "losses.csv")[EXACT]


def killed_at(folder: Path, step: int, wait: float) -> bool:
    """Tune in a process of its own and kill it *wait* seconds after *step*; False if it ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", TUNE, str(folder)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip().isdigit() and int(line) >= step:
            time.sleep(wait)
            break
    alive = process.poll() is None
    os.killpg(process.pid, signal.SIGKILL) if alive else None
    process.wait()
    process.stdout.close()
    return alive and process.returncode == -signal.SIGKILL


def tuned(folder: Path, tick: Tick = silent) -> dict[str, Any]:
    recipe = load_recipe(str(folder / "recipe.yaml"))
    return tune(Job(BASE, recipe, folder / "tuned", folder / "steps", "cpu"), tick)


def interrupted(folder: Path) -> None:
    """Tune until step 12; the newest checkpoint is then that of step 11."""

    def tick(done: int, total: int, note: str) -> None:
        if done == 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(folder, tick)
    assert not (folder / "tuned").exists()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """The log of 25 steps that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    recipe_of(folder, 25)
    assert tuned(folder)["resumed_from"] is None
    assert not (folder / "steps").exists(), "checkpoints go when the adapter is there"
    return losses(folder)


def test_killed_once_the_log_is_the_same(tmp_path: Path, expected: pd.DataFrame) -> None:
    folder = tmp_path / "run"
    recipe_of(folder, 25)
    assert killed_at(folder, 12, 0.05)
    assert not (folder / "tuned").exists()
    detail = tuned(folder)
    assert int(detail["resumed_from"].removeprefix("step-")) in range(10, 25)
    pd.testing.assert_frame_equal(losses(folder), expected, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_killed_ten_times_at_random_the_log_is_the_same(tmp_path: Path) -> None:
    steps = 120
    recipe_of(tmp_path / "whole", steps)
    tuned(tmp_path / "whole")
    folder = tmp_path / "killed"
    recipe_of(folder, steps)
    chance = random.Random(0)
    done = 0
    for _ in range(10):
        assert killed_at(folder, done + chance.randint(1, 9), chance.uniform(0, 0.1))
        newest, damaged = checkpoint.newest(folder / "steps")
        assert damaged == [], "a checkpoint appears whole or not at all"
        if newest is not None:
            done = int(newest.name.removeprefix("step-"))
    assert 0 < done < steps
    detail = tuned(folder)
    assert detail["resumed_from"] == f"step-{done}"
    pd.testing.assert_frame_equal(losses(folder), losses(tmp_path / "whole"), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "name", ["adapter_model.safetensors", "optimizer.safetensors", "state.json", "files.json"]
)
def test_a_truncated_checkpoint_is_passed_over_and_named(
    tmp_path: Path, expected: pd.DataFrame, name: str
) -> None:
    folder = tmp_path / "run"
    recipe_of(folder, 25)
    interrupted(folder)
    file = folder / "steps" / "step-11" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    detail = tuned(folder)
    assert detail["resumed_from"] == "step-10"
    assert detail["damaged_checkpoints"] == ["step-11"]
    pd.testing.assert_frame_equal(losses(folder), expected, rtol=0, atol=1e-6)


def test_what_is_restored_matters(
    tmp_path: Path, expected: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were the random states not put back, dropout would differ: the comparison can fail."""
    folder = tmp_path / "run"
    recipe_of(folder, 25)
    interrupted(folder)
    monkeypatch.setattr(checkpoint, "restore_random", lambda path: None)
    tuned(folder)
    assert (losses(folder)["loss"] - expected["loss"]).abs()[:11].max() < 1e-6
    assert (losses(folder)["loss"] - expected["loss"]).abs()[11:].max() > 1e-4


def test_the_two_newest_are_kept_and_nothing_is_pickled(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    recipe_of(folder, 25)
    stale = folder / "steps" / "step-90"
    stale.mkdir(parents=True)  # damaged, of an earlier try
    interrupted(folder)
    kept = sorted(path.name for path in (folder / "steps").iterdir())
    assert kept == ["step-10", "step-11"]
    suffixes = {path.suffix for path in (folder / "steps").rglob("*") if path.is_file()}
    assert suffixes <= {".safetensors", ".json", ".md"}


@pytest.mark.parametrize(
    ("optimizer", "quantization"),
    sorted({(r.optimizer, r.quantization) for r in map(load_recipe, builtin_recipes())}),
)
def test_every_optimizer_that_a_shipped_recipe_has_is_restored(
    tmp_path: Path, optimizer: str, quantization: str
) -> None:
    """8-bit optimizers nest their state, and keep tables beside it."""
    change = {"optimizer": optimizer, "quantization": quantization}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        recipe_of(folder, 14, **change)
    tuned(whole)
    interrupted(broken)
    assert tuned(broken)["resumed_from"] == "step-11"
    pd.testing.assert_frame_equal(losses(broken), losses(whole), rtol=0, atol=1e-6)


def test_no_whole_checkpoint_means_from_the_start(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    recipe_of(folder, 3)
    broken = folder / "steps" / "step-2"
    broken.mkdir(parents=True)
    (broken / "files.json").write_text('{"state.json": "00"}')
    detail = tuned(folder)
    assert (detail["resumed_from"], detail["damaged_checkpoints"]) == (None, ["step-2"])
    assert detail["steps"] == 3
