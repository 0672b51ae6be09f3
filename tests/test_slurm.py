"""The sbatch script of docs/how-to/slurm.md, by the shell itself; Slurm's commands stand in."""

import os
import re
import subprocess
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "how-to" / "slurm.md"


@pytest.mark.parametrize(("code", "requeued"), [(0, False), (1, False), (137, False), (143, True)])
def test_a_job_ends_as_its_run_does_and_is_requeued_after_sigterm_alone(
    tmp_path: Path, code: int, requeued: bool
) -> None:
    found = re.search(r"```bash\n(#!/bin/bash\n.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    assert found
    (tmp_path / "job").write_text(found[1], "utf-8")
    (tmp_path / "models.txt").write_text("first/model\nsecond/model\n", "utf-8")
    commands = {"srun": '"$@"', "scontrol": 'echo "$@" > requeued',
                "medbench": f'printf "%s\\n" "$@" > asked; exit {code}'}  # fmt: skip
    for name, body in commands.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n", "utf-8")
        (tmp_path / name).chmod(0o755)
    there = {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_JOB_ID": "7"}
    there["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(["/bin/bash", "job"], cwd=tmp_path, env=there, check=False)
    assert done.returncode == code
    asked = (tmp_path / "asked").read_text("utf-8").split("\n")
    assert asked[:5] == ["run", "--suite", "suite.yaml", "--out", "runs/1"]
    assert "models.base.pretrained=second/model" in asked
    assert (tmp_path / "requeued").is_file() == requeued
    if requeued:
        assert (tmp_path / "requeued").read_text("utf-8").split() == ["requeue", "7_1"]
