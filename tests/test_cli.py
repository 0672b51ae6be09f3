"""The command line: what it says to wrong input, and that it stays light."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from medbench.cli import app
from medbench.errors import InputError
from medbench.tasks.sources import DATA_DIR

HEAVY = {"torch", "transformers", "lm_eval", "datasets", "pandas", "matplotlib", "onnxruntime"}


def medbench(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "medbench", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, medbench.cli\n"
        "from typer.testing import CliRunner\n"
        "r = CliRunner()\n"
        "for verb in ([], ['run'], ['report'], ['tasks'], ['doctor']):\n"
        "    assert r.invoke(medbench.cli.app, [*verb, '--help']).exit_code == 0\n"
        "print(*sys.modules)"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not HEAVY & set(loaded.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--suite", "nope"], ["--suite nope", "medical-o1", "quickstart"]),
        (["--models", "base,tunde"], ["--models", "'tunde'", "base, tuned"]),
        (["--models", "base,base"], ["--models", "twice"]),
        (["--models", ""], ["--models", "base, tuned"]),
        (["--tasks", "clinic_txt"], ["--tasks", "'clinic_txt'", "clinic_text"]),
        (["--device", "tpu"], ["--device tpu", "auto, cpu, cuda"]),
        (["--data-dir", "no/such"], ["--data-dir no/such", "no such folder"]),
        (["--set", "models.base.pretraind=x"], ["models.base.pretraind", "pretrained"]),
        (["--set", "models.tuned.base=nobody"], ["models.tuned.base", "'nobody'", "base"]),
        (["--set", "models.tuned.adapter={}"], ["models.tuned.adapter", "recipe", "path"]),
        (["--set", "models.tuned.adapter.recipe=nope"], ["'nope'", "clinic", "medical-o1-qlora"]),
        (["--set", "models.tuned.adapter={path: no/such}"], ["no/such/adapter_config.json"]),
        (["--set", "models.base.pretrained=./no/such"], ["./no/such/config.json", "embedded:"]),
        (["--set", "tasks=[nope]"], ["'nope'", "clinic_text"]),
        (["--set", "tasks=[medqa, medqa]"], ["tasks", "twice"]),
        (["--set", "latency.models=[gone]"], ["latency.models", "'gone'"]),
        (["--set", "latency.formats=[fp8]"], ["latency.formats", "fp16"]),
        (["--device", "cpu", "--set", "latency.formats=[fp16]"], ["fp16", "cpu", "fp32"]),
        (["--set", "name=../up"], ["name", "../up"]),
        (["--set", "batch_size"], ["--set batch_size", "KEY=VALUE"]),
        (["--set", "batch_size=many"], ["batch_size", "'many'"]),
        (["--set", "seed=2024-13-45"], ["--set seed=2024-13-45", "YAML"]),
        (["--set", "models.base.pretrained=embedded:nope"], ["embedded:nope", "embedded:clinic"]),
        (["--limit", "0"], ["--limit"]),
        (["--seed", "-1"], ["--seed"]),
        (["--suite", "medical-o1", "--data-dir", "."], ["medqa_us_4options", "found: none"]),
    ],
)
def test_wrong_input_is_one_message_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], parts: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(DATA_DIR, "")  # restored afterwards; --data-dir sets it
    done = CliRunner().invoke(app, ["run", *arguments])
    deliberate = isinstance(done.exception, InputError)
    assert deliberate or done.exit_code == 2
    message = str(done.exception) if deliberate else done.output
    for part in parts:
        assert part in message
    assert not deliberate or "\n" not in message
    assert not list(tmp_path.iterdir()), "wrong input leaves nothing behind"


def test_wrong_input_in_a_process_is_exit_2_without_a_traceback(tmp_path: Path) -> None:
    done = medbench("run", "--models", "base,tunde", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("medbench: --models base,tunde: 'tunde'")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_report_of_no_run_folder(tmp_path: Path) -> None:
    done = medbench("report", str(tmp_path))
    assert done.returncode == 2
    assert "manifest.json" in done.stderr


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    done = medbench("run", "--out", str(tmp_path), "--fresh")
    assert done.returncode == 2
    assert "no run folder" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_fresh_removes_only_what_medbench_made(tmp_path: Path) -> None:
    """Other programs have a manifest.json too."""
    (tmp_path / "manifest.json").write_text('{"manifest_version": 3, "format": 1}')
    (tmp_path / "background.js").write_text("years of work")
    done = medbench("run", "--out", str(tmp_path), "--fresh")
    assert done.returncode == 2
    assert "no run folder of medbench" in done.stderr
    assert (tmp_path / "background.js").is_file()


def test_tasks_lists_every_task_with_its_licence() -> None:
    from medbench.tasks.catalog import tasks

    done = medbench("tasks")
    assert done.returncode == 0
    for task in tasks().values():
        assert task.name in done.stdout
    assert "MIT" in done.stdout


def test_doctor_says_what_is_there_and_what_is_missing() -> None:
    done = medbench("doctor")
    assert done.returncode == 0
    for word in ("python", "torch", "GPU", "memory", "onnxruntime", "unsloth", "Hub"):
        assert word in done.stdout
    assert done.stderr == ""


def test_interrupted_says_how_to_go_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "medbench", "run", "--device", "cpu", "--out", "R"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    manifest = tmp_path / "R" / "manifest.json"
    deadline = time.monotonic() + 120
    while not (manifest.is_file() and '"tune/tuned"' in manifest.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Interrupted. What is done is kept in R" in said
    assert "medbench run --device cpu --out R" in said
    assert '"status": "failed"' in manifest.read_text()


def test_version() -> None:
    from medbench import __version__

    assert medbench("--version").stdout == f"medbench {__version__}\n"
