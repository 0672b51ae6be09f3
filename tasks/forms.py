"""Rows in the columns of published data sets → questions in medbench's own columns.

A question has ``question``, ``options`` (list of texts), ``gold`` (index of the right one, or
``golds`` where several are), ``answer`` (the right option's text where the data repeats it, else
None), ``subject`` and, for PubMedQA, ``context``. Nothing is judged here: integrity.py does that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .files import Row
from .local import LETTERS

DECISIONS = ["yes", "no", "maybe"]


def medqa(row: Row) -> Row:
    """MedQA: ``options`` {A: text, …} or [{key, value}, …], ``answer_idx`` a letter, ``answer``."""
    options = row.get("options")
    if isinstance(options, list) and all(isinstance(one, dict) for one in options):
        options = {one.get("key"): one.get("value") for one in options}
    if not isinstance(options, dict):
        raise ValueError(f"options: expected {{A: text, B: text, …}}, found {str(options)[:60]!r}")
    options = {key: text for key, text in options.items() if text is not None}
    if list(options) != list(LETTERS[: len(options)]):
        raise ValueError(f"options: expected the keys A, B, … in order, found {list(options)}")
    letter = row.get("answer_idx")
    return {
        "question": row.get("question"),
        "options": list(options.values()),
        "gold": list(options).index(letter) if letter in options else letter,
        "answer": row.get("answer"),
        "subject": row.get("meta_info"),
    }


def medmcqa(row: Row) -> Row:
    """MedMCQA: ``opa`` to ``opd``, ``cop`` from 0, ``subject_name``."""
    return {
        "question": row.get("question"),
        "options": [row.get(f"op{letter}") for letter in "abcd"],
        "gold": row.get("cop"),
        "answer": None,
        "subject": row.get("subject_name"),
    }


def mmlu(row: Row) -> Row:
    """MMLU: ``choices``, ``answer`` from 0."""
    return {
        "question": row.get("question"),
        "options": row.get("choices"),
        "gold": row.get("answer"),
        "answer": None,
        "subject": row.get("subject"),
    }


def pubmedqa(row: Row) -> Row:
    """PubMedQA: ``QUESTION``, ``CONTEXTS``, ``final_decision`` (yes, no or maybe)."""
    contexts, decision = row.get("CONTEXTS"), row.get("final_decision")
    if not isinstance(contexts, list) or not all(isinstance(one, str) for one in contexts):
        raise ValueError("CONTEXTS: expected a list of texts")
    return {
        "context": "\n".join(contexts),
        "question": row.get("QUESTION"),
        "options": DECISIONS,
        "gold": DECISIONS.index(decision) if decision in DECISIONS else decision,
        "answer": None,
        "subject": None,
    }


FORMS: dict[str, Callable[[Row], dict[str, Any]]] = {
    "medqa": medqa,
    "medmcqa": medmcqa,
    "mmlu": mmlu,
    "pubmedqa": pubmedqa,
}
