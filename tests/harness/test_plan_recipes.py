"""What a recipe needs is found missing before anything runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from medbench.errors import InputError
from medbench.finetune.recipe import load_recipe
from medbench.harness.planning.plan import Plan, make_plan
from medbench.harness.suite import load_suite


def plan(folder: Path, *overrides: str, **change: Any) -> Plan:
    recipe = load_recipe("clinic").model_dump() | change
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), "utf-8")
    suite = load_suite("quickstart", [f"models.tuned.adapter.recipe={path}", *overrides])
    return make_plan(suite, models=None, tasks=None, device="cpu", command="test")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    data = load_recipe("clinic").data.model_dump() | {"source": str(tmp_path / "nowhere.jsonl")}
    with pytest.raises(InputError, match=r"data.source: .*nowhere.jsonl.*no such file or source"):
        plan(tmp_path, data=data)


def test_a_prefix_is_neither_exported_nor_timed(tmp_path: Path) -> None:
    prefix = {"kind": "prefix", "virtual_tokens": 4}
    with pytest.raises(InputError, match=r"latency\.models: tuned .*--set latency=null"):
        plan(tmp_path, adapter=prefix)
    assert plan(tmp_path, "latency=null", adapter=prefix).recipes
