"""The whole path on the embedded model, killed and taken up again."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medbench.errors import InputError, StageError
from medbench.harness.folder.store import RunFolder
from medbench.harness.planning.plan import Plan, make_plan
from medbench.harness.progress import Tick, silent
from medbench.harness.run import execute, open_folder
from medbench.harness.suite import load_suite

STAGES = [
    "overlap",
    "tune/tuned",
    "score/base/clinic_open",
    "score/base/clinic_text",
    "score/tuned/clinic_open",
    "score/tuned/clinic_text",
    "merge/tuned",
    "export/tuned/fp32",
    "latency/tuned",
]
QUICK = [
    "tasks=[clinic_open, clinic_text]",
    "limit=6",
    "latency.output_tokens=4",
    "latency.warmup=1",
    "latency.iterations=2",
    "latency.memory=false",  # measured in processes of their own, which test_latency.py has
]


class Heard:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.skipped: list[str] = []

    def begin(self, stage: str) -> Tick:
        self.ran.append(stage)
        return silent

    def end(self, stage: str, seconds: float | None, detail: dict[str, Any]) -> None:
        if seconds is None:
            self.skipped.append(stage)


Planner = Callable[..., Plan]


@pytest.fixture
def plan(short_recipe: Path) -> Planner:
    def make(*overrides: str, **flags: Any) -> Plan:
        suite = load_suite(
            "quickstart", [f"models.tuned.adapter.recipe={short_recipe}", *QUICK, *overrides]
        )
        chosen = {"models": None, "tasks": None, "device": "cpu", "command": "test"} | flags
        return make_plan(suite, **chosen)

    return make


def go(plan: Plan, path: Path) -> Heard:
    heard = Heard()
    execute(plan, open_folder(path, plan, fresh=False), heard)
    return heard


def test_a_run_leaves_everything_and_repeats_nothing(tmp_path: Path, plan: Planner) -> None:
    out = tmp_path / "R"
    first = go(plan(), out)
    assert first.ran == STAGES
    run = RunFolder.open(out)
    manifest, results = run.manifest(), run.results()
    assert manifest["status"] == "done"
    assert list(manifest["stages"]) == STAGES
    assert {stage["status"] for stage in manifest["stages"].values()} == {"done"}
    assert manifest["stages"]["export/tuned/fp32"]["detail"]["parity"]["greedy_matched"] == 512
    assert manifest["environment"]["packages"]["torch"]
    assert list(results["tasks"]) == ["clinic_open", "clinic_text"]
    for task in results["tasks"].values():
        assert list(task["scores"]) == ["base", "tuned"]
        for score in task["scores"].values():
            assert score["n"] == 6
            assert score["low"] <= score["value"] <= score["high"]
    assert [row["task"] for row in results["comparisons"]] == ["clinic_open", "clinic_text"]
    assert {(row["engine"], row["n"]) for row in results["latency"]} == {
        ("onnxruntime", 2),
        ("torch", 2),
    }
    samples = run.samples()
    assert len(samples) == 2 * 2 * 6
    assert not samples.duplicated(["model", "task", "doc_id"]).any()
    assert len(run.timings()) == 2 * 3
    assert list(out.glob("adapters/tuned/*.safetensors"))

    assert go(plan(), out).skipped == STAGES
    changed = go(plan("latency.iterations=3"), out)
    assert changed.ran == ["latency/tuned"]
    again = go(plan("tasks=[clinic_text]"), out)
    assert again.ran == ["overlap", "latency/tuned"]  # questions and prompts come from the tasks
    assert set(RunFolder.open(out).samples()["task"]) == {"clinic_text"}
    narrowed = RunFolder.open(out).manifest()
    assert list(narrowed["stages"]) == [name for name in STAGES if "clinic_open" not in name]
    assert list(narrowed["kept"]) == [name for name in STAGES if "clinic_open" in name]
    other_seed = go(plan("seed=7"), out)
    assert [stage for stage in other_seed.ran if "base" in stage] == []
    assert "tune/tuned" in other_seed.ran


def test_only_the_base(tmp_path: Path, plan: Planner) -> None:
    go(plan(models="base"), tmp_path / "R")
    results = RunFolder.open(tmp_path / "R").results()
    assert results["models"] == ["base"]
    assert results["comparisons"] == []
    assert results["latency"] == []


def test_a_failed_stage_keeps_what_was_done(
    tmp_path: Path, plan: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medbench.finetune import merge

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(merge, "merge_adapter", broken)
        with pytest.raises(StageError, match=r"merge/tuned failed: RuntimeError: no space left"):
            go(plan(), tmp_path / "R")
    run = RunFolder.open(tmp_path / "R")
    manifest = run.manifest()
    assert manifest["status"] == "failed"
    assert manifest["stages"]["merge/tuned"]["error"]
    assert len(run.results()["comparisons"]) == 2, "the scores are there"
    assert go(plan(), tmp_path / "R").ran == ["merge/tuned", "export/tuned/fp32", "latency/tuned"]


def test_an_adapter_from_a_folder(tmp_path: Path, plan: Planner) -> None:
    go(plan("latency=null"), tmp_path / "R")
    adapter = tmp_path / "R" / "adapters" / "tuned"
    heard = go(plan("latency=null", f"models.tuned.adapter={{path: {adapter}}}"), tmp_path / "S")
    assert "tune/tuned" not in heard.ran
    ours, theirs = (RunFolder.open(tmp_path / name).samples() for name in "RS")
    pd.testing.assert_frame_equal(ours, theirs)


def test_a_run_of_another_suite_is_not_mixed_in(tmp_path: Path, plan: Planner) -> None:
    first = plan("tasks=[clinic_text]", models="base")
    go(first, tmp_path / "R")
    with pytest.raises(InputError, match="holds a run of suite 'quickstart', not 'mine'"):
        open_folder(tmp_path / "R", plan("name=mine"), fresh=False)
    assert not (
        open_folder(tmp_path / "R", plan("name=mine"), fresh=True) / "manifest.json"
    ).exists()


@pytest.mark.parametrize(  # scoring is killed inside a task in test_answered
    "stage", ["tune/tuned", pytest.param("score/base/clinic_text", marks=pytest.mark.slow)]
)
def test_killed_and_started_again(tmp_path: Path, short_recipe: Path, stage: str) -> None:
    """SIGKILL while *stage* runs; the same command completes the run and repeats nothing."""
    out = tmp_path / "R"
    settings = [*QUICK, f"models.tuned.adapter.recipe={short_recipe}", "latency=null", "limit=null"]
    command = [
        sys.executable, "-m", "medbench", "run", "--out", str(out), "--device", "cpu",
        *(part for one in settings for part in ("--set", one)),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while _status(out, stage) != "running":
        assert process.poll() is None, "ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert _status(out, stage) == "running"
    before = {name: record for name, record in _stages(out).items() if record["status"] == "done"}

    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.count("done before") == len(before)
    after = _stages(out)
    assert {record["status"] for record in after.values()} == {"done"}
    for name, record in before.items():
        assert after[name] == record, f"{name} was run again"
    assert (out / "report.html").is_file()
    assert not list(out.rglob(".*")), "no temporary file is left behind"


def _stages(out: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((out / "manifest.json").read_text())["stages"]
    except FileNotFoundError:
        return {}
    return found


def _status(out: Path, stage: str) -> str | None:
    status: str | None = _stages(out).get(stage, {}).get("status")
    return status
