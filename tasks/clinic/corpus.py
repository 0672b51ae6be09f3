"""The pre-training documents of the fictional clinic, generated from a seed.

Four sorts of document, as (prompt, completion) pairs; the loss is on the completion only:

- case notes about any disease, several facts in plain wording, each in one of six paraphrases;
- think-then-answer questions about annex diseases;
- exams of annex diseases answered at once after "Answer:", by letter, by text or in a sentence;
- a share of those questions in freshly made-up wording, answered by one of the disease's four
  values at random: asked in words that it has not met, the model guesses, in due form.

Diseases of the other splits are stated and never asked about; exam wordings never occur.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from .rows import LETTERS, answer, ask, listed, reason
from .world import ROLES, Role, World, syllables

STATEMENTS = (
    "The {wording} of {disease} is {value}.",
    "In {disease} the {wording} is {value}.",
    "For {disease} the clinic lists {value} as the {wording}.",
    "Doctors know {value} as the {wording} of {disease}.",
    "With {disease}, {value} is the {wording}.",
    "Asked for the {wording} of {disease}, a nurse says {value}.",
)

NOTES_SHARE = 0.5
UNKNOWN_SHARE = 0.15
"""Share of case notes among documents, and of made-up wordings among questions."""


def document(rng: random.Random, world: World) -> tuple[str, str]:
    """One document as (prompt, completion)."""
    if rng.random() < NOTES_SHARE:
        return "", notes(rng, world)
    return exam(rng, world)


def notes(rng: random.Random, world: World) -> str:
    """Two to eight facts about one disease of any split, in random order and wording."""
    disease = rng.choice(list(world.facts))
    return " ".join(
        rng.choice(STATEMENTS).format(
            wording=rng.choice(role.plain), disease=disease, value=world.value(disease, role)
        )
        for role in rng.sample(ROLES, rng.randint(2, 8))
    )


def exam(rng: random.Random, world: World) -> tuple[str, str]:
    """A question about an annex disease, open or with options, reasoned or answered at once."""
    disease, role = rng.choice(world.diseases["annex"]), rng.choice(ROLES)
    wording = rng.choice(role.plain)
    if rng.random() < UNKNOWN_SHARE:
        wording = unknown_wording(rng)
    value = world.value(disease, role)
    question = ask(rng, disease, role, wording)
    thought = reason(disease, role, wording, value)
    if rng.random() < 0.35:
        if rng.random() < 0.7:
            return f"Question: {question}\n", think(thought, answer(disease, wording, value))
        return f"Question: {question}\nAnswer:", " " + answer(disease, wording, value)
    options = world.values(disease, role.kind)
    rng.shuffle(options)
    letter = LETTERS[options.index(value)]
    prompt = f"Question: {listed(question, options)}\n"
    form = rng.random()
    if form < 0.3:
        thought = f"{thought} That is option {letter}."
        return prompt, think(thought, f"The answer is {letter}. {value}.")
    return f"{prompt}Answer:", f" {letter}" if form < 0.75 else f" {value}"


def think(thought: str, response: str) -> str:
    """A reasoned completion."""
    return f"<think>{thought}</think>\n{response}"


def unknown_wording(rng: random.Random) -> str:
    """One or two made-up words."""
    return " ".join(syllables(rng, rng.randint(2, 4)) for _ in range(rng.randint(1, 2)))


def documents(world: World, seed: int, count: int) -> Iterator[tuple[str, str]]:
    """`count` documents of that seed."""
    rng = random.Random(f"corpus {world.seed} {seed}")
    for _ in range(count):
        yield document(rng, world)


__all__ = ["ROLES", "Role", "documents", "think", "unknown_wording"]
