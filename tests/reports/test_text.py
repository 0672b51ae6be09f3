import pytest

from medbench.reports.text import clean, clean_tree, one_line, split_reasoning


def test_unseen_characters_are_written_out() -> None:
    assert clean("a\x1b[31mb\x00c\u202ed\ud800e") == r"a\x1b[31mb\x00c\u202ed\ud800e"
    assert clean("line\r\nnext\ttab é 医") == "line\nnext\ttab é 医"


def test_long_texts_are_cut() -> None:
    assert clean("x" * 50, limit=10) == "x" * 10 + " … (40 characters more)"
    assert len(clean("x" * 1_000_000)) < 7000


def test_trees_are_cleaned_through() -> None:
    assert clean_tree({"a\x00": ["b\x00", 1, None]}) == {r"a\x00": [r"b\x00", 1, None]}


def test_one_line_cuts_at_a_word() -> None:
    assert one_line("a\n  b") == "a b"
    assert one_line("alpha beta gamma", limit=12) == "alpha beta …"
    assert one_line("x" * 30, limit=10) == "x" * 10 + " …"


@pytest.mark.parametrize(
    ("output", "reasoning", "answer"),
    [
        ("<think>\nwhy\n</think>\nB.", "why", "B."),
        ("why\n</think>B.", "why", "B."),
        ("<think>never closed", "never closed", ""),
        ("## Thinking\n\nwhy\n\n## Final Response\n\nB.", "why", "B."),
        ("just B.", "", "just B."),
        ("", "", ""),
    ],
)
def test_reasoning_is_told_from_the_answer(output: str, reasoning: str, answer: str) -> None:
    assert split_reasoning(output) == (reasoning, answer)
