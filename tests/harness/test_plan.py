"""What is found wrong, or worth a warning, before anything runs."""

from pathlib import Path

import pytest
import yaml

from medbench.errors import InputError
from medbench.finetune.recipe import load_recipe
from medbench.harness.notes import notes
from medbench.harness.planning.plan import Plan, make_plan
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


def leaks(made: Plan) -> list[str]:
    return [note for note in notes(made) if note.startswith("Leak")]


@pytest.mark.parametrize(
    ("data", "test"),
    [
        ({"source": "medqa_us_4options"}, "medqa_us_4options"),
        ({"source": "hub:openlifescienceai/medmcqa", "split": "validation"}, "medmcqa"),
        ({"source": "hub:cais/mmlu", "config": "anatomy", "split": "dev+test[:9]"}, "mmlu_anatomy"),
    ],
)
def test_a_test_set_is_not_tuned_on_by_any_name(
    tmp_path: Path, data: dict[str, str], test: str
) -> None:
    with pytest.raises(InputError, match=rf"is a test set \({test}\); .*medical_o1_en"):
        plan(tmp_path, **data)


def test_the_training_split_of_a_test_set_may_be_tuned_on(tmp_path: Path) -> None:
    made = plan(tmp_path, source="hub:openlifescienceai/medmcqa", split="train")
    assert made.recipes["tuned"].data.source == "hub:openlifescienceai/medmcqa"


def test_tuning_on_held_out_rows_is_said_at_the_top(tmp_path: Path) -> None:
    assert leaks(plan(tmp_path)) == []
    (leak,) = leaks(plan(tmp_path, hold_out=False))
    assert "tuned was tuned on medical_o1_en" in leak
    assert "scores on medical_o1_heldout mean nothing" in leak


@pytest.mark.parametrize(
    ("data", "leaked"),
    [
        # The same questions in other columns: medical-o1 was made from the verifiable problems.
        ({"source": "medical_o1_verifiable"}, True),
        ({"source": "hub:FreedomIntelligence/medical-o1-verifiable-problem"}, True),
        ({"source": "hub:FreedomIntelligence/medical-o1-reasoning-SFT", "config": "en"}, True),
        ({"source": "hub:FreedomIntelligence/medical-o1-reasoning-SFT", "config": "en_mix"}, True),
        ({"source": "hub:FreedomIntelligence/medical-o1-reasoning-SFT", "config": "zh"}, False),
        ({"source": "medical_o1_zh"}, False),
        ({"source": "hub:somebody/else"}, False),
    ],
)
def test_a_leak_is_known_by_the_questions_and_not_by_the_name(
    tmp_path: Path, data: dict[str, str], leaked: bool
) -> None:
    made = plan(tmp_path, hold_out=False, question="Question", **data)
    assert bool(leaks(made)) is leaked
    assert leaks(plan(tmp_path, hold_out=True, question="Question", **data)) == []


def test_a_placeholder_model_is_said_at_the_top(tmp_path: Path) -> None:
    (note,) = [note for note in notes(plan(tmp_path)) if "Placeholder" in note]
    assert "medqa, medical_o1_heldout are meaningless" in note
