"""Questions are sound before a model sees one: each fault is found, with file and row."""

import json
from pathlib import Path
from typing import Any

import pytest

from medbench.errors import InputError
from medbench.tasks import sources
from medbench.tasks.datasets import choices, held_out, provenance, questions
from medbench.tasks.integrity import Expected, check, mojibake

MEDQA: dict[str, Any] = {
    "question": "Which one?",
    "options": {"A": "w", "B": "x", "C": "y", "D": "z"},
    "answer_idx": "B",
    "answer": "x",
    "meta_info": "step1",
}
MMLU = {"question": "q", "choices": ["a", "b", "c", "d"], "answer": 1, "subject": "anatomy"}


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Write rows as the local file of a source."""
    monkeypatch.setenv(sources.DATA_DIR, str(tmp_path))

    def write(source: str, rows: list[dict[str, Any]], name: str = "test") -> Path:
        folder = tmp_path / source
        folder.mkdir(exist_ok=True)
        file = folder / f"{name}.json"
        file.write_text(json.dumps(rows))
        return file

    return write


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"question": None}, "empty question"),
        ({"question": " "}, "empty question"),
        ({"options": ["w", "x"]}, "options: expected {A: text"),
        ({"options": {"B": "x", "A": "w"}}, "expected the keys A, B"),
        ({"options": {"A": "w", "B": "x", "C": "y", "D": "w"}}, "duplicated option"),
        ({"options": {"A": "w", "B": "x", "C": "y", "D": " "}}, "empty option"),
        ({"options": {"A": 1, "B": "x", "C": "y", "D": "z"}}, "expected a list of texts"),
        ({"options": {"A": "w", "B": "x"}}, "number of options: expected 4, found 2"),
        ({"options": MEDQA["options"] | {"E": "v"}}, "number of options: expected 4, found 5"),
        ({"answer_idx": "E"}, "right answer: expected one of 4 options, found 'E'"),
        ({"answer_idx": None}, "right answer"),
        ({"answer": "w"}, "were files of 4 and 5 options mixed"),
        ({"question": "A manâ€™s café"}, "mojibake"),
        ({"question": "Temperature 38.2Â°C"}, "mojibake"),
        ({"question": "lost \ufffd letter"}, "mojibake"),
    ],
)
def test_each_fault_names_file_and_row(put: Any, change: dict[str, Any], words: str) -> None:
    file = put("medqa_us_4options", [MEDQA, MEDQA | change])
    with pytest.raises(InputError, match="row 1") as caught:
        choices("medqa_us_4options")
    assert str(file) in str(caught.value)
    assert words in str(caught.value)


def test_four_options_are_no_five(put: Any) -> None:
    put("medqa_us_5options", [MEDQA])
    with pytest.raises(InputError, match="expected 5, found 4"):
        choices("medqa_us_5options")


@pytest.mark.parametrize("answers", [[4], [1, 2, 3] * 20])
def test_answers_that_count_from_1_are_noticed(put: Any, answers: list[int]) -> None:
    """By the one that is out of range, and by the 0 that is missing from many rows."""
    rows = [MMLU | {"question": f"q {n}", "answer": answer} for n, answer in enumerate(answers)]
    put("mmlu_anatomy", rows)
    with pytest.raises(InputError, match="count from 1"):
        choices("mmlu_anatomy")


def test_known_faults_stay_in_and_are_counted() -> None:
    twice = {"question": "q", "options": ["a", "a"], "gold": 0}
    assert check([twice], "f", Expected(faults={"duplicated option": 1})) == {
        "duplicated option": 1
    }
    with pytest.raises(InputError, match=r"f, row 1: duplicated option.*1 such rows are known"):
        check([twice, twice], "f", Expected(faults={"duplicated option": 1}))


def test_repeated_questions_are_counted_not_refused() -> None:
    one = {"question": "Is it so?", "options": ["a", "b"], "gold": 0}
    assert check([one, one | {"question": "is it so"}], "f", Expected()) == {"repeated question": 1}


@pytest.mark.parametrize(
    "text", ["37.8°C, 5 µg/dL, β₂-agonist, Sjögren’s", "谁在发热？", "naïve Ménière", "α → β ≥ 3"]
)
def test_good_text_is_no_mojibake(text: str) -> None:
    assert mojibake(text) is None


def test_an_empty_file_has_no_question(put: Any) -> None:
    put("medqa_us_4options", [])
    with pytest.raises(InputError, match="no question"):
        choices("medqa_us_4options")


def test_orders_shift_the_options_and_the_gold_with_them(put: Any) -> None:
    put("medqa_us_4options", [MEDQA])
    docs = choices("medqa_us_4options", orders="all")["test"]
    assert [doc["order"] for doc in docs] == [0, 1, 2, 3]
    assert {doc["options"][doc["gold"]] for doc in docs} == {"x"}
    assert {doc["subject"] for doc in docs} == {"step1"}


def test_the_abstract_can_be_left_out(put: Any) -> None:
    row = {"QUESTION": "q", "CONTEXTS": ["one", "two"], "final_decision": "maybe"}
    put("pubmedqa", [row])
    assert choices("pubmedqa")["test"][0]["context"] == "one\ntwo"
    bare = choices("pubmedqa", context=False)["test"][0]
    assert "context" not in bare
    assert bare["target"] == "maybe"


def test_examples_come_from_another_split_and_are_no_test_questions(put: Any) -> None:
    put("medqa_us_4options", [MEDQA])
    with pytest.raises(InputError, match=r"expected train\.\* beside the test file"):
        choices("medqa_us_4options", shots=1)
    other = MEDQA | {"question": "Another one?"}
    put("medqa_us_4options", [MEDQA | {"question": "WHICH one"}, other], name="train")
    found = choices("medqa_us_4options", shots=1)["shots"]
    assert [doc["question"] for doc in found] == ["Another one?"]
    with pytest.raises(InputError, match="expected 2 few-shot examples, found 1"):
        choices("medqa_us_4options", shots=2)
    assert choices("medqa_us_4options")["shots"] == []


def test_held_out_rows_name_the_missing_column(put: Any) -> None:
    put("medical_o1_en", [{"Question": "q"}], name="train")
    with pytest.raises(InputError, match="row 0: expected text in Question and Response"):
        held_out("medical_o1_en", "Response")


def test_rows_to_tune_on_are_no_questions(put: Any) -> None:
    put("medical_o1_en", [{"Question": "q"}], name="train")
    with pytest.raises(InputError, match="holds no multiple-choice questions"):
        questions("medical_o1_en")


def test_questions_keep_their_subject(put: Any) -> None:
    put("mmlu_anatomy", [MMLU])
    assert questions("mmlu_anatomy")[0]["subject"] == "anatomy"


def test_a_score_keeps_what_was_odd_in_its_data(put: Any) -> None:
    put("medqa_us_4options", [MEDQA, MEDQA])
    found = provenance("medqa_us_4options")
    assert found["faults"] == {"repeated question": 1}
    assert found["rows"] == 2
    assert provenance("clinic")["faults"] == {}


def test_options_as_the_hub_has_them(put: Any) -> None:
    listed = [{"key": key, "value": text} for key, text in MEDQA["options"].items()]
    put("medqa_us_4options", [MEDQA | {"options": listed}])
    assert questions("medqa_us_4options")[0]["options"] == ["w", "x", "y", "z"]


def test_plain_lm_eval_has_no_examples_rather_than_test_questions(put: Any) -> None:
    from lm_eval.tasks import TaskManager

    from medbench.tasks.catalog import SPECS

    put("medqa_us_4options", [MEDQA, MEDQA | {"question": "Another one?"}])
    put("medqa_us_4options", [MEDQA | {"question": "Shown?"}], name="train")

    def asked(**metadata: Any) -> str:
        manager = TaskManager(include_path=str(SPECS), include_defaults=False, metadata=metadata)
        task = manager.load(["medqa"])["tasks"]["medqa"]
        task.set_fewshot_seed(1)
        return str(task.fewshot_context(task.eval_docs[0], 1))

    with pytest.raises(AssertionError, match="exceeds the 0 that are available"):
        asked()
    assert asked(shots=1).startswith("Question: Shown?")
