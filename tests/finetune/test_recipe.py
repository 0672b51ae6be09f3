from pathlib import Path

import pytest
import yaml

from medbench.errors import InputError
from medbench.finetune.adapters import Lora
from medbench.finetune.dataset import Example, examples, fingerprint
from medbench.finetune.recipe import RECIPES, Recipe, builtin_recipes, load_recipe


@pytest.mark.parametrize("name", builtin_recipes())
def test_every_shipped_recipe_loads_and_is_spelled_out(name: str) -> None:
    recipe = load_recipe(name)
    raw = yaml.safe_load((RECIPES / f"{name}.yaml").read_text("utf-8"))
    assert recipe.name == name
    assert recipe.model_dump() == Recipe.model_validate(raw).model_dump()
    assert set(raw) == set(Recipe.model_fields), "every key stands in the file"
    assert set(raw["data"]) == set(type(recipe.data).model_fields)
    assert set(raw["adapter"]) == set(type(recipe.adapter).model_fields)


def test_the_tutorials_recipe() -> None:
    recipe = load_recipe("medical-o1-qlora")
    lora = recipe.adapter
    assert isinstance(lora, Lora)
    assert (lora.r, lora.alpha, lora.dropout) == (16, 16, 0.0)
    assert (recipe.batch_size, recipe.steps) == (8, 60)
    assert (recipe.learning_rate, recipe.seed, recipe.quantization) == (2e-4, 3407, "nf4")
    assert recipe.data.hold_out


def test_the_resolved_yaml_is_the_recipe() -> None:
    recipe = load_recipe("clinic")
    assert Recipe.model_validate(yaml.safe_load(recipe.yaml())) == recipe


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"steps": None, "epochs": None}, ["exactly one of 'steps' and 'epochs'"]),
        ({"steps": 5, "epochs": 1.0}, ["exactly one of 'steps' and 'epochs'"]),
        ({"micro_batch_size": 3}, ["batch_size 8", "micro_batch_size 3"]),
        ({"learning_rate": -1}, ["learning_rate"]),
        ({"learnig_rate": 1e-3}, ["learnig_rate", "learning_rate"]),
        ({"quantization": "int3"}, ["quantization", "nf4"]),
        ({"adapter": {"kind": "lora", "r": 16}}, ["adapter", "alpha"]),
        ({"adapter": {"kind": "lorra"}}, ["adapter", "lora", "ia3", "prefix"]),
        ({"checkpoint_steps": 15}, ["checkpoint_steps 15", "logging_steps 10"]),
        ({"format": "messages"}, ["null for both"]),
    ],
)
def test_wrong_recipes_name_the_key(
    tmp_path: Path, change: dict[str, object], parts: list[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(load_recipe("clinic").model_dump() | change))
    with pytest.raises(InputError) as caught:
        load_recipe(str(path))
    for part in [str(path), *parts]:
        assert part in str(caught.value)


def test_examples_fill_the_templates(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text('{"Question": "Why {x}?", "Complex_CoT": "c", "Response": "r"}\n')
    recipe = load_recipe("clinic")
    mine = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": str(data)})})
    assert examples(mine, seed=0) == [Example(0, "Question: Why {x}?\n", "<think>c</think>\nr")]


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        ('{"Question": "q", "Response": "r"}\n', "row 0: no text in column 'Complex_CoT'"),
        ('{"Question": "q", "Response": "r", "Complex_CoT": 3}\n', "row 0: no text"),
        ("\n", "is left to tune on"),
    ],
)
def test_rows_that_do_not_fit_are_named(tmp_path: Path, rows: str, part: str) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(rows)
    recipe = load_recipe("clinic")
    mine = recipe.model_copy(update={"data": recipe.data.model_copy(update={"source": str(data)})})
    with pytest.raises(InputError, match=part):
        examples(mine, seed=0)


def test_the_data_hash_follows_rows_and_order() -> None:
    rows = [Example(0, "a", "b"), Example(1, "c", "d")]
    assert fingerprint(rows) != fingerprint(rows[::-1])
    assert fingerprint(rows) == fingerprint([Example(5, "a", "b"), Example(6, "c", "d")])
