"""The scorer in other processes: lm-eval's own command line, and several ranks."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from lm_eval.api.registry import get_model

from medbench.harness.scorer import plugin as scorer_plugin
from medbench.tasks.catalog import SPECS


def test_the_plugin_registers_the_scorer_by_name() -> None:
    importlib.import_module("lm_eval.models")
    scorer_plugin.register()
    scorer_plugin.register()
    assert get_model("medbench").__name__ == "PackedLM"


def test_the_plugin_does_nothing_where_lm_eval_is_not() -> None:
    code = (
        "import sys; from medbench.harness.scorer.plugin import register; register();"
        "assert not {'lm_eval', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def run(command: list[str], **environment: str) -> None:
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        env=os.environ | quiet | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_lm_eval_finds_the_model_by_its_name(tmp_path: Path, clinic: Path) -> None:
    info = tmp_path / "plugin-0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 0\n")
    (info / "entry_points.txt").write_text(
        "[torch.backends]\nplugin = medbench.harness.scorer.plugin:register\n"
    )
    scores = {}
    for model in ("hf", "medbench"):
        out = tmp_path / model
        run(
            [
                "-m", "lm_eval", "run", "--model", model, "--device", "cpu", "--limit", "12",
                "--model_args", f"pretrained={clinic},dtype=float32", "--tasks", "clinic_text",
                "--include_path", str(SPECS), "--output_path", str(out), "--log_samples",
            ],
            PYTHONPATH=str(tmp_path),
        )  # fmt: skip
        (file,) = out.rglob("samples_*.jsonl")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        scores[model] = [float(s) for row in rows for s, _ in row["filtered_resps"]]
    assert scores["medbench"] == pytest.approx(scores["hf"], abs=1e-4)


RANK = """
import json, sys
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager
from medbench.harness.scorer.lm import PackedLM

checkpoint, specs, out = sys.argv[1:]
lm = PackedLM(pretrained=checkpoint, device="cpu", dtype="float32")
found = simple_evaluate(
    model=lm, tasks=["clinic_letters", "clinic_response"], limit=13, bootstrap_iters=0,
    task_manager=TaskManager(include_path=specs, include_defaults=False),
)
if lm.rank == 0:
    rows = [
        (task, s["doc_id"], s["target_hash"], str(s["filtered_resps"]))
        for task, samples in found["samples"].items()
        for s in samples
    ]
    json.dump([lm.world_size, sorted(rows)], open(out, "w"))
"""


@pytest.mark.slow
def test_two_ranks_give_the_table_of_one(tmp_path: Path, clinic: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    tables: dict[int, list[Any]] = {}
    for ranks in (1, 2):
        out = tmp_path / f"{ranks}.json"
        run(
            [
                "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks),
                str(script), str(clinic), str(SPECS), str(out),
            ],
            ACCELERATE_USE_CPU="true",
        )  # fmt: skip
        world, tables[ranks] = json.loads(out.read_text())
        assert world == ranks
    assert [row[:3] for row in tables[1]] == [row[:3] for row in tables[2]]
    for (*_, one), (*_, two) in zip(tables[1], tables[2], strict=True):
        assert numbers(one) == pytest.approx(numbers(two), abs=1e-4)


def numbers(text: str) -> list[float]:
    marks = str.maketrans("[](),", "     ")
    return [float(word) for word in text.translate(marks).split() if word not in {"True", "False"}]
