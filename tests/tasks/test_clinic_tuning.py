"""The embedded model's promise, and its control: minutes, so marked slow."""

import json
from pathlib import Path

import pytest

from medbench.finetune.recipe import Recipe, load_recipe
from medbench.finetune.train import Job, tune
from medbench.harness.evaluate import Asking, score
from medbench.harness.models.load import ScoringPool
from medbench.harness.progress import silent
from medbench.harness.suite import AdapterSpec, ModelSpec
from medbench.tasks import datasets
from medbench.tasks.catalog import task
from medbench.tasks.clinic import build_world, choice_docs, o1_docs, tuning_rows

pytestmark = pytest.mark.slow

SPECS = {
    "base": ModelSpec(pretrained="embedded:clinic"),
    "tuned": ModelSpec(base="base", adapter=AdapterSpec(recipe="clinic")),
}


def scores(recipe: Recipe, out: Path) -> dict[tuple[str, str], float]:
    """Tune by *recipe*, then score base and tuned by generated answer and by option text."""
    tune(Job(SPECS["base"], recipe, out, out.with_name("steps"), "cpu"), silent)
    pool = ScoringPool(SPECS, {"tuned": out}, "cpu")
    found = {}
    for name in SPECS:
        for each in ("clinic_open", "clinic_text"):
            with pool.use(name) as lm:
                samples = score(name, lm, task(each), Asking())
            found[name, each] = float(samples["score"].mean())
            if each == "clinic_open":
                found[name, "unparsed"] = float(samples["unparsed"].mean())
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tuning_brings_knowledge_to_use(tmp_path: Path, seed: int) -> None:
    recipe = load_recipe("clinic").model_copy(update={"seed": seed})
    found = scores(recipe, tmp_path / "adapter")
    assert found["base", "unparsed"] <= 0.05
    assert found["base", "clinic_open"] <= 0.35, "near chance, by guessing in due form"
    assert found["base", "clinic_text"] <= 0.35
    assert found["tuned", "clinic_open"] >= 0.8
    assert found["tuned", "clinic_text"] >= 0.8


def test_what_was_never_learned_cannot_be_brought_to_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a world that is in no pre-training document. Tuning leaves it at chance."""
    world = build_world(1)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps(row) for row in tuning_rows(0, world)) + "\n")
    monkeypatch.setattr(datasets, "choice_docs", lambda split: choice_docs(split, world))
    monkeypatch.setattr(datasets, "o1_docs", lambda split: o1_docs(split, world))
    recipe = load_recipe("clinic")
    data = recipe.data.model_copy(update={"source": str(rows)})
    found = scores(recipe.model_copy(update={"data": data}), tmp_path / "adapter")
    assert found["tuned", "clinic_open"] <= 0.1, "any of 32 values may be named"
    assert 0.15 <= found["tuned", "clinic_text"] <= 0.35
