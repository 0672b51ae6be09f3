"""Experiment trackers, with the real packages: they hear of the losses, here and nowhere else."""

import importlib
import importlib.util
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import yaml

from medbench.errors import InputError
from medbench.finetune import watch
from medbench.finetune.recipe import load_recipe
from medbench.finetune.watch import watching
from medbench.harness.planning.plan import make_plan
from medbench.harness.suite import load_suite

SECRETS = {
    "HF_TOKEN": "hf_notforfiles0123456789",
    "WANDB_API_KEY": "0123456789abcdef" * 2 + "f00dcafe",
}

# Two tunings in one process with the network closed; each must become a run of its own.
TUNE = """
import socket, sys
from pathlib import Path
def refused(self, address, *rest):
    if self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "localhost", "::1"):
        return connect(self, address, *rest)
    print("CONNECTED", address, flush=True)
    raise OSError("no network")
connect = socket.socket.connect
socket.socket.connect = refused
from medbench.finetune.recipe import load_recipe
from medbench.finetune.train import Job, tune
from medbench.harness.progress import silent
from medbench.harness.suite import ModelSpec
folder = Path(sys.argv[1])
for name in ("tuned-a", "tuned-b"):
    tune(
        Job(
            ModelSpec(pretrained="embedded:clinic"), load_recipe(str(folder / "recipe.yaml")),
            folder / "adapters" / name, folder / "steps", "cpu", watch=folder / "watch",
        ),
        silent,
    )
"""


def needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}; pip install 'medbench[watch]'")


def tuned(folder: Path, short_recipe: Path, tracker: str) -> Path:
    """The folder ``watch`` of two tunings that *tracker* heard of."""
    needs(tracker)
    recipe = load_recipe(str(short_recipe)).model_copy(
        update={"watch": [tracker], "quantization": "none"}
    )
    home = folder / "home"
    home.mkdir()
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump()), "utf-8")
    dropped = ("WANDB_", "TRACKIO_", "MLFLOW_")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    done = subprocess.run(
        [sys.executable, "-c", TUNE, str(folder)], capture_output=True, text=True, cwd=home,
        env=clean | SECRETS | {"HOME": str(home)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "CONNECTED" not in done.stdout
    written = [path for path in folder.rglob("*") if path.is_file()]
    for path in written:
        content = path.read_bytes()
        for secret in SECRETS.values():
            assert secret.encode() not in content, f"a token in {path}"
    assert not [path for path in home.iterdir() if not path.name.startswith(".")]
    return folder / "watch"


def test_tensorboard(tmp_path: Path, short_recipe: Path) -> None:
    folder = tuned(tmp_path, short_recipe, "tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for name in ("tuned-a", "tuned-b"):
        events = EventAccumulator(str(folder / "tensorboard" / name)).Reload()
        losses = events.Scalars("train/loss")
        ours = pd.read_csv(tmp_path / "adapters" / name / "losses.csv")
        assert [event.step for event in losses] == ours["step"].tolist() == [2, 4]
        assert [event.value for event in losses] == pytest.approx(ours["loss"].tolist())
        for heard in ("grad_norm", "learning_rate", "seconds_per_step", "tokens_per_second"):
            assert events.Scalars(f"train/{heard}"), heard


def test_wandb_offline(tmp_path: Path, short_recipe: Path) -> None:
    folder = tuned(tmp_path, short_recipe, "wandb")
    runs = sorted((folder / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == 2
    for path, name in zip(runs, ("tuned-a", "tuned-b"), strict=True):
        content = path.read_bytes()
        assert b"train/loss" in content
        assert name.encode() in content


@pytest.mark.slow
def test_trackio(tmp_path: Path, short_recipe: Path) -> None:
    folder = tuned(tmp_path, short_recipe, "trackio")
    (file,) = (folder / "trackio").glob("*.db")
    assert file.stem == "medbench"
    with sqlite3.connect(file) as database:
        rows = database.execute("SELECT run_name, metrics FROM metrics").fetchall()
    heard = {name for name, metrics in rows if b'"train/loss"' in bytes(metrics)}
    assert heard == {"tuned-a", "tuned-b"}


def test_mlflow(tmp_path: Path, short_recipe: Path) -> None:
    folder = tuned(tmp_path, short_recipe, "mlflow")
    with watching(["mlflow"], folder, "read"):
        mlflow: Any = importlib.import_module("mlflow")
        runs = mlflow.search_runs(experiment_names=["medbench"], output_format="list")
        assert {run.info.run_name for run in runs} == {"tuned-a", "tuned-b"}
        for run in runs:
            assert run.info.status == "FINISHED"
            assert run.info.user_id == run.data.tags["mlflow.source.git.commit"] == ""
            assert run.data.tags["mlflow.source.name"] == "medbench"
            heard = mlflow.MlflowClient().get_metric_history(run.info.run_id, "loss")
            ours = pd.read_csv(tmp_path / "adapters" / run.info.run_name / "losses.csv")
            assert [one.step for one in heard] == ours["step"].tolist() == [2, 4]
            assert [one.value for one in heard] == pytest.approx(ours["loss"].tolist())
            for name in ("grad_norm", "learning_rate", "seconds_per_step", "tokens_per_second"):
                assert name in run.data.metrics
    assert not [name for name in os.environ if name.startswith("MLFLOW_")]


def test_a_missing_tracker_is_found_before_anything_runs(
    tmp_path: Path, short_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "find_spec", lambda name: None)
    text = short_recipe.read_text("utf-8").replace("watch: []", "watch: [wandb]")
    short_recipe.write_text(text, "utf-8")
    suite = load_suite("quickstart", [f"models.tuned.adapter.recipe={short_recipe}"])
    with pytest.raises(InputError, match=r"watch: wandb is not installed.*medbench\[watch\]"):
        make_plan(suite, models=None, tasks=None, device="cpu", command="test")


def test_settings_hold_for_one_tuning_and_yours_win(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.delenv("WANDB_DIR", raising=False)
    with watching(["wandb"], tmp_path, "tuned"):
        assert os.environ["WANDB_MODE"] == "online"
        assert os.environ["WANDB_DIR"] == str(tmp_path)
    assert "WANDB_DIR" not in os.environ
    assert os.environ["WANDB_MODE"] == "online"


def test_a_server_of_yours_is_not_taken_for_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.invalid")
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    with watching(["mlflow"], tmp_path, "tuned"):
        assert os.environ["MLFLOW_TRACKING_URI"] == "https://mlflow.example.invalid"
        assert "MLFLOW_ALLOW_FILE_STORE" not in os.environ
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_tracker_that_is_gone_at_the_end_takes_nothing_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone() -> None:
        raise ConnectionError("no server")

    tracker = SimpleNamespace(flush_async_logging=gone)
    monkeypatch.setitem(sys.modules, "mlflow", tracker)
    with watching(["mlflow"], tmp_path, "tuned"):
        pass
    assert "a tracker did not end its run: no server" in caplog.text
    assert "MLFLOW_EXPERIMENT_NAME" not in os.environ


def test_nothing_is_watched_by_default(tmp_path: Path) -> None:
    before = dict(os.environ)
    with watching([], tmp_path / "watch", "tuned"):
        assert dict(os.environ) == before
    assert not (tmp_path / "watch").exists()
