"""Every spec: described in full, and usable by lm-eval as it is."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from medbench.errors import InputError
from medbench.tasks.catalog import SPECS, task, tasks
from medbench.tasks.sources import SOURCES


@pytest.mark.parametrize("name", list(tasks()))
def test_every_spec_says_how_and_whence(name: str) -> None:
    found = task(name)
    assert found.spec == SPECS / f"{name}.yaml"
    assert found.protocol
    assert found.source
    assert found.licence
    assert found.metric in ("acc", "bits_per_byte")
    assert found.higher_is_better == (found.metric == "acc")
    chosen = found.metric == "acc" and found.data != "medical_o1_verifiable"
    assert (found.chance is None) == (not chosen)
    assert found.data == "clinic" or found.data in SOURCES


def test_unknown_task_lists_the_known() -> None:
    with pytest.raises(InputError, match="clinic_text"):
        task("clinic_txt")


@pytest.mark.parametrize("name", [n for n, t in tasks().items() if t.data == "clinic"])
def test_the_stated_number_of_questions_is_the_number(name: str) -> None:
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(SPECS), include_defaults=False)
    loaded = manager.load([name])["tasks"][name]
    assert len(loaded.eval_docs) == task(name).questions


def test_plain_lm_eval_gives_medbench_scores(clinic: Path, tmp_path: Path) -> None:
    """The unmodified command line over the specs, against medbench, on the same questions."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from medbench.harness.evaluate import Asking, score
    from medbench.harness.scorer.lm import PackedLM

    names = ["clinic_letters", "clinic_open", "clinic_response", "clinic_text"]
    subprocess.run(
        [
            sys.executable, "-m", "lm_eval", "--model", "hf",
            "--model_args", f"pretrained={clinic},dtype=float32",
            "--include_path", str(SPECS), "--tasks", ",".join(names),
            "--device", "cpu", "--batch_size", "16", "--limit", "24",
            "--output_path", str(tmp_path / "out"),
        ],
        check=True, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    (file,) = (tmp_path / "out").rglob("results_*.json")
    theirs = json.loads(file.read_text())["results"]
    model = AutoModelForCausalLM.from_pretrained(clinic)
    tokenizer = AutoTokenizer.from_pretrained(clinic)
    for name in names:
        lm = PackedLM(pretrained=model, tokenizer=tokenizer, batch_size=16)
        samples = score("base", lm, task(name), Asking(limit=24))
        ours = samples["score"].sum() / samples["weight"].sum()
        assert ours == pytest.approx(theirs[name][f"{task(name).metric},none"], abs=1e-6)
