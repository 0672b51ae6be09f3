"""What is found wrong, or worth a warning, before anything runs."""

from pathlib import Path

import pytest
import yaml

from medbench.errors import InputError
from medbench.finetune.recipe import load_recipe
from medbench.harness.plan import Plan, make_plan
from medbench.harness.suite import load_suite


def plan(tmp_path: Path, **data: object) -> Plan:
    """The real suite on the embedded model, its recipe's data section changed."""
    recipe = load_recipe("medical-o1-qlora").model_dump()
    recipe["data"] |= data
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    overrides = [
        "models.base={pretrained: 'embedded:clinic'}",
        f"models.tuned.adapter={{recipe: {path}}}",
    ]
    suite = load_suite("medical-o1", overrides)
    return make_plan(suite, models=None, tasks=None, device="cpu", command="test")


def test_a_test_set_is_not_tuned_on(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"medqa_us_4options is a test set; .*medical_o1_en"):
        plan(tmp_path, source="medqa_us_4options")


def test_tuning_on_held_out_rows_is_said_at_the_top(tmp_path: Path) -> None:
    assert not [note for note in plan(tmp_path).notes() if note.startswith("Leak")]
    leaks = [note for note in plan(tmp_path, hold_out=False).notes() if note.startswith("Leak")]
    assert len(leaks) == 1
    assert "tuned was tuned on medical_o1_en" in leaks[0]


def test_a_placeholder_model_is_said_at_the_top(tmp_path: Path) -> None:
    (note,) = [note for note in plan(tmp_path).notes() if "Placeholder" in note]
    assert "medqa, medical_o1_heldout are meaningless" in note
