import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from medbench.errors import InputError
from medbench.finetune.adapters import Lora
from medbench.finetune.dataset import Example, examples, fingerprint
from medbench.finetune.recipe import RECIPES, Recipe, builtin_recipes, load_recipe
from medbench.harness.suite import load_suite


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


@pytest.mark.parametrize("name", builtin_recipes())
def test_a_recipe_says_how_it_is_run(name: str) -> None:
    """The command in its first lines names a suite that there is, and trains this recipe."""
    text = (RECIPES / f"{name}.yaml").read_text("utf-8")
    header = [line for line in text.splitlines() if line.startswith("#")]
    assert text.startswith("# ")
    command = " ".join(line.removeprefix("#").strip(" \\") for line in header if "#   " in line)
    words = shlex.split(command)
    program = words.index("medbench")
    assert words[program + 1] == "run"
    options = list(zip(words[program + 2 :: 2], words[program + 3 :: 2], strict=True))
    suite = dict(options).get("--suite", "quickstart")
    chosen = load_suite(suite, [value for flag, value in options if flag == "--set"])
    named = [spec.adapter.recipe for spec in chosen.models.values() if spec.adapter]
    assert name in named


def test_warm_up_in_steps_or_as_a_share() -> None:
    assert load_recipe("medical-o1-qlora").warmup_steps == 5
    assert load_recipe("huatuo-o1-sft").warmup_steps == 0.05


def test_the_articles_recipes() -> None:
    tutorial = load_recipe("medical-o1-qlora")
    assert tutorial.loss_on == "text", "the published loss is of the whole text"
    alike = {"name": "", "watch": [], "seed": 0, "steps": None, "epochs": None}
    changes: dict[str, dict[str, Any]] = {
        "article-qlora-paper": {"watch": ["wandb"]},
        "article-cloud": {"seed": 522},
        "article-aws": {"steps": None, "epochs": 1.0},
    }
    for name, differs in changes.items():
        recipe = load_recipe(name)
        assert {key: getattr(recipe, key) for key in differs} == differs
        assert recipe.model_copy(update=alike) == tutorial.model_copy(update=alike)
    for rank in (8, 16, 32):
        recipe = load_recipe(f"article-dialogue-r{rank}")
        assert isinstance(recipe.adapter, Lora)
        assert (recipe.adapter.r, recipe.data.rows, recipe.batch_size) == (rank, 600, 16)
        assert recipe.data.source == "hub:BothBosu/scam-dialogue"


@pytest.mark.parametrize("name", builtin_recipes())
def test_the_resolved_yaml_is_the_recipe(name: str) -> None:
    recipe = load_recipe(name)
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
        ({"warmup_steps": 1.5}, ["warmup_steps"]),
        ({"warmup_steps": -1}, ["warmup_steps"]),
        ({"logging_steps": 400}, ["logging_steps 400", "no loss"]),
        ({"watch": ["neptune"]}, ["watch", "wandb"]),
        (
            {"adapter": {"kind": "prefix", "virtual_tokens": 3}, "gradient_checkpointing": True},
            ["a prefix does not survive gradient_checkpointing"],
        ),
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
