"""The pre-training documents of the fictional clinic, generated from a seed.

Two sorts of document, as (prompt, completion) pairs; the loss is on the completion only:

- case notes about any disease: several facts, each in one of six sentences;
- exams of annex diseases: open questions answered with reasoning or without, and questions with
  options answered by an option's text. A share of them uses a freshly made-up wording and is
  answered by one of the disease's four values at random: asked in words that it has not met, the
  model guesses, in due form.

Besides its plain wordings a role has many coined ones here (`jargon`): a model that has met only a
few wordings learns each by heart, one that has met many learns how a wording is looked up. Exam
wordings never occur, and diseases of the other splits are stated but never asked about.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import lru_cache

from .rows import answer, ask, listed, reason
from .world import ROLES, Role, World, syllables

SENTENCES = (
    "The {wording} of {disease} is {value}.",
    "In {disease} the {wording} is {value}.",
    "For {disease} the clinic lists {value} as the {wording}.",
    "Doctors know {value} as the {wording} of {disease}.",
    "With {disease}, {value} is the {wording}.",
    "Asked for the {wording} of {disease}, a nurse says {value}.",
)

NOTES_SHARE = 0.5
"""Case notes among the documents; the rest are exams."""

UNKNOWN_SHARE = 0.25
"""Questions in a freshly made-up wording, among exams."""

JARGON = 100
"""Coined wordings of each role."""

JARGON_SHARE = 0.45
"""Coined wordings among the known ones in exams; in notes, half as many."""


def documents(world: World, seed: int, count: int) -> Iterator[tuple[str, str]]:
    """`count` documents of that seed, as (prompt, completion)."""
    rng = random.Random(f"corpus {world.seed} {seed}")
    for _ in range(count):
        yield ("", notes(rng, world)) if rng.random() < NOTES_SHARE else exam(rng, world)


def notes(rng: random.Random, world: World) -> str:
    """Two to eight facts about one disease of any split, in random order and wording."""
    disease = rng.choice(list(world.facts))
    return " ".join(
        rng.choice(SENTENCES).format(
            wording=known_wording(rng, world, role, JARGON_SHARE / 2),
            disease=disease,
            value=world.value(disease, role),
        )
        for role in rng.sample(ROLES, rng.randint(2, 8))
    )


def exam(rng: random.Random, world: World) -> tuple[str, str]:
    """A question about an annex disease, in one of the four forms of examination."""
    disease, role = rng.choice(world.diseases["annex"]), rng.choice(ROLES)
    known = rng.random() >= UNKNOWN_SHARE
    wording = known_wording(rng, world, role, JARGON_SHARE) if known else coin(rng)
    question = ask(rng, disease, role, wording)
    value = world.value(disease, role)
    form = rng.random()
    if form < 0.4:
        thought = reason(disease, role, value)
        return f"Question: {question}\n", f"<think>{thought}</think>\n{answer(role, value)}"
    if form < 0.5:
        return f"Question: {question}\n<think></think>\n", answer(role, value)
    if form < 0.6:
        return f"Question: {question}\nAnswer:", f" {value}"
    options = world.values(disease, role.kind)
    rng.shuffle(options)
    prompt = f"Question: {listed(question, options)}\n<think></think>\n"
    return prompt, f"The answer is {value}."


def known_wording(rng: random.Random, world: World, role: Role, share: float) -> str:
    """A plain wording of the role or, in that share of cases, a coined one."""
    if rng.random() < share:
        return rng.choice(jargon(world.seed)[role])
    return rng.choice(role.plain)


@lru_cache(maxsize=4)
def jargon(seed: int) -> dict[Role, tuple[str, ...]]:
    """Coined wordings of each role, which only pre-training uses."""
    rng = random.Random(f"jargon {seed}")
    return {role: tuple(coin(rng) for _ in range(JARGON)) for role in ROLES}


def coin(rng: random.Random) -> str:
    """One or two made-up words."""
    return " ".join(syllables(rng, rng.randint(2, 4)) for _ in range(rng.randint(1, 2)))
