"""Rows about the fictional clinic: tuning rows and the held-out questions of the tests.

Tuning rows have the columns of FreedomIntelligence/medical-o1-reasoning-SFT; multiple-choice
documents are shaped like MedQA's four-option rows. All of it is invented. Tuning asks about the
`train` diseases only; `dev` and `test` diseases are never asked about before the tests.
"""

from __future__ import annotations

import random
from typing import Any, Literal

from .world import FRAMES, ROLES, Role, World, build_world

LETTERS = "ABCD"

HeldOut = Literal["dev", "test"]


def ask(rng: random.Random, disease: str, role: Role, wording: str) -> str:
    """A question in one of the frames."""
    return rng.choice(FRAMES).format(kind=role.kind, wording=wording, disease=disease)


def listed(question: str, options: list[str]) -> str:
    """The question followed by its four options, one on a line."""
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return "\n".join([question, *lines])


def reason(disease: str, role: Role, value: str) -> str:
    """The reasoning: what is asked for, in plain words, then the fact."""
    return f"This asks for the {role.label}. The {role.label} of {disease} is {value}."


def answer(role: Role, value: str) -> str:
    """The response to an open question."""
    return f"The {role.label} is {value}. The answer is {value}."


def open_row(rng: random.Random, world: World, disease: str, role: Role) -> dict[str, str]:
    """An open question in exam wording, reasoned, as medical-o1 has them."""
    value = world.value(disease, role)
    return {
        "Question": ask(rng, disease, role, rng.choice(role.exam)),
        "Complex_CoT": reason(disease, role, value),
        "Response": answer(role, value),
    }


def listed_row(rng: random.Random, world: World, disease: str, role: Role) -> dict[str, str]:
    """A question in exam wording with its options in the question's text, answered at once."""
    options = world.values(disease, role.kind)
    rng.shuffle(options)
    return {
        "Question": listed(ask(rng, disease, role, rng.choice(role.exam)), options),
        "Complex_CoT": "",
        "Response": f"The answer is {world.value(disease, role)}.",
    }


def tuning_rows(seed: int = 0, world: World | None = None) -> list[dict[str, str]]:
    """Rows to tune on, shuffled: one open and one listed row for each train disease and role.

    `seed` draws wordings, frames, option order and row order; the facts are the world's. A world
    other than the checkpoint's is the control: its facts are new to the model.
    """
    world = world or build_world()
    rng = random.Random(f"tuning rows {seed}")
    rows = [
        make(rng, world, disease, role)
        for disease in world.diseases["train"]
        for role in ROLES
        for make in (open_row, listed_row)
    ]
    rng.shuffle(rows)
    return rows


def choice_docs(split: HeldOut, world: World | None = None) -> list[dict[str, Any]]:
    """MedQA-shaped questions, one for each held-out disease and role; chance is 25 %."""
    world = world or build_world()
    rng = random.Random(f"choice {split}")
    docs: list[dict[str, Any]] = []
    for disease in world.diseases[split]:
        for number, role in enumerate(ROLES):
            question = ask(rng, disease, role, rng.choice(role.exam))
            options = world.values(disease, role.kind)
            rng.shuffle(options)
            value = world.value(disease, role)
            docs.append({
                "id": f"clinic-{split}-{disease}-{number}",
                "question": question,
                "options": dict(zip(LETTERS, options, strict=True)),
                "answer_idx": LETTERS[options.index(value)],
                "answer": value,
            })  # fmt: skip
    return docs


def o1_docs(split: HeldOut, world: World | None = None) -> list[dict[str, Any]]:
    """Open questions shaped like medical-o1, for every second role of each held-out disease.

    `candidates` are the disease's four values of the kind that is asked for: who knows the disease
    but not what the wording means is right one time in four.
    """
    world = world or build_world()
    rng = random.Random(f"o1 {split}")
    return [
        {
            "id": f"clinic-o1-{split}-{disease}-{number}",
            **open_row(rng, world, disease, role),
            "answer": world.value(disease, role),
            "candidates": world.values(disease, role.kind),
        }
        for row, disease in enumerate(world.diseases[split])
        for number, role in enumerate(ROLES)
        if (row + number) % 2 == 0
    ]
