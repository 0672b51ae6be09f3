"""The samples table, row by row."""

from pathlib import Path

import numpy as np
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from medbench.errors import StageError
from medbench.harness.evaluate import COLUMNS, Asking, score
from medbench.harness.scorer.lm import PackedLM
from medbench.tasks.catalog import task
from medbench.tasks.templates import Prompt

import pandas as pd  # isort: skip


def samples(
    clinic: Path, name: str, **options: int
) -> tuple[pd.DataFrame, list[tuple[int, int, str]]]:
    model = AutoModelForCausalLM.from_pretrained(clinic)
    tokenizer = AutoTokenizer.from_pretrained(clinic)
    heard: list[tuple[int, int, str]] = []
    found = score(
        "base",
        PackedLM(pretrained=model, tokenizer=tokenizer, batch_size=4),
        task(name),
        Asking(limit=options.get("limit", 8), orders=options.get("orders", 1)),
        tick=lambda done, total, note: heard.append((done, total, note)),
    )
    return found, heard


def test_multiple_choice_rows(clinic: Path) -> None:
    table, heard = samples(clinic, "clinic_text")
    assert list(table.columns) == COLUMNS
    assert table["doc_id"].tolist() == list(range(8))
    for row in table.to_dict("records"):
        best = row["options"][int(np.argmax(row["option_scores"]))]
        assert row["prediction"] == best
        assert row["score"] == float(best == row["target"])
        assert row["target"] in row["options"]
        assert row["question"] in row["prompt"]
        assert row["weight"] == 1
    assert heard[-1][0] == heard[-1][1] == 8 * 4


def test_generated_rows(clinic: Path) -> None:
    table, heard = samples(clinic, "clinic_open")
    for row in table.to_dict("records"):
        assert row["output_tokens"] > 0
        assert row["unparsed"] == (row["prediction"] is None)
        assert not (row["score"] and row["unparsed"])
    assert heard[-1][:2] == (8, 8)


def test_bits_rows_and_their_value(clinic: Path) -> None:
    import torch

    table, _ = samples(clinic, "clinic_response", limit=2)
    model = AutoModelForCausalLM.from_pretrained(clinic)
    tokenizer = AutoTokenizer.from_pretrained(clinic)
    for row in table.to_dict("records"):
        assert row["weight"] == len(row["target"].encode()) + 1
        prompt = tokenizer(row["prompt"])["input_ids"]
        whole = prompt + tokenizer("\n" + row["target"], add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logp = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        at = range(len(prompt), len(whole))
        nats = -sum(logp[i - 1, whole[i]].item() for i in at)
        assert row["score"] == pytest.approx(nats / np.log(2), rel=1e-4)


def test_every_order_of_the_options(clinic: Path) -> None:
    once, _ = samples(clinic, "clinic_letters", limit=5)
    table, _ = samples(clinic, "clinic_letters", limit=5, orders=3)
    assert table["order"].tolist() == [0, 1, 2] * 5
    assert table["cluster"].tolist() == [str(q) for q in range(5) for _ in range(3)]
    for row, first in zip(table.to_dict("records")[::3], once.to_dict("records"), strict=True):
        assert row["prompt"] == first["prompt"]
        assert row["option_scores"] == pytest.approx(first["option_scores"], abs=1e-4)
    for _, question in table.groupby("cluster"):
        assert len({tuple(sorted(options)) for options in question["options"]}) == 1
        assert question["target"].nunique() == 1
        assert question["prompt"].nunique() == 3
    text, _ = samples(clinic, "clinic_text", limit=5, orders=3)
    assert text["order"].tolist() == [0] * 5, "options that are not shown have no order"


@pytest.mark.parametrize(
    "name", ["clinic_text", "clinic_letters", "clinic_open", "clinic_response"]
)
def test_a_prompt_that_does_not_fit_is_marked_where_lm_eval_cuts_it(
    clinic: Path, name: str
) -> None:
    """At the last length that holds the prompt nothing changes; one token less changes figures."""
    model = AutoModelForCausalLM.from_pretrained(clinic)
    tokenizer = AutoTokenizer.from_pretrained(clinic)

    def asked(length: int) -> pd.DataFrame:
        lm = PackedLM(
            pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=length, truncation=True
        )
        return score("base", lm, task(name), Asking(limit=1))

    (row,) = asked(512).to_dict("records")
    prompt = len(tokenizer(row["prompt"])["input_ids"])
    if task(name).generates:
        fits = prompt + 96
    else:
        shown = {"clinic_text": row["options"], "clinic_letters": "ABCD"}
        answers = shown.get(name, ["\n" + row["target"]])
        space = "" if name == "clinic_response" else " "
        fits = prompt - 1 + max(
            len(tokenizer(space + text, add_special_tokens=False)["input_ids"]) for text in answers
        )  # fmt: skip
    (fitting,), (cut,) = (asked(length).to_dict("records") for length in (fits, fits - 1))
    assert (fitting["cut"], cut["cut"]) == (False, True)
    for key in ("score", "option_scores", "output"):
        assert fitting[key] == (row[key] if key == "output" else pytest.approx(row[key], rel=1e-5))
    if not task(name).generates:
        figures = [[one["score"], *one["option_scores"]] for one in (row, cut)]
        assert figures[0] != pytest.approx(figures[1], rel=1e-5), "its first token was gone"


def test_an_answer_as_long_as_the_context_is_refused(clinic: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(clinic)
    tokenizer = AutoTokenizer.from_pretrained(clinic)
    lm = PackedLM(pretrained=model, tokenizer=tokenizer, batch_size=1, max_length=96)
    message = r"clinic_open, model base: .* 96 tokens, .* model's 96; set prompt\.max_tokens"
    with pytest.raises(StageError, match=message):
        score("base", lm, task("clinic_open"), Asking(limit=1))
    fitting = Asking(limit=1, prompt=Prompt(max_tokens=8))
    assert len(score("base", lm, task("clinic_open"), fitting)) == 1
