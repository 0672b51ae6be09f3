"""Rows to tune on → prompt and completion texts → token ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import InputError
from .formats import asked, writer
from .recipe import Recipe
from .rows import eligible

T = TypeVar("T")
Ids = dict[str, list[int]]
"""``{input_ids, labels}`` of a row; a label is -100 where no loss is taken."""

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
        too_long: Places in the source of rows that were longer than the recipe's ``max_length``
            and therefore left out.
    """

    rows: list[Ids]
    too_long: list[int]


@dataclass(frozen=True)
class Prepared:
    """All that is tuned on, as texts and as token ids; ``too_long`` as in :class:`Encoded`."""

    texts: list[Example]
    train: list[Ids]
    validation: list[Ids]
    too_long: list[int]


def prepare(recipe: Recipe, tokenizer: Any, dropped: Collection[int] = ()) -> Prepared:
    """The recipe's rows, encoded, those for validation apart; *dropped* as in :func:`examples`.

    Raises:
        InputError: As :func:`examples`, or all rows are too long or kept for validation.
    """
    texts = examples(recipe, recipe.seed, tokenizer, dropped)
    encoded = encode(texts, tokenizer, recipe)
    if len(encoded.rows) <= recipe.data.validation_rows:
        raise InputError(
            f"recipe {recipe.name!r}: of {len(texts)} rows {len(encoded.too_long)} are longer than "
            f"max_length {recipe.max_length} tokens and {recipe.data.validation_rows} are kept for "
            "validation, so that none is left to tune on"
        )
    train, validation = keep_apart(encoded.rows, recipe.data.validation_rows)
    return Prepared(texts, train, validation, encoded.too_long)


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
    chosen = eligible(recipe.data, seed)
    rows = [(number, row) for number, row in chosen if number not in dropped][: recipe.data.rows]
    if not rows:
        raise InputError(
            f"recipe {recipe.name!r}: no row of {recipe.data.source!r} is left to tune on"
        )
    write = writer(recipe, tokenizer)
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
    rows = eligible(recipe.data, seed)
    if recipe.data.overlap != "drop":
        rows = rows[: recipe.data.rows]
    return [number for number, _ in rows], [asked(recipe, row) for _, row in rows]


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
