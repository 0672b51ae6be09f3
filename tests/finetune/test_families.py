"""Every kind of adapter and of base that a shipped recipe trains, on the embedded model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel

from medbench.finetune.adapters import Lora
from medbench.finetune.recipe import Recipe, builtin_recipes, load_recipe
from medbench.finetune.train import Job, tune
from medbench.harness.evaluate import Asking, score
from medbench.harness.models.load import ScoringPool, load_base
from medbench.harness.progress import silent
from medbench.harness.suite import AdapterSpec, ModelSpec
from medbench.tasks import catalog
from medbench.tasks.templates import Prompt

BASE = ModelSpec(pretrained="embedded:clinic")
FAMILIES = {
    "medical-o1-qlora": "LORA",
    "medical-o1-cosine": "LORA",
    "medical-o1-int8": "LORA",
    "medical-o1-bf16": "LORA",
    "medical-o1-dora": "LORA",
    "medical-o1-rslora": "LORA",
    "medical-o1-ia3": "IA3",
    "medical-o1-prefix": "PREFIX_TUNING",
}


def on_the_clinic(name: str) -> Recipe:
    """The shipped recipe *name*, with rows and sizes that the embedded model can take."""
    recipe = load_recipe(name)
    data = load_recipe("clinic").data.model_copy(update={"rows": 16, "validation_rows": 4})
    return recipe.model_copy(
        update={
            "data": data,
            "steps": 3,
            "max_length": 512,
            "batch_size": 4,
            "logging_steps": 1,
            "checkpoint_steps": None,
            "warmup_steps": 0,
            # Three steps at a rate for 8B would change too little to be seen.
            "learning_rate": 1e-2,
        }
    )


def traits(recipe: Recipe) -> dict[str, Any]:
    kind = recipe.adapter
    lora = {"dora": kind.dora, "rslora": kind.rslora} if isinstance(kind, Lora) else {}
    return lora | {
        "kind": kind.kind,
        "quantization": recipe.quantization,
        "schedule": recipe.schedule,
        "optimizer": recipe.optimizer,
        "precision": recipe.precision,
    }


def test_the_families_are_all_that_the_shipped_recipes_have() -> None:
    tested = [traits(load_recipe(name)) for name in [*FAMILIES, "clinic"]]
    for name in builtin_recipes():
        for key, value in traits(load_recipe(name)).items():
            assert any(one.get(key) == value for one in tested), (name, key, value)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipe_trains_saves_reloads_and_changes_the_output(tmp_path: Path, name: str) -> None:
    recipe = on_the_clinic(name)
    detail = tune(Job(BASE, recipe, tmp_path / "tuned", tmp_path / "steps", "cpu"), silent)
    assert detail["steps"] == 3
    assert detail["quantization"] == recipe.quantization
    assert 0 < detail["trainable_parameters"] < detail["parameters"]
    assert load_recipe(str(tmp_path / "tuned" / "recipe.yaml")) == recipe

    model, tokenizer = load_base(BASE, "cpu")
    ids = tokenizer("Question: which drug?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        tuned = PeftModel.from_pretrained(model, tmp_path / "tuned")
        after = tuned(input_ids=ids).logits
    saved = tuned.peft_config["default"]
    assert saved.peft_type == FAMILIES[name]
    if isinstance(recipe.adapter, Lora):
        assert (saved.r, saved.use_dora) == (recipe.adapter.r, recipe.adapter.dora)
        assert saved.use_rslora == recipe.adapter.rslora
    assert torch.isfinite(after).all()
    assert (after[:, -1] - before[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["medical-o1-prefix", "medical-o1-ia3", "medical-o1-dora"])
def test_the_scorer_takes_them_and_agrees_with_lm_eval(tmp_path: Path, name: str) -> None:
    """A prefix forbids packed rows; the scorer finds out by itself."""
    tune(Job(BASE, on_the_clinic(name), tmp_path / "tuned", tmp_path / "steps", "cpu"), silent)
    task = catalog.tasks()["clinic_text"]
    scores = {}
    for backend in ("medbench", "hf"):
        specs = {
            "base": BASE.model_copy(update={"backend": backend}),
            "tuned": ModelSpec(base="base", adapter=AdapterSpec(path=str(tmp_path / "tuned"))),
        }
        pool = ScoringPool(specs, {"tuned": tmp_path / "tuned"}, "cpu")
        for model in specs:
            with pool.use(model) as lm:
                table = score(model, lm, task, Asking(6, 1, Prompt()), silent)
            scores[backend, model] = np.array(table["option_scores"].tolist())
        assert pool.changes["tuned"] > 0
    for model in specs:
        np.testing.assert_allclose(scores["medbench", model], scores["hf", model], atol=1e-3)
    assert np.abs(scores["hf", "tuned"] - scores["hf", "base"]).max() > 1e-2
