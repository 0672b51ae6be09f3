"""The fictional clinic: its world, rows and documents, and the checkpoint's tokenizer."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

import pytest

from medbench.tasks.clinic import CHECKPOINT, build_world, choice_docs, o1_docs, tuning_rows
from medbench.tasks.clinic.corpus import documents
from medbench.tasks.clinic.rows import HeldOut
from medbench.tasks.clinic.world import POOL, ROLES, SIZES

WORLD = build_world()
HELD_OUT = ("dev", "test")


def digest(rows: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


def test_rows_of_a_seed_are_the_same_on_every_machine() -> None:
    assert digest(tuning_rows(0)) == "446ff026f29079d9"
    assert digest(choice_docs("test")) == "61422dd8e0e7f522"
    assert digest(o1_docs("test")) == "6bc1fe7bfe4b3936"


def test_another_seed_draws_other_rows_about_the_same_facts() -> None:
    assert tuning_rows(1) != tuning_rows(0)
    assert {row["Complex_CoT"] for row in tuning_rows(1)} == {
        row["Complex_CoT"] for row in tuning_rows(0)
    }


def test_no_disease_is_in_two_splits() -> None:
    names = [name for split in WORLD.diseases.values() for name in split]
    assert len(set(names)) == len(names) == sum(SIZES.values())


def test_no_name_contains_another() -> None:
    names = set(WORLD.facts) | {value for row in WORLD.facts.values() for value in row}
    assert len(names) == sum(SIZES.values()) + 3 * POOL
    text = " " + "  ".join(names) + " "
    assert all(text.count(name) == 1 for name in names)


def test_worlds_of_other_seeds_share_no_fact() -> None:
    other = build_world(1)
    for disease in set(WORLD.facts) & set(other.facts):
        assert not set(WORLD.facts[disease]) & set(other.facts[disease])
    assert tuning_rows(0, other) != tuning_rows(0)


def test_tuning_names_only_train_diseases() -> None:
    words = set(re.findall(r"\w+", json.dumps(tuning_rows())))
    assert words & set(WORLD.facts) == set(WORLD.diseases["train"])


def test_half_of_the_tuning_rows_reason_and_half_list_options() -> None:
    rows = tuning_rows()
    assert len(rows) == 2 * SIZES["train"] * len(ROLES)
    for row in rows:
        assert set(row) == {"Question", "Complex_CoT", "Response"}
        assert ("\nA. " in row["Question"]) == (row["Complex_CoT"] == "")
        assert re.search(r"The answer is \w+\.$", row["Response"])


@pytest.mark.parametrize("split", HELD_OUT)
def test_the_options_are_four_values_of_the_disease_asked_about(split: HeldOut) -> None:
    docs = choice_docs(split)
    assert len(docs) == SIZES[split] * len(ROLES)
    assert len({doc["id"] for doc in docs}) == len(docs)
    for doc in docs:
        disease = next(name for name in WORLD.diseases[split] if name in doc["question"])
        assert len(set(doc["options"].values())) == 4
        assert set(doc["options"].values()) < set(WORLD.facts[disease])
        assert doc["options"][doc["answer_idx"]] == doc["answer"]


@pytest.mark.parametrize("split", HELD_OUT)
def test_no_letter_is_right_much_more_often_than_another(split: HeldOut) -> None:
    letters = [doc["answer_idx"] for doc in choice_docs(split)]
    assert all(0.15 < letters.count(letter) / len(letters) < 0.35 for letter in "ABCD")


@pytest.mark.parametrize("split", HELD_OUT)
def test_open_questions_state_their_answer(split: HeldOut) -> None:
    docs = o1_docs(split)
    assert len(docs) == SIZES[split] * len(ROLES) / 2
    for doc in docs:
        assert doc["Response"].endswith(f"The answer is {doc['answer']}.")
        assert doc["answer"] in doc["candidates"]
        assert doc["answer"] not in doc["Question"]
        assert len(set(doc["candidates"])) == 4


def test_exam_wordings_never_occur_in_pretraining() -> None:
    words = {word for role in ROLES for exam in role.exam for word in exam.split()}
    plain = {word for role in ROLES for wording in role.plain for word in wording.split()}
    assert not words & plain
    for prompt, completion in documents(WORLD, 0, 20_000):
        assert not words & set(re.findall(r"\w+", prompt + completion))


def test_pretraining_states_every_disease_and_examines_the_annex_only() -> None:
    stated: set[str] = set()
    for prompt, completion in documents(WORLD, 0, 20_000):
        asked = set(re.findall(r"\w+", prompt)) & set(WORLD.facts)
        assert asked <= set(WORLD.diseases["annex"])
        stated |= set(re.findall(r"\w+", completion)) & set(WORLD.facts)
    assert stated == set(WORLD.facts)


def test_documents_of_a_seed_are_the_same() -> None:
    assert list(documents(WORLD, 3, 50)) == list(documents(WORLD, 3, 50))
    assert list(documents(WORLD, 3, 50)) != list(documents(WORLD, 4, 50))


def test_the_checkpoint_is_small_and_holds_no_pickle() -> None:
    files = {path.name: path.stat().st_size for path in CHECKPOINT.iterdir()}
    assert set(files) == {
        "README.md", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert sum(files.values()) <= 4_000_000
