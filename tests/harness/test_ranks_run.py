"""Whole runs in two processes, as `accelerate launch` starts them, here over gloo on a CPU."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from medbench.finetune.recipe import load_recipe

# For a CPU accelerate starts one process, whatever it is asked for; --multi_gpu starts as many.
LAUNCH = [
    sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2",
    "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
]  # fmt: skip
GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "several-gpus.md"
QUIET = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
LOG = ["step", "epoch", "loss", "validation_loss", "grad_norm", "learning_rate"]
FAILS = """
import os
from medbench.cli import main
if os.environ["RANK"] == "1":
    from medbench.errors import StageError
    from medbench.finetune import train
    def broken(*_):
        raise StageError("this one cannot")
    train.prepare = broken
main()
"""


def sharing(folder: Path) -> list[str]:
    """The launch of a base held between two processes, as the guide's configuration has it."""
    (config,) = re.findall(r"^```yaml\n(.*?)^```", GUIDE.read_text("utf-8"), re.M | re.S)
    path = folder / "fsdp.yaml"
    path.write_text(config, "utf-8")
    return [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(path)]


def recipe_in(folder: Path, quantization: str = "none") -> Path:
    """Two epochs of six steps, logged and kept at each."""
    clinic = load_recipe("clinic")
    data = clinic.data.model_copy(update={"rows": 27, "validation_rows": 3})
    recipe = clinic.model_copy(
        update={
            "data": data, "quantization": quantization, "batch_size": 4, "steps": None,
            "epochs": 2.0, "logging_steps": 1, "checkpoint_steps": 1, "warmup_steps": 2,
        }
    )  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump()), "utf-8")
    return path


def command(start: list[str], recipe: Path, out: Path) -> list[str]:
    return [
        *start, "run", "--models", "base,tuned", "--tasks", "clinic_text",
        "--limit", "5", "--device", "cpu", "--out", str(out),
        "--set", f"models.tuned.adapter.recipe={recipe}", "--set", "latency=null",
    ]  # fmt: skip


def ran(start: list[str], recipe: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(start, recipe, out), capture_output=True, text=True, check=False,
        env=os.environ | QUIET, timeout=300,
    )  # fmt: skip


def log(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / "adapters" / "tuned" / "losses.csv")[LOG]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process; its recipe lies beside it."""
    folder = tmp_path_factory.mktemp("one")
    done = ran([sys.executable, "-m", "medbench"], recipe_in(folder), folder / "out")
    assert done.returncode == 0, done.stderr
    return folder / "out"


def detail(out: Path) -> dict[str, Any]:
    stages = json.loads((out / "manifest.json").read_text())["stages"]
    return dict(stages["tune/tuned"]["detail"])


def samples(out: Path) -> pd.DataFrame:
    return pd.read_parquet(out / "samples.parquet")


def test_two_processes_tune_and_score_as_one(tmp_path: Path, one: Path) -> None:
    done = ran([*LAUNCH, "-m", "medbench"], one.parent / "recipe.yaml", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("base, tuned on cpu, 2 processes") == 1, "one of them speaks"
    alone, shared = detail(one), detail(tmp_path)
    assert (alone["processes"], shared["processes"]) == (1, 2)
    assert shared["rows_at_once"] * shared["accumulation"] * 2 == 4
    assert alone["data_sha256"] == shared["data_sha256"]
    pd.testing.assert_frame_equal(log(one), log(tmp_path), rtol=0, atol=1e-4)
    pd.testing.assert_frame_equal(samples(one), samples(tmp_path), atol=1e-3)


def same_as_one(out: Path, one: Path) -> None:
    """A run whose base was shared left what the run of *one* process did."""
    alone, shared = detail(one), detail(out)
    assert (alone["sharded"], shared["sharded"], shared["processes"]) == (False, True, 2)
    for key in ("parameters", "trainable_parameters", "data_sha256", "rows", "steps"):
        assert alone[key] == shared[key]
    pd.testing.assert_frame_equal(log(one), log(out), rtol=0, atol=1e-5)
    mine, theirs = (
        load_file(path / "adapters/tuned/adapter_model.safetensors") for path in (out, one)
    )
    assert mine.keys() == theirs.keys()
    for name, matrix in mine.items():
        torch.testing.assert_close(matrix, theirs[name], rtol=0, atol=1e-5)
    pd.testing.assert_frame_equal(samples(one), samples(out), atol=1e-4)


def test_a_base_held_between_two_processes_gives_what_one_gives(tmp_path: Path, one: Path) -> None:
    """Three validation rows: one process has a batch less, and has to go along all the same."""
    done = ran([*sharing(tmp_path), "-m", "medbench"], one.parent / "recipe.yaml", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    same_as_one(tmp_path / "two", one)


@pytest.mark.slow
def test_a_base_in_nf4_held_between_two_processes(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, "nf4")
    one, two = tmp_path / "one", tmp_path / "two"
    assert ran([sys.executable, "-m", "medbench"], recipe, one).returncode == 0
    done = ran([*sharing(tmp_path), "-m", "medbench"], recipe, two)
    assert done.returncode == 0, done.stderr
    same_as_one(two, one)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True], ids=["whole", "sharded"])
def test_two_killed_processes_go_on_as_one(tmp_path: Path, one: Path, shared: bool) -> None:
    """The recipe's batch is the contract, so that neither kill nor number of processes matters."""
    recipe, killed = one.parent / "recipe.yaml", tmp_path / "killed"
    start = sharing(tmp_path) if shared else LAUNCH
    process = subprocess.Popen(
        command([*start, "-m", "medbench"], recipe, killed), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | QUIET,
    )  # fmt: skip
    while process.poll() is None and not list(killed.glob("parts/tune/*/step-5")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "adapters").exists()
    again = start if shared else [sys.executable]
    assert ran([*again, "-m", "medbench"], recipe, killed).returncode == 0
    assert detail(killed)["resumed_from"] in {f"step-{n}" for n in range(4, 12)}
    pd.testing.assert_frame_equal(log(one), log(killed), rtol=0, atol=1e-4)


@pytest.mark.slow
def test_an_error_in_one_ends_both_and_is_told_once(tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path)
    script = tmp_path / "fails.py"
    script.write_text(FAILS)
    started = time.monotonic()
    done = ran([*LAUNCH, str(script)], recipe, tmp_path / "out")
    assert time.monotonic() - started < 120, "the other waits for it in a collective operation"
    assert done.returncode != 0
    assert done.stderr.count("medbench: process 1 of 2") == 1
    assert "tune/tuned: this one cannot" in done.stderr
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "this one cannot" in manifest["stages"]["tune/tuned"]["error"]
