"""Whole runs by Ray, with two workers on this machine: the same tables, whatever happens to one."""

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

from medbench.errors import InputError
from medbench.harness.folder.store import RunFolder
from medbench.harness.planning.plan import make_plan
from medbench.harness.suite import load_suite

pytest.importorskip("ray", reason="needs ray: pip install 'medbench[ray]'")

QUIET = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "TERM": "dumb"}
SETTINGS = ["tasks=[clinic_open, clinic_text]", "latency=null"]
STAGES = [
    "overlap",
    "tune/tuned",
    "score/base/clinic_open",
    "score/base/clinic_text",
    "score/tuned/clinic_open",
    "score/tuned/clinic_text",
]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The quickstart's, of four steps; one file for all, for it is part of what a run is."""
    from medbench.finetune.recipe import RECIPES

    text = (RECIPES / "clinic.yaml").read_text("utf-8")
    for key, value in (("steps", 4), ("logging_steps", 2), ("  validation_rows", 0)):
        lines = [f"{key}: {value}" if x.startswith(f"{key}:") else x for x in text.splitlines()]
        text = "\n".join(lines) + "\n"
    path = tmp_path_factory.mktemp("recipe") / "short.yaml"
    path.write_text(text, "utf-8")
    return path


Commander = Callable[..., list[str]]


@pytest.fixture(scope="module")
def command(recipe: Path) -> Commander:
    def make(out: Path, *more: str, executor: str = "ray") -> list[str]:
        settings = [*SETTINGS, f"models.tuned.adapter.recipe={recipe}", *more]
        return [
            sys.executable, "-m", "medbench", "run", "--out", str(out), "--device", "cpu",
            "--executor", executor, *(part for one in settings for part in ("--set", one)),
        ]  # fmt: skip

    return make


def ran(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | QUIET, timeout=900
    )


def started(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | QUIET
    )


@pytest.fixture(scope="module")
def alone(command: Commander, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run by the executor ``local``."""
    out = tmp_path_factory.mktemp("alone") / "R"
    done = ran(command(out, executor="local"))
    assert done.returncode == 0, done.stderr
    return out


def tables_of_one_process(out: Path, alone: Path) -> None:
    """*out* holds the tables, figures and fingerprints of *alone*, row by row."""
    pd.testing.assert_frame_equal(RunFolder(out).samples(), RunFolder(alone).samples())
    assert RunFolder(out).results() == RunFolder(alone).results()
    ours, theirs = (RunFolder(one).manifest()["stages"] for one in (out, alone))
    assert list(ours) == list(theirs) == STAGES
    for name in STAGES:
        assert ours[name]["fingerprint"] == theirs[name]["fingerprint"]


@pytest.mark.parametrize(
    "stage", ["score/base/clinic_text", pytest.param("tune/tuned", marks=pytest.mark.slow)]
)
def test_one_of_two_workers_is_killed_in_the_middle_of_a_stage(
    stage: str, alone: Path, command: Commander, tmp_path: Path
) -> None:
    """What it had finished before is not done again, and nobody hears of it but in one line."""
    out = tmp_path / "R"
    process = started(command(out))
    sign = at_work(out, stage, process)
    os.kill(sign["pid"], signal.SIGKILL)
    said, wrong = process.communicate(timeout=900)
    assert process.returncode == 0, said + wrong
    assert 0 < sign["done"] < sign["total"]
    assert said.count("again: its worker was lost (1 of 2)") == 1
    tables_of_one_process(out, alone)
    stages = RunFolder(out).manifest()["stages"]
    assert [name for name, record in stages.items() if record["redone"]] == [stage]
    assert wrong == ""
    for noise in ("raylet", "WARNING", "INFO", "it/s"):
        assert noise not in said
    assert not list(out.rglob(".*")), "no temporary file is left behind"
    assert list(out.glob("workers/*.json")) == [], "nobody is at work"


@pytest.mark.slow
def test_two_workers_end_with_the_tables_of_one_process(
    alone: Path, command: Commander, tmp_path: Path
) -> None:
    out = tmp_path / "R"
    done = ran(command(out))
    assert done.returncode == 0, done.stderr + done.stdout
    assert "on cpu, Ray: 1 machine, " in done.stdout
    tables_of_one_process(out, alone)
    stages = RunFolder(out).manifest()["stages"]
    assert all(record["hardware"]["cores"] for record in stages.values())
    assert "stages ran on" in (out / "report.html").read_text("utf-8")

    again = ran(command(out, executor="local"))
    assert again.stdout.count("done before") == len(STAGES), "a stage is done whoever did it"


def at_work(out: Path, stage: str, process: subprocess.Popen[str]) -> dict[str, Any]:
    """What the worker says that is in the middle of *stage*, as soon as one is."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stdout and process.stdout.read()
        for path in out.glob("workers/*.json"):
            try:
                sign: dict[str, Any] = json.loads(path.read_text("utf-8"))
            except (OSError, ValueError):
                continue  # between two signs
            if sign["stage"] == stage and sign["done"]:
                return sign
        time.sleep(0.005)
    raise AssertionError(f"nobody began {stage}")


@pytest.mark.slow
def test_a_machine_of_a_cluster_is_lost(
    alone: Path, command: Commander, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two nodes of Ray on this machine, with one core each, and then one node."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    out = tmp_path / "R"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        process = started(command(out, f"ray.address='{cluster.address}'"))
        at_work(out, "score/base/clinic_text", process)
        cluster.remove_node(second, allow_graceful=False)
        said, wrong = process.communicate(timeout=900)
        assert process.returncode == 0, said + wrong
        assert "Ray: 2 machines, 2 cores" in said
        assert said.count("again: its worker was lost (1 of 2)") == 1
        tables_of_one_process(out, alone)
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_a_stage_that_fails_by_itself_is_not_begun_again(
    command: Commander, tmp_path: Path
) -> None:
    """What is at work beside it is let finish, and nothing new is begun."""
    out = tmp_path / "R"
    room = "prompt.max_tokens=100000"  # more than the model's context
    done = ran(command(out, "tasks=[clinic_text, clinic_open]", room))
    assert done.returncode == 1
    assert "leaves no room for the question" in done.stderr
    assert "✗" in done.stdout
    stages = RunFolder(out).manifest()["stages"]
    assert stages["score/base/clinic_text"]["status"] == "done"
    assert stages["score/base/clinic_open"]["status"] == "failed"
    assert stages["overlap"]["status"] == "done"
    assert "score/tuned/clinic_text" not in stages


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_workers_as_well(
    number: int, code: int, command: Commander, tmp_path: Path
) -> None:
    out = tmp_path / "R"
    process = started(command(out))
    worker = at_work(out, "tune/tuned", process)["pid"]
    process.send_signal(number)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == code, said
    assert "to go on:" in said
    assert not Path(f"/proc/{worker}").exists()
    manifest = RunFolder(out).manifest()
    assert manifest["status"] == "failed"
    assert "running" not in {record["status"] for record in manifest["stages"].values()}
    assert not (out / ".lock").exists()


@pytest.mark.slow
def test_latency_is_measured_when_all_else_is_done(command: Commander, tmp_path: Path) -> None:
    out = tmp_path / "R"
    settings = (
        "latency={models: [base, tuned], output_tokens: 4, warmup: 1, iterations: 2, memory: false}"
    )
    done = ran(command(out, "limit=6", settings))
    assert done.returncode == 0, done.stderr
    stages = RunFolder(out).manifest()["stages"]
    begun = {name: pd.Timestamp(record["started"]) for name, record in stages.items()}
    ends = {
        name: begun[name] + pd.Timedelta(seconds=record["seconds"])
        for name, record in stages.items()
    }
    timed = [name for name in stages if name.startswith("latency/")]
    assert timed == ["latency/base", "latency/tuned"]
    others = [end for name, end in ends.items() if name not in timed]
    assert begun["latency/base"] >= max(others).floor("s")
    assert begun["latency/tuned"] >= ends["latency/base"].floor("s")
    assert set(RunFolder(out).timings()["model"]) == {"base", "tuned"}


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "ray://127.0.0.1:1"])
def test_a_cluster_that_is_not_there_is_said_at_once(address: str) -> None:
    from medbench.harness.executors import machines
    from medbench.harness.executors.settings import RaySection

    with pytest.raises(InputError, match=rf"ray.address {address}: no Ray cluster answers there"):
        machines.connect(RaySection(address=address))


def test_without_ray_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    from medbench.harness.planning.preflight import preflight

    suite = load_suite("quickstart", ["executor=ray"])
    plan = make_plan(suite, models="base", tasks=None, device="cpu", command="")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"needs ray, which is not installed; pip install .* ray,"):
        preflight(plan)
