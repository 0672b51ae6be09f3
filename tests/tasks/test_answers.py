"""Reading answers: what follows the reasoning counts, and nothing is guessed."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medbench.tasks.answers import (
    bits_per_byte,
    grade_choice,
    grade_stated,
    opens_reasoning,
    read,
    same,
)
from medbench.tasks.answers import right as is_right
from medbench.tasks.prompts import LETTERS

CASES = Path(__file__).parent / "answer_cases.yaml"
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "answers.md"
OPTIONS = ["Aspirin", "Metformin", "Warfarin", "Insulin glargine"]
DOC = {"options": OPTIONS, "gold": 1, "target": "Metformin"}


def cases() -> Iterator[tuple[dict[str, Any], dict[str, bool], list[str], str]]:
    found = yaml.safe_load(CASES.read_text("utf-8"))
    for group in found["groups"]:
        options = found["options"].get(group.get("options"))
        doc: dict[str, Any] = {"options": options} if options else {}
        if group.get("several"):
            doc["golds"] = [0]
        state = {key: group.get(key, False) for key in ("opened", "cut")}
        for case in group["cases"]:
            yield doc, state, case, group["form"]


def found(doc: dict[str, Any], output: str, **state: bool) -> str:
    """What is read, as the labels have it."""
    reading = read(doc, output, **state)
    assert (reading.answer is None) == (reading.problem is not None)
    if reading.problem or not doc.get("options"):
        return reading.problem or str(reading.answer)
    assert reading.answer == "; ".join(doc["options"][index] for index in reading.chosen)
    return "".join(LETTERS[index] for index in reading.chosen)


@pytest.mark.parametrize(
    ("doc", "state", "case"),
    [pytest.param(*one[:3], id=f"{one[3]}: {one[2][0][:50]!r}") for one in cases()],
)
def test_labelled_cases(doc: dict[str, Any], state: dict[str, bool], case: list[str]) -> None:
    assert found(doc, case[0], **state) == case[-1]


def table() -> str:
    """The labelled cases by what a reader says, and how many of them are read so."""
    total: Counter[str] = Counter()
    agreed: Counter[str] = Counter()
    for doc, state, case, _ in cases():
        label = case[1]
        stated = label.isupper() or not doc
        kind = label if label in PROBLEMS else "an answer"
        assert kind != "an answer" or stated, f"{label}: no letters, no problem"
        total[kind] += 1
        agreed[kind] += found(doc, case[0], **state) == label
    rows = [f"| {kind} | {total[kind]} | {agreed[kind]} |" for kind in ("an answer", *PROBLEMS)]
    rows.append(f"| all | {total.total()} | {agreed.total()} |")
    return "\n".join(rows)


PROBLEMS = (
    "empty",
    "unclosed",
    "truncated",
    "refused",
    "several",
    "out_of_range",
    "none_of_the_above",
    "unstated",
)


def test_the_documented_accuracy_is_that_of_the_cases() -> None:
    assert sum(1 for _ in cases()) >= 200
    assert table() in PAGE.read_text("utf-8")


anything = st.text(max_size=80)
fragments = st.sampled_from(
    ["The answer is ", "Answer:", "A", "B.", "(C)", "D", "E", "a ", "I ", "\\boxed{", "}", "**",
     "\n", "<think>", "</think>", "## Thinking\n", "## Final Response\n", "答案是", "选",
     "不", "，", "。", "Metformin", "insulin glargine", "None of the above",
     "and ", "or ", "not ", "?", "<answer>", "</answer>", "Final answer: ", "is correct", "if ",
     "5", "-", "\u0301"]
)  # fmt: skip
outputs = st.one_of(anything, st.lists(fragments, max_size=12).map("".join))
markers = ("think", "esponse", "thought", "reasoning", "unused9", "assistantfinal", "channel")
finals = outputs.filter(
    lambda text: text.strip() and not any(mark in text.lower() for mark in markers)
)


@given(outputs, outputs, finals)
def test_what_stands_in_the_reasoning_never_counts(one: str, other: str, final: str) -> None:
    for doc in (DOC, {"target": "x"}):
        for start, end in (
            ("<think>", "</think>"),
            ("## Thinking\n", "\n## Final Response\n"),
            ("", "</think>"),
        ):
            readings = {read(doc, f"{start}{inside}{end}{final}") for inside in (one, other)}
            assert readings == {read(doc, final)}


@given(
    outputs, st.text(" \t\n\r\u3000\u00a0", max_size=6), st.text(" \t\n\r\u3000\u00a0", max_size=6)
)
def test_white_space_around_never_counts(output: str, before: str, after: str) -> None:
    for doc in (DOC, {"target": "x"}):
        assert read(doc, before + output + after) == read(doc, output)


@given(
    st.permutations(range(4)),
    st.integers(0, 3),
    st.sampled_from(
        ["The answer is {letter}.", "{letter}", "({letter}) {text}", "**{letter}. {text}**",
         "{text}",
         "答案是{letter}。", "\\boxed{{{letter}}}", "Answer: {text}", "I choose {letter}, {text}."]
    ),
)  # fmt: skip
def test_permuted_options_permute_the_answer(order: list[int], choice: int, form: str) -> None:
    options = [OPTIONS[index] for index in order]
    place = order.index(choice)
    output = form.format(letter=LETTERS[place], text=OPTIONS[choice])
    reading = read({"options": options}, output)
    assert (reading.answer, reading.chosen) == (OPTIONS[choice], (place,))


@given(outputs, st.permutations(range(4)))
def test_texts_are_read_the_same_in_every_order(output: str, order: list[int]) -> None:
    """Where no letter can be meant: with the letters of the alphabet taken out of the fragments."""
    text = "".join(" " if char in "ABCDEFGHIJabcdefghij" else char for char in output)
    names = ["Zolox", "Trymn", "Zolox-Trymn", "Lypzo"]
    reading = read({"options": names}, f"{text}\nZolox-Trymn")
    moved = read({"options": [names[index] for index in order]}, f"{text}\nZolox-Trymn")
    assert (reading.answer, reading.problem) == (moved.answer, moved.problem)


@given(
    st.text(st.characters(), max_size=200),
    st.lists(st.text(max_size=12), min_size=1, max_size=10),
    st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_no_text_raises(
    output: str, options: list[str], several: bool, opened: bool, cut: bool
) -> None:
    doc = {"options": options, "golds": [0] if several else None}
    for one in (doc, {}):
        reading = read(one, output, opened=opened, cut=cut)
        assert (reading.answer is None) == (reading.problem in PROBLEMS)
        assert len(reading.chosen) <= len(options)


@given(outputs)
def test_the_limit_names_the_problem_and_never_the_answer(output: str) -> None:
    for doc in (DOC, {"target": "x"}):
        assert read(doc, output, cut=True).answer == read(doc, output).answer


HOSTILE = {
    "one letter": "A",
    "spaces": " ",
    "lines": "B\n",
    "different lines": None,
    "cues": "the answer is ",
    "cues and letters": "Answer: A. ",
    "cues and commas": "answer:,,,,,,,,,,,,",
    "cues and texts": "answer: metformin, ",
    "combining marks": "\u0300\u0316",
    "open tags": "<think>",
    "closed tags": "</think>",
    "answer tags": "<answer>",
    "braces": "\\boxed{",
    "LaTeX": "\\text{",
    "headings": "#",
    "headings on lines": "\n# ",
    "stars": "*",
    "brackets": "(",
    "letters and commas": "A, ",
    "letters and joints": "A and ",
    "nouns": "most likely word ",
    "refusal": "I cannot ",
    "negation": "not the ",
    "Chinese": "正确的",
    "Chinese cue": "选",
    "Chinese answer": "答案是",
    "right": "B is the ",
    "dots": ". ",
    "full width": "Ａ．",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_time_is_linear_in_the_length(name: str) -> None:
    assert seconds(name, 120_000) < 8 * seconds(name, 30_000) + 0.3  # 4 times; were it squared, 16


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_megabyte_takes_seconds(name: str) -> None:
    assert seconds(name, 1_000_000) < 15


def seconds(name: str, length: int) -> float:
    """Of processor time, to read so many characters of hostile text, as choice and as words."""
    unit = HOSTILE[name]
    text = "\n".join(map(str, range(length // 6))) if unit is None else unit * (length // len(unit))
    began = time.process_time()
    for start in ("", "The answer is "):
        for doc in (DOC, {"target": "x"}):
            read(doc, start + text)
        same(start + text, "Metformin")
    return time.process_time() - began


def test_real_options_are_read_by_letter_and_text(real_data: Path) -> None:
    lines = (real_data / "medqa_us_4options" / "test.jsonl").read_text("utf-8").splitlines()
    for line in lines[::8]:
        options = list(json.loads(line)["options"].values())
        for place, text in enumerate(options):
            letter = LETTERS[place]
            for output in (letter, f"({letter}) {text}", f"The answer is {letter}. {text}."):
                assert read({"options": options}, output).chosen == (place,)
            if len(text) > 1:
                assert read({"options": options}, f"The answer is {text}.").chosen == (place,)


def test_no_nearest_string_guessing() -> None:
    assert same("zolvex.", "Zolvex")
    assert not same("Zolvexa", "Zolvex")
    assert not same("Zolvex or Trinol", "Zolvex")
    assert not same(None, "Zolvex")


def test_unread_answers_are_wrong_and_flagged() -> None:
    assert grade_stated({"target": "A"}, ["no end"]) == {"acc": 0.0, "unparsed": 1.0}
    right = ["<think></think>The answer is a."]
    assert grade_stated({"target": "A"}, right) == {"acc": 1.0, "unparsed": 0.0}
    assert grade_choice(DOC, ["The answer is B."]) == {"acc": 1.0, "unparsed": 0.0}
    assert grade_choice(DOC, ["The answer is C."]) == {"acc": 0.0, "unparsed": 0.0}
    assert grade_choice(DOC, ["B or C"]) == {"acc": 0.0, "unparsed": 1.0}


def test_a_set_of_options_must_be_complete() -> None:
    doc = DOC | {"golds": [2, 0]}
    assert is_right(doc, read(doc, "A, C"))
    assert is_right(doc, read(doc, "C and A"))
    assert not is_right(doc, read(doc, "A"))
    assert not is_right(doc, read(doc, "A, B, C"))
    assert not is_right(DOC | {"golds": None}, read(DOC | {"golds": None}, "A, B"))


@pytest.mark.parametrize(
    ("prompt", "opened"),
    [
        ("Question: x\n<think>", True),
        ("<|assistant|><think>\n", True),
        ("### Thinking:\n", True),
        ("Question: x\nAnswer:", False),
        ("<think>\n\n</think>\n", False),
        ("Think step by step. <think> is the tag to use.", False),
    ],
)
def test_a_prompt_that_opens_the_reasoning_is_seen(prompt: str, opened: bool) -> None:
    assert opens_reasoning(prompt) is opened


def test_bytes_are_utf8_and_count_the_line_break() -> None:
    assert bits_per_byte({"target": "é中"}, [(-3.0, False)]) == {"bits_per_byte": (-3.0, 6)}
