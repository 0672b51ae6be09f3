"""Reading answers: what follows the reasoning counts, and nothing is guessed."""

import pytest

from medbench.tasks.answers import bits_per_byte, grade_stated, read, same


@pytest.mark.parametrize(
    ("output", "answer"),
    [
        ("<think>a</think>\nThe answer is Zolvex.", "Zolvex"),
        ("a</think> The answer is zolvex", "zolvex"),
        ("</think>The final answer is: 4.5 mg daily.\nRest.", "4.5 mg daily"),
        ("</think>The answer is A. The answer is B.", "B"),
        ("</think>In X the cause is Y. The answer is Y.", "Y"),
        ("<think>The answer is A.</think>The answer is B.", "B"),
        ("<think>x</think>The answer is A.</think>The answer is B.", "B"),
    ],
)
def test_stated_answers(output: str, answer: str) -> None:
    assert read(output) == (answer, None)


@pytest.mark.parametrize(
    ("output", "problem"),
    [
        ("", "unclosed"),
        ("The answer is A.", "unclosed"),
        ("<think>The answer is A.", "unclosed"),
        ("<think>a</think>", "unstated"),
        ("<think>The answer is A.</think>It is A.", "unstated"),
        ("</think>The answer is", "unstated"),
        ("</think>the answer isn't known", "unstated"),
    ],
)
def test_no_answer(output: str, problem: str) -> None:
    assert read(output) == (None, problem)


@pytest.mark.parametrize("inside", ["The answer is A.", "The answer is B.", "", "x" * 500, "\n"])
def test_what_stands_in_the_reasoning_never_counts(inside: str) -> None:
    assert read(f"<think>{inside}</think>The answer is C.").answer == "C"


def test_no_nearest_string_guessing() -> None:
    assert same("zolvex.", "Zolvex")
    assert not same("Zolvexa", "Zolvex")
    assert not same("Zolvex or Trinol", "Zolvex")
    assert not same(None, "Zolvex")


def test_unread_answers_are_wrong_and_flagged() -> None:
    assert grade_stated({"target": "A"}, ["no end"]) == {"acc": 0.0, "unparsed": 1.0}
    right = ["<think></think>The answer is a."]
    assert grade_stated({"target": "A"}, right) == {"acc": 1.0, "unparsed": 0.0}


def test_bytes_are_utf8_and_count_the_line_break() -> None:
    assert bits_per_byte({"target": "é中"}, [(-3.0, False)]) == {"bits_per_byte": (-3.0, 6)}
