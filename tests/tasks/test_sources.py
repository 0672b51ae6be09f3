import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest

from medbench.errors import InputError
from medbench.tasks import sources
from medbench.tasks.datasets import choices, held_out
from medbench.tasks.sources import local_file, read_rows, rows
from medbench.tasks.splits import is_held_out, normalise

ROWS = [{"Question": "Why?", "Response": "Because."}, {"Question": "谁?", "Response": "é"}]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(sources.DATA_DIR, str(tmp_path))
    (tmp_path / "medical_o1_en").mkdir()
    return tmp_path / "medical_o1_en"


def test_four_formats_read_alike(tmp_path: Path) -> None:
    table = pd.DataFrame(ROWS)
    table.to_json(tmp_path / "a.json", orient="records", force_ascii=False)
    table.to_json(tmp_path / "a.jsonl", orient="records", lines=True, force_ascii=False)
    table.to_csv(tmp_path / "a.csv", index=False)
    table.to_parquet(tmp_path / "a.parquet")
    for suffix in sources.SUFFIXES:
        assert read_rows(tmp_path / f"a{suffix}") == ROWS, suffix


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": \n', "line 2"),
        ("a.jsonl", b"[1]\n", "line 1: expected an object"),
        ("a.json", b'{"a": 1}', "expected a list of objects"),
        ("a.json", b"[1]", "row 0"),
        ("a.json", b"[", "not valid JSON"),
        ("a.csv", b"\xff\xfe\xfa", "not UTF-8"),
    ],
)
def test_wrong_files_name_the_row(tmp_path: Path, name: str, content: bytes, part: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=part) as caught:
        read_rows(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_the_local_file_takes_the_place_of_the_hub(data: Path) -> None:
    (data / "anything.json").write_text('[{"Question": "q"}]')
    assert rows("medical_o1_en") == [{"Question": "q"}]
    (data / "train.jsonl").write_text('{"Question": "by split"}')
    assert rows("medical_o1_en") == [{"Question": "by split"}]


@pytest.mark.parametrize("names", [[], ["a.json", "b.json"], ["readme.txt"]])
def test_a_promised_local_file_must_be_there(data: Path, names: list[str]) -> None:
    for name in names:
        (data / name).write_text("[]")
    with pytest.raises(InputError, match="expected one data file"):
        local_file("medical_o1_en")


def test_unknown_source() -> None:
    with pytest.raises(InputError, match="medqa_us_4options"):
        rows("medqa")


def test_the_split_ignores_form_and_keeps_its_share() -> None:
    assert normalise("What  is—“Asthma”？") == normalise("what is asthma")
    questions = [f"Question number {n}?" for n in range(20_000)]
    held = [q for q in questions if is_held_out(q)]
    assert 0.09 < len(held) / len(questions) < 0.11
    assert all(is_held_out(q.upper()) for q in held)


def test_the_split_is_fixed_for_good() -> None:
    """These are promises to everyone who published a figure: they must never change."""
    assert [n for n in range(40) if is_held_out(f"Question number {n}?")] == [9, 29, 31]


def test_real_medqa(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sources.DATA_DIR, str(real_data))
    docs = choices("medqa_us_4options")["test"]
    assert len(docs) == 1273
    assert all(doc["options"][doc["gold"]] == doc["target"] for doc in docs)
    assert {len(doc["options"]) for doc in docs} == {4}


def test_real_medical_o1_rows_stay_on_their_side(
    real_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medbench.finetune.dataset import examples
    from medbench.finetune.recipe import load_recipe

    monkeypatch.setenv(sources.DATA_DIR, str(real_data))
    held = held_out("medical_o1_en", "Response")["test"]
    tuned = examples(load_recipe("medical-o1-qlora"), seed=0)
    assert len(held) + len(tuned) == 198
    prompts = " ".join(example.prompt for example in tuned)
    assert not [doc for doc in held if doc["question"] in prompts]


def test_a_csv_row_ends_where_csv_ends_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes('Question,Response\r\n"what\u2028is, or\nwas",x\u0085y\r\n'.encode())
    assert read_rows(path) == [{"Question": "what\u2028is, or\nwas", "Response": "x\u0085y"}]


def test_local_files_stand_in_folder_by_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MedMCQA as released counts answers from 1, on the Hub from 0: the folder says which."""
    monkeypatch.setenv(sources.DATA_DIR, str(tmp_path))
    row = {"question": "q", "opa": "a", "opb": "b", "opc": "c", "opd": "d", "subject_name": "s"}
    for folder, cop in (("medmcqa_dev", 1), ("medmcqa", 0)):  # the Hub's columns go first
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "validation.jsonl").write_text(json.dumps(row | {"cop": cop}))
        assert rows("medmcqa")[0]["cop"] == 0
        assert local_file("medmcqa") == tmp_path / folder / "validation.jsonl"
    (tmp_path / "medmcqa_dev" / "validation.jsonl").write_text(json.dumps(row | {"cop": 0}))
    (tmp_path / "medmcqa" / "validation.jsonl").unlink()
    (tmp_path / "medmcqa").rmdir()
    with pytest.raises(InputError, match=r"validation.jsonl, row 0: cop: .*count from 1"):
        rows("medmcqa")


def test_medqa_as_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sources.DATA_DIR, str(tmp_path))
    (tmp_path / "medqa_us_4options").mkdir()
    file = tmp_path / "medqa_us_4options" / "test.csv"
    file.write_text("question,A,B,C,D,answer_idx,answer\nq?,w,x,y,z,B,x\n")
    wide = choices("medqa_us_4options")["test"][0]
    nested = '"{""A"": ""w"", ""B"": ""x"", ""C"": ""y"", ""D"": ""z""}"'
    file.write_text(f"question,options,answer_idx,answer\nq?,{nested},B,x\n")
    assert choices("medqa_us_4options")["test"][0] == wide
    assert wide["options"] == ["w", "x", "y", "z"]
    assert wide["gold"] == 1


def test_chat_rows_of_medical_o1_get_its_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(sources.DATA_DIR, str(tmp_path))
    (tmp_path / "medical_o1_zh").mkdir()
    file = tmp_path / "medical_o1_zh" / "train.jsonl"
    chat = {"input": "问", "output": "<think>想</think>\n答", "meta": {"source": "made by hand"}}
    kept = chat | {"meta": {"source": "medical-o1-reasoning"}}
    file.write_text("\n".join(json.dumps(row) for row in (chat, kept)))
    assert rows("medical_o1_zh") == [{"Question": "问", "Complex_CoT": "想", "Response": "答"}]
    file.write_text(json.dumps(kept | {"output": "<think>想"}))
    with pytest.raises(InputError, match=r"row 0: output: expected <think>"):
        rows("medical_o1_zh")


def test_provenance_names_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(sources.DATA_DIR, str(tmp_path))
    (tmp_path / "medical_o1_en").mkdir()
    (tmp_path / "medical_o1_en" / "a.json").write_text("[{}]")
    digest = hashlib.sha256(b"[{}]").hexdigest()
    expected = {"hub": None, "revision": None, "files": {"a.json": digest}, "rows": 1}
    assert sources.provenance("medical_o1_en") == {"source": "medical_o1_en"} | expected
    own = tmp_path / "medical_o1_en" / "a.json"
    assert sources.provenance(str(own)) == {"source": "a.json"} | expected


def test_a_source_without_a_hub_copy_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(sources.DATA_DIR, raising=False)
    with pytest.raises(InputError, match="no Hub copy is known"):
        rows("medqa_zh_4options")
