"""The words around a question, named by the task specs."""

from __future__ import annotations

from typing import Any

LETTERS = "ABCDEFGHIJ"


def lettered(doc: dict[str, Any]) -> str:
    """``Question: …``, one ``A. option`` a line, ``Answer:`` (as lm-eval's medqa_4options)."""
    return "\n".join([*_listed(doc), "Answer:"])


def plain(doc: dict[str, Any]) -> str:
    """``Question: …`` and ``Answer:``; the options are scored as continuations."""
    return f"Question: {doc['question']}\nAnswer:"


def letters(doc: dict[str, Any]) -> list[str]:
    """As many letters as there are options."""
    return list(LETTERS[: len(doc["options"])])


def _listed(doc: dict[str, Any]) -> list[str]:
    options = zip(LETTERS, doc["options"], strict=False)
    return [f"Question: {doc['question']}", *(f"{letter}. {text}" for letter, text in options)]
