"""Rows to tune on → prompt and completion texts → token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from string import Formatter
from typing import Any, TypeVar

import numpy as np

from ..errors import InputError
from ..tasks.clinic import tuning_rows
from ..tasks.overlap import resembles
from ..tasks.sources import SOURCES, Row, read_rows
from ..tasks.sources import rows as source_rows
from ..tasks.splits import is_held_out
from .recipe import Data, Recipe

HUB = "hub:"
T = TypeVar("T")
NAMED = 10
"""So many bad rows are named in a message."""


@dataclass(frozen=True)
class Example:
    """What one row teaches: *completion* after *prompt*; ``row`` is its place in the source."""

    row: int
    prompt: str
    completion: str


@dataclass(frozen=True)
class Encoded:
    """Examples as token ids, ready to be collated.

    Attributes:
        rows: ``{input_ids, labels}`` each; a label is -100 where no loss is taken.
        too_long: Places in the source of rows that were longer than the recipe's ``max_length``
            and therefore left out.
    """

    rows: list[dict[str, list[int]]]
    too_long: list[int]


def examples(
    recipe: Recipe, seed: int, tokenizer: Any = None, dropped: Collection[int] = ()
) -> list[Example]:
    """The recipe's rows as texts, in the order its data has them.

    Args:
        tokenizer: With a chat template, for the formats ``chat`` and ``messages``.
        dropped: Places in the source of rows that are left out, because they overlap a test.

    Raises:
        InputError: A row lacks a column that a template names or has nothing in it, no row is
            left, or the tokenizer has no chat template where one is needed.
    """
    chosen = _select(recipe.data, _read(recipe.data, seed))
    rows = [(number, row) for number, row in chosen if number not in dropped][: recipe.data.rows]
    if not rows:
        raise InputError(
            f"recipe {recipe.name!r}: no row of {recipe.data.source!r} is left to tune on"
        )
    write = _writer(recipe, tokenizer)
    found, bad = [], []
    for number, row in rows:
        try:
            found.append(Example(number, *write(row)))
        except ValueError as error:
            bad.append(f"row {number}: {error}")
    if bad:
        more = f"; and {len(bad) - NAMED} more" if len(bad) > NAMED else ""
        raise InputError(
            f"{recipe.data.source}: {len(bad)} of {len(rows)} rows do not fit recipe "
            f"{recipe.name!r}: {'; '.join(bad[:NAMED])}{more}. Mend or remove them"
        )
    return found


def compared(recipe: Recipe, seed: int) -> tuple[list[int], list[str]]:
    """What is compared with the tests: places in the source, and the question at each.

    A row without text in the recipe's question column counts with its conversation or its whole
    prompt. Where rows that overlap are dropped others take their place, so all that may are there.

    Raises:
        InputError: The source cannot be read.
    """
    rows = _select(recipe.data, _read(recipe.data, seed))
    if recipe.data.overlap != "drop":
        rows = rows[: recipe.data.rows]
    return [number for number, _ in rows], [_asked(recipe, row) for _, row in rows]


def encode(found: list[Example], tokenizer: Any, recipe: Recipe) -> Encoded:
    """*found* as token ids: prompt, completion and end of sequence.

    The two are tokenized apart, as they are when the model is asked: it sees the prompt's tokens
    and writes its own.
    """
    plain = recipe.format == "text"  # a chat template writes its special tokens itself
    rows, too_long = [], []
    for one in found:
        prompt = tokenizer(one.prompt, add_special_tokens=plain)["input_ids"]
        if prompt and prompt[-1] == tokenizer.eos_token_id and plain:
            prompt = prompt[:-1]  # some tokenizers end every text
        answer = tokenizer(one.completion, add_special_tokens=False)["input_ids"]
        answer = [*answer, tokenizer.eos_token_id]
        if len(prompt) + len(answer) > recipe.max_length:
            too_long.append(one.row)
            continue
        shown = prompt if recipe.loss_on == "text" else [-100] * len(prompt)
        rows.append({"input_ids": prompt + answer, "labels": shown + answer})
    return Encoded(rows, too_long)


def keep_apart(rows: list[T], count: int) -> tuple[list[T], list[T]]:
    """(*rows* to train on, *count* of them to validate on), the latter spread evenly.

    The last rows would not do: many data sets are sorted in some way.
    """
    apart = {(2 * place + 1) * len(rows) // (2 * count) for place in range(count)}
    places = range(len(rows))
    return [rows[n] for n in places if n not in apart], [rows[n] for n in places if n in apart]


def fingerprint(found: list[Example]) -> str:
    """sha256 over all texts, in order."""
    texts = [{"prompt": one.prompt, "completion": one.completion} for one in found]
    return hashlib.sha256(json.dumps(texts, ensure_ascii=False).encode("utf-8")).hexdigest()


def _read(data: Data, seed: int) -> list[Row]:
    if data.source == "clinic":
        return [dict(row) for row in tuning_rows(seed)]
    if data.source in SOURCES:
        rows = source_rows(data.source)
    elif data.source.startswith(HUB):
        rows = _from_hub(data)
    elif Path(data.source).is_file():
        rows = read_rows(Path(data.source))
    else:
        raise InputError(
            f"recipe data.source {data.source!r}: no such file or source; expected a path, "
            f"hub:OWNER/NAME, or one of: clinic, {', '.join(SOURCES)}"
        )
    return [_renamed(row, data, number) for number, row in enumerate(rows)]


def _from_hub(data: Data) -> list[Row]:
    from datasets import load_dataset

    name = data.source.removeprefix(HUB)
    try:
        found = load_dataset(name, data.config, split=data.split or "train", revision=data.revision)
    except Exception as error:  # whatever the Hub's client raises
        raise InputError(
            f"recipe data.source {data.source!r}: the Hub data set cannot be loaded "
            f"({type(error).__name__}: {error}). Check name and network, or give a local file"
        ) from error
    return [dict(row) for row in found]


def _renamed(row: Row, data: Data, number: int) -> Row:
    if data.columns is None:
        return row
    for theirs in data.columns.values():
        if theirs not in row:
            raise InputError(
                f"{data.source}, row {number}: no column {theirs!r}, which data.columns names; "
                f"its columns are: {', '.join(map(str, row))}"
            )
    return row | {ours: row[theirs] for ours, theirs in data.columns.items()}


def _select(data: Data, rows: list[Row]) -> list[tuple[int, Row]]:
    """The rows that may be tuned on, each with its place in the source.

    Of a held-out question neither the row itself nor one that resembles it is among them. The two
    rows alone decide whether they do, so a data set that grows moves no other row across the line.
    """
    numbered = list(enumerate(rows))
    if not data.hold_out:
        return numbered
    for number, row in numbered:
        if not isinstance(row.get(data.question), str):
            raise InputError(
                f"{data.source}, row {number}: no text in column {data.question!r}, by which "
                f"rows are held out; its columns are: {', '.join(map(str, row))}"
            )
    questions = [row[data.question] for row in rows]
    held_out = np.array([is_held_out(question) for question in questions], bool)
    left_out = resembles(questions, list(compress(questions, held_out))) | held_out
    return list(compress(numbered, ~left_out))


def _asked(recipe: Recipe, row: Row) -> str:
    question = row.get(recipe.data.question)
    if isinstance(question, str):
        return question
    try:
        if recipe.format == "messages":
            turns = _conversation(row)
            return "\n".join(turn["content"] for turn in turns if turn["role"] == "user")
        return _fill(recipe.prompt, row)
    except ValueError:
        return ""  # `examples` says what is wrong with the row


def _writer(recipe: Recipe, tokenizer: Any) -> Callable[[Row], tuple[str, str]]:
    """What makes (prompt, completion) of a row; it raises ValueError with what is wrong."""
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
