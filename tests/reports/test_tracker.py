"""The report in experiment trackers, with the real packages, offline."""

import importlib
import importlib.util
import io
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pandas as pd
import pytest

from medbench.commands.run import _perform
from medbench.finetune.watch import watching
from medbench.harness.executors.local import Local
from medbench.harness.folder.store import RunFolder
from medbench.harness.ranks import Ranks
from medbench.reports import Report, tracker
from medbench.reports.figures.charts import draw
from medbench.reports.tracker import COLUMNS, SILENT, account_of, tell

SECRET = "0123456789abcdef" * 2 + "f00dcafe"
MAKE = Callable[..., RunFolder]

# A process of its own: trackio takes its folder when it is imported. The network is closed, the
# report is told twice, as when the same command is given again.
TELL = """
import json, socket, sys
def refused(self, address, *rest):
    if self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "localhost", "::1"):
        return connect(self, address, *rest)
    print("CONNECTED", address, flush=True)
    raise OSError("no network")
connect = socket.socket.connect
socket.socket.connect = refused
from medbench.harness.folder.store import RunFolder
from medbench.reports.tracker import tell
run, trackers = RunFolder(sys.argv[1]), {"tuned": [sys.argv[2]]}
warnings = tell(run, trackers) + tell(run, trackers)
print("WARNINGS", json.dumps(warnings), flush=True)
"""


def told(run: RunFolder, name: str, folder: Path) -> Path:
    """The run's folder ``watch`` after tracker *name* was told of its report."""
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}; pip install 'medbench[watch]'")
    home = folder / "home"
    home.mkdir()
    dropped = ("WANDB_", "TRACKIO_", "TENSORBOARD_", "MLFLOW_")
    clean = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    secrets = {"HF_TOKEN": f"hf_{SECRET}", "WANDB_API_KEY": SECRET}
    done = subprocess.run(
        [sys.executable, "-c", TELL, str(run.path), name], capture_output=True, text=True,
        cwd=home, env=clean | secrets | {"HOME": str(home)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "WARNINGS []" in done.stdout, done.stdout + done.stderr[-3000:]
    assert "CONNECTED" not in done.stdout
    assert not [path for path in home.iterdir() if not path.name.startswith(".")]
    sample = run.samples().iloc[0]
    question, answer = str(sample["question"]), str(sample["target"])
    for path in filter(Path.is_file, (run / "watch").rglob("*")):
        content = path.read_bytes()
        assert SECRET.encode() not in content, f"a token in {path}"
        assert question.encode() not in content, f"a question in {path}"
        assert answer.encode() not in content, f"an answer in {path}"
    return run / "watch"


def figures(run: RunFolder) -> list[str]:
    return [f"report/{chart.name}" for chart in draw(Report.read(run, SILENT))]


def test_tensorboard(make_run: MAKE, tmp_path: Path) -> None:
    run = make_run()
    folder = told(run, "tensorboard", tmp_path) / "tensorboard" / "tuned"
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder)).Reload()
    account = account_of(Report.read(run), "tuned")
    for name, value in account.values.items():
        (event,) = events.Scalars(f"report/{name}")  # one, though it was told twice
        assert event.value == pytest.approx(value)
    assert sorted(events.Tags()["images"]) == sorted(figures(run))
    (text,) = events.Tensors("report/text_summary")
    assert text.tensor_proto.string_val[0].decode() == account.text


def test_wandb_offline(make_run: MAKE, tmp_path: Path) -> None:
    run = make_run()
    folder = told(run, "wandb", tmp_path) / "wandb"
    records: Any = importlib.import_module("wandb.proto.wandb_internal_pb2")
    (record,) = folder.glob("offline-run-*/run-*.wandb")
    content = record.read_bytes()
    for word in (b"tuned-report", b"score/made_up_text", b"difference_low/made_up_text"):
        assert word in content, word
    assert records.RunRecord(run_group="tuned").SerializeToString() in content  # as the tuning's
    (table,) = folder.glob("offline-run-*/files/media/table/report/table_*.table.json")
    held = json.loads(table.read_text("utf-8"))
    assert tuple(held["columns"]) == COLUMNS
    rows = account_of(Report.read(run), "tuned").rows
    assert [tuple(row) for row in held["data"]] == list(rows)
    pages = list(folder.glob("offline-run-*/files/media/html/report/*.html"))
    assert sorted("report/" + page.name.split("_")[0] for page in pages) == sorted(figures(run))
    for page in pages:
        assert page.read_text("utf-8").lstrip().startswith("<svg")


def test_trackio(make_run: MAKE, tmp_path: Path) -> None:
    run = make_run()
    (file,) = (told(run, "trackio", tmp_path) / "trackio").glob("*.db")
    with sqlite3.connect(file) as database:
        ((name, metrics),) = database.execute("SELECT run_name, metrics FROM metrics").fetchall()
    assert name == "tuned"
    heard = json.loads(metrics)
    account = account_of(Report.read(run), "tuned")
    assert heard["report/text"]["_value"] == account.text
    assert [tuple(row.values()) for row in heard["report/table"]["_value"]] == list(account.rows)
    for name, value in account.values.items():
        assert heard[f"report/{name}"] == pytest.approx(value)
    for name in figures(run):
        page = file.parent / "media" / heard[name]["file_path"]
        assert "<svg" in page.read_text("utf-8")


def test_mlflow(make_run: MAKE, tmp_path: Path) -> None:
    run = make_run()
    with watching(["mlflow"], run / "watch", "tuned"):
        # As its training curves would have made it.
        mlflow: Any = pytest.importorskip("mlflow")
        mlflow.set_experiment("medbench")
        with mlflow.start_run(run_name="tuned"):
            mlflow.log_metric("loss", 0.5, step=2)
    folder = told(run, "mlflow", tmp_path)
    account = account_of(Report.read(run), "tuned")
    with watching(["mlflow"], folder, "tuned"):
        (one,) = mlflow.search_runs(experiment_names=["medbench"], output_format="list")
        for name, value in account.values.items():  # once, though it was told twice
            (point,) = mlflow.MlflowClient().get_metric_history(one.info.run_id, f"report/{name}")
            assert point.value == value
        held = mlflow.artifacts.download_artifacts(f"{one.info.artifact_uri}/report")
    assert one.data.metrics["loss"] == 0.5
    assert one.data.tags["medbench.command"] == "medbench run --models base,tuned"
    assert (Path(held) / "report.md").read_text("utf-8") == account.text
    table = pd.read_csv(Path(held) / "table.csv").astype(object)
    rows = [tuple(None if pd.isna(cell) else cell for cell in row) for row in table.to_numpy()]
    assert tuple(table.columns) == COLUMNS
    assert rows == [tuple(row) for row in account.rows]
    pictures = {f"report/{path.stem}" for path in Path(held).glob("*.svg")}
    assert pictures == set(figures(run))


def test_rows_and_values_are_those_of_the_results(whole_run: RunFolder) -> None:
    account, results = account_of(Report.read(whole_run), "tuned"), whole_run.results()
    table = pd.DataFrame(account.rows, columns=list(COLUMNS)).set_index(["task", "model"])
    for name, task in results["tasks"].items():
        for model, score in task["scores"].items():
            assert table.loc[(name, model), "score"] == score["value"]
            assert table.loc[(name, model), "n"] == score["n"]
        assert account.values[f"score/{name}"] == task["scores"]["tuned"]["value"]
    for one in results["comparisons"]:
        row = table.loc[(one["task"], "tuned")]
        assert row["difference"] == account.values[f"difference/{one['task']}"] == one["difference"]
        assert (row["difference_low"], row["difference_high"]) == (one["low"], one["high"])
        assert (row["p"], row["p_holm"]) == (one["p"], one["p_holm"])
    assert set(table["verdict"].dropna()) >= {"better", "no difference shown"}
    assert len(table) == 2 * (len(results["tasks"]) + len(results["groups"]))


def test_hostile_text_stays_text(hostile_run: RunFolder) -> None:
    text = account_of(Report.read(hostile_run, SILENT), "tuned").text
    assert "<script" not in text
    assert "<img" not in text


def broken(account: tracker.Account) -> NoReturn:
    raise RuntimeError("the disk\nis full")


def test_a_tracker_that_fails_is_one_line_and_the_others_are_told(
    make_run: MAKE, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = []
    monkeypatch.setitem(tracker._TRACKERS, "wandb", broken)
    monkeypatch.setitem(tracker._TRACKERS, "trackio", lambda account: heard.append(account.name))
    run = make_run()
    for _ in range(2):  # who was told is not told again; who failed is tried again
        (warning,) = tell(run, {"tuned": ["wandb", "trackio"]})
        assert warning.startswith("wandb was not told of tuned's report: the disk is full. ")
        assert "\n" not in warning
    assert heard == ["tuned"]
    assert "RuntimeError" in capsys.readouterr().err


def test_nothing_is_told_without_a_tracker(make_run: MAKE, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run()
    monkeypatch.setattr(Report, "read", lambda *_: pytest.fail("the report was read again"))
    assert tell(run, {"tuned": []}) == []
    assert not (run / "watch").exists()


def test_the_end_of_a_run_tells_its_trackers(
    make_run: MAKE, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, terminal = make_run(), io.StringIO()
    monkeypatch.setattr("medbench.harness.run.execute", lambda *_: None)  # it was done before
    monkeypatch.setitem(tracker._TRACKERS, "wandb", broken)
    recipes = {"tuned": SimpleNamespace(watch=["wandb"])}
    plan: Any = SimpleNamespace(
        suite=SimpleNamespace(name="made-up"), models=["base", "tuned"], device="cpu",
        recipes=recipes,
    )  # fmt: skip
    lock: Any = None
    _perform(plan, run, Local(Ranks()), lock, terminal)
    assert (run / "report.html").is_file()
    last = terminal.getvalue().splitlines()[-1]
    assert last.startswith("wandb was not told of tuned's report: the disk is full. ")
