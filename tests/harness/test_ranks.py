"""Several processes score their shares of a task and gather one table."""

import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from medbench.cli import app
from medbench.errors import InputError

SCRIPT = """
import os, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
from medbench.harness.evaluate import Asking, score
from medbench.harness.scorer import PackedLM
from medbench.tasks.catalog import task

checkpoint, out = sys.argv[1:]
open(f"{out}/rank-{os.environ.get('RANK', 0)}", "w").close()
model = AutoModelForCausalLM.from_pretrained(checkpoint)
tokenizer = AutoTokenizer.from_pretrained(checkpoint)
for name in ("clinic_text", "clinic_letters", "clinic_response", "clinic_open"):
    lm = PackedLM(pretrained=model, tokenizer=tokenizer, batch_size=16)
    table = score("base", lm, task(name), Asking(limit=25, orders=2))
    if len(table):
        table.to_parquet(f"{out}/{name}.parquet")
"""


def test_two_processes_give_the_table_of_one(tmp_path: Path, clinic: Path) -> None:
    script = tmp_path / "score.py"
    script.write_text(SCRIPT)
    # What `accelerate launch --multi_gpu` starts; on a CPU accelerate itself would need MPI.
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    for ranks in (1, 2):
        out = tmp_path / str(ranks)
        out.mkdir()
        start = launch if ranks == 2 else [sys.executable]
        subprocess.run(
            [*start, str(script), str(clinic), str(out)],
            check=True,
            capture_output=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    assert len(list((tmp_path / "2").glob("rank-*"))) == 2
    for path in sorted((tmp_path / "1").glob("*.parquet")):
        one, two = (pd.read_parquet(tmp_path / n / path.name) for n in "12")
        assert len(one) in (25, 50)
        pd.testing.assert_frame_equal(one, two, atol=1e-4)


def test_a_whole_run_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = CliRunner().invoke(app, ["run"]).exception
    assert isinstance(found, InputError)
    assert "accelerate launch -m lm_eval --model medbench" in str(found)
