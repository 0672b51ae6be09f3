"""Several processes score their shares of a task and gather one table."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from medbench.cli import app
from medbench.errors import InputError
from medbench.harness.launch import check_launch
from medbench.harness.planning.plan import make_plan
from medbench.harness.ranks import Ranks, sharded
from medbench.harness.suite import load_suite

SCRIPT = """
import os, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
from medbench.harness.evaluate import Asking, score
from medbench.harness.scorer.lm import PackedLM
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


@pytest.mark.slow  # the same of a whole run: test_ranks_run
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


LEAVES = """
from medbench.harness import ranks
ranks._POLL = 1e-9  # the thread that listens for failures is always inside of the store
with ranks.joined():
    pass
"""


def test_processes_that_are_done_end_without_an_abort(tmp_path: Path) -> None:
    script = tmp_path / "leaves.py"
    script.write_text(LEAVES)
    done = subprocess.run(
        [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
            str(script),
        ],
        capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("lacking", ["RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_a_launcher_that_says_too_little(monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    said = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv(lacking)
    found = CliRunner().invoke(app, ["run"]).exception
    assert isinstance(found, InputError)
    assert lacking in str(found)
    assert "accelerate launch -m medbench run" in str(found)


def launched(tmp_path: Path, recipe: Path, size: int = 2) -> None:
    """What is checked of a run by *size* processes before any work is done."""
    suite = load_suite("quickstart", [f"models.tuned.adapter.recipe={recipe}"])
    plan = make_plan(suite, models="base,tuned", tasks=None, device="cpu", command="")
    check_launch(plan, cast(Ranks, SimpleNamespace(size=size)))


FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, "DeepSpeed.*--use_fsdp --fsdp_version 2"),
        ({"ACCELERATE_USE_FSDP": "true"}, "version 1 of FSDP.*fsdp_version: 2"),
        (FSDP | {"FSDP_OFFLOAD_PARAMS": "true"}, "fsdp_offload_params.*nf4"),
        (FSDP | {"FSDP_RESHARD_AFTER_FORWARD": "false"}, "whole base on every GPU.*--multi_gpu"),
        (FSDP | {"FSDP_ACTIVATION_CHECKPOINTING": "true"}, "recipe's gradient_checkpointing"),
    ],
)
def test_what_cannot_be_sharded_is_refused_with_a_reason(
    tmp_path: Path,
    short_recipe: Path,
    monkeypatch: pytest.MonkeyPatch,
    said: dict[str, str],
    reason: str,
) -> None:
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=reason):
        launched(tmp_path, short_recipe)
    launched(tmp_path, short_recipe, size=1)


def test_the_second_version_of_fsdp_is_taken_but_not_over_int8(
    tmp_path: Path, short_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    launched(tmp_path, short_recipe)
    recipe = yaml.safe_load(short_recipe.read_text())
    short_recipe.write_text(yaml.safe_dump(recipe | {"quantization": "int8"}))
    with pytest.raises(InputError, match=r"int8 cannot be sharded.*use nf4 or none"):
        launched(tmp_path, short_recipe)


def test_sharding_is_medbenchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where accelerate's variable stays, transformers loads zeros in all but the first process."""
    monkeypatch.setenv("MEDBENCH_SHARDED", "false")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    Ranks().connect("cpu")
    assert "ACCELERATE_USE_FSDP" not in os.environ
    assert not sharded(), "one process has nobody to share with"


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path: Path, short_recipe: Path) -> None:
    with pytest.raises(InputError, match="batch_size 8 cannot be shared evenly by 3 processes"):
        launched(tmp_path, short_recipe, size=3)


def test_the_recipe_says_the_precision_and_not_the_launcher(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    Ranks().connect("cpu")
    assert "ACCELERATE_MIXED_PRECISION" not in os.environ
