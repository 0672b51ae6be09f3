"""A row of data → what the model is shown and what it is to write."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from string import Formatter
from typing import Any

from ..errors import InputError
from ..tasks.sources import Row
from .recipe import Recipe


def writer(recipe: Recipe, tokenizer: Any) -> Callable[[Row], tuple[str, str]]:
    """What makes (prompt, completion) of a row; it raises ValueError with what is wrong with it.

    Raises:
        InputError: The format needs a chat template, and *tokenizer* has none.
    """
    if recipe.format == "text":
        return lambda row: (_fill(recipe.prompt, row), _fill(recipe.completion, row))
    if getattr(tokenizer, "chat_template", None) is None:
        raise InputError(
            f"recipe {recipe.name!r}: format {recipe.format} needs a tokenizer with a chat "
            "template, and this model's has none; use format: text"
        )

    def chat(row: Row) -> tuple[str, str]:
        turns = [{"role": "user", "content": _fill(recipe.prompt, row)}]
        return _rendered(tokenizer, turns, _fill(recipe.completion, row))

    def messages(row: Row) -> tuple[str, str]:
        *before, last = _conversation(row)
        return _rendered(tokenizer, before, last["content"])

    return chat if recipe.format == "chat" else messages


def asked(recipe: Recipe, row: Row) -> str:
    """The question of *row*, or else what its user says, or its prompt; empty where it has none."""
    question = row.get(recipe.data.question)
    if isinstance(question, str):
        return question
    try:
        if recipe.format == "messages":
            turns = _conversation(row)
            return "\n".join(turn["content"] for turn in turns if turn["role"] == "user")
        return _fill(recipe.prompt, row)
    except ValueError:
        return ""  # tuning itself says what is wrong with the row


def _rendered(tokenizer: Any, turns: list[dict[str, str]], answer: str) -> tuple[str, str]:
    """The prompt as the template writes it up to the answer, and the answer as it is.

    The answer is not rendered: templates of reasoning models (DeepSeek-R1's) strip what stands
    before ``</think>``, which is just what is to be learned. Where the template has opened the
    reasoning itself, the answer's own opening is left out.
    """
    prompt = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    if prompt.rstrip().endswith("<think>"):
        answer = answer.removeprefix("<think>").lstrip("\n")
    return prompt, answer


def _conversation(row: Row) -> list[dict[str, str]]:
    turns = row.get("messages")
    turns = list(turns) if isinstance(turns, Iterable) and not isinstance(turns, str) else None
    if not turns:
        raise ValueError("no list of messages in column 'messages'")
    for turn in turns:
        said = turn.get("content") if isinstance(turn, dict) else None
        if not (isinstance(said, str) and turn.get("role")):
            raise ValueError("a message is not {role: …, content: text}")
    if len(turns) < 2 or turns[-1]["role"] != "assistant" or not turns[-1]["content"].strip():
        raise ValueError("the conversation does not end with an answer of the assistant")
    return turns


def _fill(template: str | None, row: Row) -> str:
    """*template* with the columns of *row*; the last one it names must not be empty.

    Others may be: a row without reasoning still has its answer to teach.
    """
    assert template is not None  # noqa: S101  (Recipe checks it)
    columns = [name for _, name, _, _ in Formatter().parse(template) if name is not None]
    for column in columns:
        if not isinstance(row.get(column), str):
            raise ValueError(
                f"no text in column {column!r} (its columns are: {', '.join(map(str, row))})"
            )
    if columns and not row[columns[-1]].strip():
        raise ValueError(f"column {columns[-1]!r} is empty")
    return template.format_map(row)
