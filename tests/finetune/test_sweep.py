"""Several adapters over one base: one run, one report."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from medbench.finetune import train
from medbench.finetune.adapters import Lora
from medbench.finetune.recipe import Recipe, load_recipe
from medbench.harness.folder.store import RunFolder
from medbench.harness.models import load as models
from medbench.harness.planning.plan import Plan, make_plan
from medbench.harness.progress import Tick, silent
from medbench.harness.run import execute, open_folder
from medbench.harness.suite import load_suite
from medbench.reports import Report

NAMES = ["base", "tuned-r8", "tuned-r16", "tuned-r32"]


class Unheard:
    def begin(self, stage: str) -> Tick:
        return silent

    def end(self, stage: str, seconds: float | None, detail: dict[str, Any]) -> None:
        pass


def recipe_of(suite: str, model: str) -> Recipe:
    adapter = load_suite(suite).models[model].adapter
    assert adapter is not None
    return load_recipe(str(adapter.recipe))


def short(folder: Path, suite: str) -> Plan:
    """The sweep, each of its recipes cut to a few steps."""
    overrides = ["tasks=[clinic_text]", "limit=6"]
    for name in NAMES[1:]:
        recipe = recipe_of(suite, name)
        cut = {"steps": 4, "logging_steps": 2, "warmup_steps": 0}
        path = folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe.model_copy(update=cut).model_dump()), "utf-8")
        overrides.append(f"models.{name}.adapter.recipe={path}")
    chosen = load_suite(suite, overrides)
    return make_plan(chosen, models=",".join(NAMES), tasks=None, device="cpu", command="test")


def test_a_sweep_over_ranks_is_one_run_over_one_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: dict[str, list[str]] = {"score": [], "tune": []}
    load = models.load_base

    def counted(kind: str) -> Any:
        def load_base(spec: Any, device: str, **options: Any) -> Any:
            loaded[kind].append(spec.quantization)
            return load(spec, device, **options)

        return load_base

    monkeypatch.setattr(models, "load_base", counted("score"))
    monkeypatch.setattr(train, "load_base", counted("tune"))
    plan = short(tmp_path, "clinic-ranks")
    execute(plan, open_folder(tmp_path / "R", plan, fresh=False), Unheard())
    assert loaded["score"] == ["none"], "four models, one base in memory"
    assert loaded["tune"] == ["nf4"] * 3, "each tuning has its own, held in 4 bit"

    run = RunFolder.open(tmp_path / "R")
    report = Report.read(run)
    assert [model.name for model in report.models] == NAMES
    assert [one.tuned for one in report.comparisons] == NAMES[1:]
    assert [training.model for training in report.trainings] == NAMES[1:]
    trained = [
        run.manifest()["stages"][f"tune/{name}"]["detail"]["trainable_parameters"]
        for name in NAMES[1:]
    ]
    assert trained == [trained[0], 2 * trained[0], 4 * trained[0]]


@pytest.mark.parametrize("suite", ["clinic-ranks", "medical-o1-ranks"])
def test_only_the_rank_differs(suite: str) -> None:
    recipes = []
    for name in NAMES[1:]:
        recipe = recipe_of(suite, name)
        assert isinstance(recipe.adapter, Lora)
        assert recipe.adapter.alpha == recipe.adapter.r == int(name.removeprefix("tuned-r"))
        alike = recipe.adapter.model_copy(update={"r": 1, "alpha": 1})
        recipes.append(recipe.model_copy(update={"name": "", "adapter": alike}))
    assert recipes[0] == recipes[1] == recipes[2]
