"""Rows of the samples table whose answer was generated and read."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from medbench.harness.evaluate import _row
from medbench.tasks.answers import grade_choice
from medbench.tasks.catalog import task

DOC = {"question": "Which?", "options": ["Zolvex", "Trinol"], "gold": 1, "target": "Trinol"}


def row(clinic: Path, output: str, prompt: str = "Question: Which?\n", limit: int = 64) -> Any:
    sample = {
        "doc": DOC, "doc_id": 0, "doc_hash": "d", "prompt_hash": "p", "target_hash": "t",
        "arguments": [(prompt, {"max_gen_toks": limit})], "resps": [[output]],
        "filtered_resps": [output], **grade_choice(DOC, [output]),
    }  # fmt: skip
    lm = SimpleNamespace(tokenizer=AutoTokenizer.from_pretrained(clinic))
    return _row("base", task("medqa_cot"), sample, lm)


def test_the_prediction_is_the_text_of_the_option_named(clinic: Path) -> None:
    found = row(clinic, "Hm. The answer is B.")
    assert (found["prediction"], found["score"], found["problem"]) == ("Trinol", 1.0, None)
    assert not found["unparsed"]


@pytest.mark.parametrize(
    ("output", "problem"),
    [("", "empty"), ("A or B", "several"), ("The answer is E", "out_of_range")],
)
def test_what_is_not_read_is_wrong_and_says_why(clinic: Path, output: str, problem: str) -> None:
    found = row(clinic, output)
    assert (found["prediction"], found["score"]) == (None, 0.0)
    assert (found["problem"], found["unparsed"]) == (problem, True)


def test_reasoning_that_the_prompt_opened_has_to_end(clinic: Path) -> None:
    prompt = "Question: Which?\n<think>\n"
    assert row(clinic, "The answer is B.", prompt)["problem"] == "unclosed"
    assert row(clinic, "The answer is B.", prompt)["score"] == 0
    assert row(clinic, "A?</think>The answer is B.", prompt)["score"] == 1


def test_the_token_limit_names_the_problem(clinic: Path) -> None:
    found = row(clinic, "The patient has a fever and", limit=3)
    assert (found["problem"], found["truncated"]) == ("truncated", True)
