"""The shipped recipes of articles, trained on invented rows of the columns that their data has.

The base is the embedded model without quantisation; all else is what the recipe says.
"""

import csv
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file

from medbench.errors import InputError
from medbench.finetune.dataset import examples, prepare
from medbench.finetune.recipe import RECIPES, Recipe, load_recipe
from medbench.finetune.train import Job, tune
from medbench.harness.models.load import load_base
from medbench.harness.progress import silent
from medbench.harness.suite import ModelSpec
from medbench.tasks.sources import DATA_DIR

BASE = ModelSpec(pretrained="embedded:clinic")
THINKS = "### Question:\n{Question}\n\n### Response:\n<think>\n{Complex_CoT}\n</think>\n{Response}"
DIALOGUES = [f"article-dialogue-r{rank}" for rank in (8, 16, 32)]


def invented(number: int, letters: str, count: int, size: int) -> list[str]:
    """Words that no other row has: rows that resemble a held-out one are not tuned on."""
    rng = random.Random(number)
    return ["".join(rng.choices(letters, k=size)) for _ in range(count)]


def english(number: int) -> dict[str, str]:
    words = " ".join(invented(number, "abcdefgiklmnoprstuvz", 8, 6))
    return {
        "Question": f"Which drug: {words}?",
        "Complex_CoT": f"The fever is {number}.",
        "Response": "Zolvane.",
    }


def traditional(number: int) -> dict[str, str]:
    words = invented(number, "發燒咳嗽頭痛該用哪種藥應體溫病程與腎臟檢查結果診斷症狀", 1, 24)[0]
    return {
        "Question": f"{words}？",
        "Complex_CoT": "先看體溫，再看病程。",
        "Response": "應該使用佐凡。",
    }


def call(number: int) -> dict[str, str]:
    return {
        "dialogue": f"caller: This is office {number}. receiver: What is it about?",
        "type": ("ssn", "refund", "delivery", "appointment")[number % 4],
        "labels": str(int(number % 4 < 2)),
    }


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that medbench starts from, with every data set that the recipes name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(DATA_DIR, str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    for name, row, count in (
        ("medical_o1_en/rows", english, 700),
        ("medical_o1_zh/rows", traditional, 60),
        ("cot-zh-hant", traditional, 60),
    ):
        path = Path(f"{name}.jsonl")
        path.parent.mkdir(exist_ok=True)
        lines = (json.dumps(row(number), ensure_ascii=False) for number in range(count))
        path.write_text("\n".join(lines) + "\n", "utf-8")
    # A folder of this name here stands for the Hub's data set: so datasets.load_dataset has it.
    calls = Path("BothBosu/scam-dialogue/train.csv")
    calls.parent.mkdir(parents=True)
    with calls.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, ["dialogue", "type", "labels"])
        table.writeheader()
        table.writerows(map(call, range(640)))
    return tmp_path


def here(name: str, **change: Any) -> Recipe:
    """The shipped recipe on this machine: nothing quantised, no GPU's optimizer."""
    changed = {"quantization": "none", "precision": "float32", "optimizer": "adamw_torch"}
    return load_recipe(name).model_copy(update=changed | {"logging_steps": 1} | change)


def trained(folder: Path, recipe: Recipe) -> tuple[dict[str, Any], pd.DataFrame]:
    detail = tune(Job(BASE, recipe, folder / "adapter", folder / "steps", "cpu"), silent)
    weights = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert any(tensor.abs().max() > 0 for name, tensor in weights.items() if "lora_B" in name)
    return detail, pd.read_csv(folder / "adapter" / "losses.csv")


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("article-aws", english),
        ("article-cloud", english),
        ("article-qlora-paper", english),
        ("article-zh-hant", traditional),
        ("medical-o1-zh", traditional),
    ],
)
def test_a_recipe_of_questions_and_reasoning(
    data: Path, name: str, row: Callable[[int], dict[str, str]]
) -> None:
    recipe = here(name, steps=2, epochs=None, watch=[])
    detail, log = trained(data, recipe)
    assert detail["steps"] == 2
    assert len(log["loss"]) == 2
    assert log["loss"].map(math.isfinite).all()
    _, tokenizer = load_base(BASE, "cpu")
    texts = examples(recipe, recipe.seed, tokenizer)
    for one in texts[:5]:
        assert one.prompt + one.completion == THINKS.format(**row(one.row))
    first = prepare(recipe, tokenizer).train[0]
    assert -100 not in first["labels"], "the loss is on the whole text"


@pytest.mark.parametrize("name", DIALOGUES)
def test_a_recipe_of_dialogues(data: Path, name: str) -> None:
    recipe = here(name, steps=2, epochs=None)
    detail, log = trained(data, recipe)
    assert detail["rows"] == 600
    assert log["loss"].map(math.isfinite).all()
    _, tokenizer = load_base(BASE, "cpu")
    one = examples(recipe, recipe.seed, tokenizer)[5]
    assert one.prompt == f"### Dialogue:\n{call(5)['dialogue']}\n\n### Kind:\n"
    assert one.completion == "refund"
    first = prepare(recipe, tokenizer).train[0]
    answer = [token for token in first["labels"] if token != -100]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "ssn", "the loss is on the kind"


def test_the_dialogues_kinds_have_the_columns_of_the_data_set(data: Path) -> None:
    calls = data / "BothBosu/scam-dialogue/train.csv"
    calls.write_text(calls.read_text("utf-8").replace("dialogue,type,labels", "text,type,labels"))
    with pytest.raises(InputError, match=r"no column 'dialogue'.*its columns are: text, type"):
        examples(here(DIALOGUES[0]), 0, None)


class EnoughError(Exception):
    """Raised to end a tuning that has shown what it is asked for."""


@pytest.mark.parametrize(
    ("name", "steps"), [*((name, 38) for name in DIALOGUES), ("article-aws", 63)]
)
def test_an_epoch_has_the_steps_that_the_recipe_says(data: Path, name: str, steps: int) -> None:
    def hear(done: int, total: int, note: str) -> None:
        assert total == steps
        if done == 2:
            raise EnoughError

    with pytest.raises(EnoughError):
        tune(Job(BASE, here(name), data / "adapter", data / "steps", "cpu"), hear)
    header = (RECIPES / f"{name}.yaml").read_text("utf-8").replace("# ", "")
    assert f"{steps} steps" in " ".join(header.split())
