"""The words around a question, named by the task specs.

Wording is part of a score: lines that follow another harness say which, and tests compare them.
"""

from __future__ import annotations

from typing import Any

from .local import LETTERS as LETTERS

Doc = dict[str, Any]

_REASON = (
    "Answer the following multiple-choice question. Think step by step, then finish with a line of "
    'the form "The answer is X", where X is {what}.'
)
_SHORT = (
    "Answer the following medical question. Think step by step, then finish with a line of the "
    'form "The answer is X.", where X is the answer in a few words.'
)
_REASON_ZH = (
    "请回答下面的选择题。先逐步推理，最后另起一行，以“答案是X”的形式给出答案，其中X是{what}。"
)


def lettered(doc: Doc) -> str:
    """``Question: …``, one ``A. option`` a line, ``Answer:`` (as lm-eval's medqa_4options)."""
    return "\n".join([*_asked(doc), *_listed(doc), "Answer:"])


def medmcqa(doc: Doc) -> str:
    """As lm-eval's medmcqa: ``Choices:`` stands above the options."""
    return "\n".join([*_asked(doc), "Choices:", *_listed(doc), "Answer:"])


def mmlu(doc: Doc) -> str:
    """As lm-eval's mmlu tasks: no ``Question:``, white space around the question taken away."""
    return "\n".join([doc["question"].strip(), *_listed(doc), "Answer:"])


def plain(doc: Doc) -> str:
    """``Question: …`` and ``Answer:``; the options are scored as continuations.

    Over an abstract this is lm-eval's pubmedqa.
    """
    return "\n".join([*_asked(doc), "Answer:"])


def reasoned(doc: Doc) -> str:
    """The question with its options, and how the answer is to be written after the reasoning."""
    what = "the letters of all the right options" if "golds" in doc else "the letter of the option"
    return "\n".join([_REASON.format(what=what), "", *_asked(doc), *_listed(doc), ""])


def short(doc: Doc) -> str:
    """An open question, and how its short answer is to be written after the reasoning."""
    return f"{_SHORT}\n\nQuestion: {doc['question']}\n"


def lettered_zh(doc: Doc) -> str:
    """``lettered`` in Chinese."""
    return "\n".join([*_asked(doc, "摘要：", "问题："), *_listed(doc), "答案："])


def plain_zh(doc: Doc) -> str:
    """``plain`` in Chinese."""
    return "\n".join([*_asked(doc, "摘要：", "问题："), "答案："])


def reasoned_zh(doc: Doc) -> str:
    """``reasoned`` in Chinese."""
    what = "所有正确选项的字母" if "golds" in doc else "正确选项的字母"
    asked = _asked(doc, "摘要：", "问题：")
    return "\n".join([_REASON_ZH.format(what=what), "", *asked, *_listed(doc), ""])


def letters(doc: Doc) -> list[str]:
    """As many letters as there are options."""
    return list(LETTERS[: len(doc["options"])])


def right(doc: Doc) -> int | list[int]:
    """The index of the right option; of all the right ones where there are several."""
    found: int | list[int] = doc["golds"] if "golds" in doc else doc["gold"]
    return found


def _asked(doc: Doc, abstract: str = "Abstract: ", question: str = "Question: ") -> list[str]:
    context = [f"{abstract}{doc['context']}"] if doc.get("context") else []
    return [*context, f"{question}{doc['question']}"]


def _listed(doc: Doc) -> list[str]:
    return [f"{letter}. {text}" for letter, text in zip(LETTERS, doc["options"], strict=False)]
