# ruff: noqa: E501  (a case of the table is a line)
"""Every way in which a file of predictions may be wrong: one line that says file, row and remedy.

All go through the command line, which must leave nothing behind.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from medbench.cli import app
from medbench.errors import InputError
from medbench.harness.predictions.load import load_side

GOOD = {
    "task": "drugs",
    "doc_id": 0,
    "target": "B",
    "prediction": "B",
    "options": ["aspirin", "heparin", "digoxin", "insulin"],
}
Rows = list[dict[str, Any]]


def row(**changed: Any) -> dict[str, Any]:
    return GOOD | {"doc_id": 1} | changed


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in row().items() if name != key}


def jsonl(*rows: Any) -> bytes:
    """A good row, then these."""
    return b"".join(json.dumps(one).encode() + b"\n" for one in (GOOD, *rows))


def line(text: str) -> bytes:
    """A good row, then this text."""
    return jsonl() + text.encode() + b"\n"


def lettered(*answers: str, target: str = "B") -> bytes:
    rows = [
        {"task": "t", "doc_id": n, "target": target, "prediction": a} for n, a in enumerate(answers)
    ]
    return b"".join(json.dumps(one).encode() + b"\n" for one in rows)


HEADER = b"task,doc_id,target,prediction\n"
LOGGED = {
    "doc_id": 0, "doc": {}, "target": "0", "filter": "none", "metrics": ["acc"], "acc": 1.0,
    "arguments": {"gen_args_0": {"arg_0": "q", "arg_1": " a"}, "gen_args_1": {"arg_0": "q", "arg_1": " b"}},
    "resps": [[["-1", "False"]], [["-2", "False"]]], "filtered_resps": [["-1", "False"], ["-2", "False"]],
    "doc_hash": "d", "prompt_hash": "p", "target_hash": "t",
}  # fmt: skip


def logged(**changed: Any) -> bytes:
    return json.dumps(LOGGED | changed).encode() + b"\n"


CASES: list[tuple[str, str, bytes, list[str], list[str]]] = [
    # (what is wrong, file, content, arguments, what the message says)
    ("empty file", "p.jsonl", b"", [], ["no prediction"]),
    ("only blank lines", "p.jsonl", b"\n \n", [], ["no prediction"]),
    ("header only", "p.csv", HEADER, [], ["no prediction"]),
    ("empty list", "p.json", b"[]", [], ["no prediction"]),
    ("unknown extension", "p.txt", jsonl(), [], ["'.txt'", ".jsonl"]),
    ("not UTF-8", "p.jsonl", jsonl() + b'{"task": "\xe9"}\n', [], ["line 2", "UTF-8"]),
    ("NUL byte", "p.jsonl", jsonl() + b"\0\n", [], ["line 2", "NUL"]),
    ("broken JSON line", "p.jsonl", line('{"task": "t", "doc_id": 1,'), [], ["line 2", "not valid JSON"]),
    ("list instead of object", "p.jsonl", line('["t", 1]'), [], ["line 2", "object", "a list"]),
    ("half a character", "p.jsonl", line(json.dumps(row(target="\ud83d"))), [], ["line 2", "surrogate"]),
    ("deep nesting", "p.jsonl", line("[" * 100_000), [], ["line 2", "RecursionError"]),
    ("number of 5,000 digits", "p.jsonl", line('{"a": ' + "9" * 5000 + "}"), [], ["line 2", "not valid JSON"]),
    ("object without a list", "p.json", b'{"a": 1}', [], ["list of objects"]),
    ("object with two lists", "p.json", b'{"a": [{"x": 1}], "b": [{"x": 1}]}', [], ["2 lists"]),
    ("missing column", "p.jsonl", jsonl().replace(b"doc_id", b"id"), [], ["'doc_id'", "--columns doc_id=id"]),
    ("no task", "p.jsonl", jsonl().replace(b"task", b"x"), [], ["'task'", "--columns task==NAME"]),
    ("no column of the plain form", "p.json", b'[{"question": "?", "gold": "A", "pred": "B"}]', [],
     ["'task', 'doc_id', 'target', 'prediction'", "--columns task==NAME,doc_id=question,target=gold,prediction=pred"]),
    ("key missing in one row", "p.jsonl", jsonl(without("prediction")), [], ["line 2", "null"]),
    ("target missing in one row", "p.jsonl", jsonl(without("target")), [], ["line 2", "target"]),
    ("task is a number in one row", "p.jsonl", jsonl(row(task=3)), [], ["line 2", "task", "3"]),
    ("doc_id is a fraction", "p.jsonl", jsonl(row(doc_id=1.5)), [], ["line 2", "doc_id", "1.5"]),
    ("doc_id is null", "p.jsonl", jsonl(row(doc_id=None)), [], ["line 2", "doc_id"]),
    ("duplicate id", "p.jsonl", jsonl(row(doc_id=0)), [], ["line 2", "'0'", "in line 1"]),
    ("duplicate id, once as text", "p.jsonl", jsonl(row(doc_id="0")), [], ["line 2", "in line 1"]),
    ("1-based answers", "p.jsonl", jsonl(row(target=4)), [], ["line 2", "from 0 or from 1", "letter"]),
    ("1-based answers in CSV", "p.csv",
     b'task,doc_id,target,prediction,options\nt,0,4,4,"[""a"", ""b"", ""c"", ""d""]"\n',
     [], ["row 1", "'4'", "none of its 4 options"]),
    ("5-option gold, 4 options", "p.jsonl", jsonl(row(target="E")), [], ["line 2", "'E'", "4 options"]),
    ("target of other data", "p.jsonl", jsonl(row(target="warfarin")), [], ["line 2", "'warfarin'", "same data"]),
    ("bare letters, text targets", "p.jsonl", lettered("B", target="heparin"), [], ["line 1", "--columns options="]),
    ("texts, letter targets", "p.jsonl", lettered("heparin", "aspirin"), [], ["line 1", "--columns options="]),
    ("letter or option?", "p.jsonl", json.dumps(row(options=["B", "C", "D", "E"], target="D")).encode(),
     [], ["line 1", "'D'", "letter of one option"]),
    ("27 options", "p.jsonl", jsonl(row(options=[f"o{n}" for n in range(27)])), [], ["line 2", "27 texts", "2 to 26"]),
    ("options alike", "p.jsonl", jsonl(row(options=["a", "a"], target="a")), [], ["line 2", "options"]),
    ("options counted from 1", "p.jsonl", jsonl(row(options={"1": "a", "2": "b"})), [], ["line 2", "A, B, C"]),
    ("prediction is a list", "p.jsonl", jsonl(row(prediction=["B"])), [], ["line 2", "prediction", "text"]),
    ("prediction is NaN", "p.jsonl", jsonl(row(prediction=float("nan"))), [], ["line 2", "prediction"]),
    ("score is NaN", "p.jsonl", jsonl(row(score=float("nan"))), [], ["line 2", "score", "finite"]),
    ("score is 1e999", "p.jsonl", line(json.dumps(row(score=0)).replace('"score": 0', '"score": 1e999')),
     [], ["line 2", "score", "finite"]),
    ("score out of range", "p.jsonl", jsonl(row(score=87.5)), [], ["line 2", "87.5", "0 (wrong) to 1"]),
    ("score is text", "p.jsonl", jsonl(row(score="1")), [], ["line 2", "score", "'1'"]),
    ("correct is neither 0 nor 1", "p.jsonl", jsonl(row(correct=2)), [], ["line 2", "correct", "2"]),
    ("true as text", "p.jsonl", jsonl(row(correct="true")), [], ["line 2", "correct", "'true'"]),
    ("score against correct", "p.jsonl", jsonl(row(correct=True, score=0)), [], ["line 2", "leave one"]),
    ("score of no option", "p.jsonl", jsonl(row(scores=dict.fromkeys("ABCDE", 0.2))), [], ["line 2", "'E'", "no option"]),
    ("score of an option missing", "p.jsonl", jsonl(row(scores={"A": 0.5, "B": 0.5})), [], ["line 2", "'C'", "missing"]),
    ("score of an option is NaN", "p.jsonl", jsonl(row(scores=[0, 1, float("nan"), 0])), [], ["line 2", "'C'", "finite"]),
    ("percentages", "p.jsonl", jsonl(row(scores=[20, 30, 40, 10])), [], ["line 2", "probabilities", "100"]),
    ("scores are text", "p.jsonl", jsonl(row(scores="high")), [], ["line 2", "scores"]),
    ("doc_hash in one row only", "p.jsonl", jsonl(row(doc_hash="abc")), [], ["line 1", "doc_hash"]),
    ("cells missing", "p.csv", HEADER + b"t,0,B\n", [], ["row 1", "3 cells", "4 columns"]),
    ("column twice", "p.csv", b"task,task\nt,t\n", [], ["'task'", "twice"]),
    ("semicolons", "p.csv", HEADER.replace(b",", b";") + b"t;0;B;B\n", [], ["line 1", "commas"]),
    ("open quotes", "p.csv", HEADER + b't,0,"B,B\n', [], ["CSV", "quotes"]),
    ("no JSON in a cell", "p.csv", HEADER[:-1] + b",options\nt,0,A,B,a|b\n", [], ["row 1", "options", "JSON"]),
    ("truncated Parquet", "p.parquet", b"PAR1\0\0", [], ["Parquet"]),
    ("unknown column mapped", "p.jsonl", jsonl(), ["--columns", "doc_id=nr"], ["'nr'", "doc_id", "task"]),
    ("unknown name mapped", "p.jsonl", jsonl(), ["--columns", "answer=x"], ["'answer'", "prediction"]),
    ("name mapped twice", "p.jsonl", jsonl(), ["--columns", "task=a,task=b"], ["'task'", "twice"]),
    ("no mapping", "p.jsonl", jsonl(), ["--columns", "task"], ["NAME=COLUMN"]),
    ("task twice", "p.jsonl", jsonl(), ["--columns", "task==a", "--task", "b"], ["--task b"]),
    ("bad model name", "p.jsonl", jsonl(), ["--model", "../up"], ["--model ../up"]),
    ("lm-eval results alone", "p.json", b'{"results": {}, "configs": {}}', [], ["--log_samples"]),
    ("lm-eval key missing", "p.jsonl", logged() + logged().replace(b'"filter"', b'"filler"'), [], ["line 2", "filter"]),
    ("lm-eval with two filters", "p.jsonl", logged() + logged(filter="strict"), [], ["none, strict", "--columns filter="]),
    ("lm-eval without a known metric", "p.jsonl", logged(metrics=["bleu"], bleu=3.0), [], ["bleu", "--columns score="]),
    ("lm-eval metric out of range", "p.jsonl", logged(acc=30), [], ["line 1", "0 to 1"]),
    ("lm-eval log-likelihood NaN", "p.jsonl", logged(filtered_resps=[["nan", "False"], ["-2", "False"]]), [], ["line 1", "NaN"]),
    ("lm-eval sample twice", "p.jsonl", logged() + logged(), [], ["line 2", "twice"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "arguments", "parts"),
    [pytest.param(*case[1:], id=case[0]) for case in CASES],
)
def test_a_malformed_file_is_one_line_and_leaves_nothing(
    tmp_path: Path, name: str, content: bytes, arguments: list[str], parts: list[str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    out = tmp_path / "runs" / "r"
    done = CliRunner().invoke(app, ["import", str(path), "--out", str(out), *arguments])
    assert isinstance(done.exception, InputError), done.output or repr(done.exception)
    message = str(done.exception)
    assert done.exception.exit_code == 2
    for part in [name if not arguments else "", *parts]:
        assert part in message
    assert "\n" not in message
    assert len(message) < 500
    assert [one.name for one in tmp_path.iterdir()] == [name], "nothing was written"


def test_the_table_has_30_cases() -> None:
    assert len({case[0] for case in CASES}) == len(CASES) >= 30


def test_in_a_process_it_is_exit_2_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(jsonl(row(correct=2)))
    done = subprocess.run(
        [sys.executable, "-m", "medbench", "import", "p.jsonl", "--out", "r"],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("medbench: p.jsonl, line 2: correct is 2")
    assert done.stderr.count("\n") == 1
    assert [one.name for one in tmp_path.iterdir()] == ["p.jsonl"]


def files(**contents: bytes) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name, content in contents.items():
            path = folder / name.replace("__", "/")
            path = path.with_name(path.name.replace("_jsonl", ".jsonl").replace("_json", ".json"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)

    return make


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        pytest.param(files(notes=b"x"), ["manifest.json", "samples_*.jsonl"], id="something else"),
        pytest.param(files(results_1_json=b"{}"), ["--log_samples"], id="results alone"),
        pytest.param(
            files(a__samples_t_1_jsonl=logged(), b__samples_t_1_jsonl=logged()),
            ["several models"],
            id="two models",
        ),
        pytest.param(
            files(samples_t_1_jsonl=logged(), samples_t_2_jsonl=logged()),
            ["task t", "twice"],
            id="two runs",
        ),
        pytest.param(files(samples_t_1_jsonl=jsonl()), ["doc_hash", "missing"], id="other samples"),
    ],
)
def test_a_folder_that_cannot_be_read_without_guessing(
    tmp_path: Path, make: Callable[[Path], None], parts: list[str]
) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    make(folder)
    with pytest.raises(InputError) as caught:
        load_side(str(folder))
    for part in ("given", *parts):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_empty_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").write_bytes(jsonl())
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter.txt").write_text("years of work")
    done = CliRunner().invoke(app, ["import", str(tmp_path / "p.jsonl"), "--out", str(out)])
    assert isinstance(done.exception, InputError)
    assert "thesis" in str(done.exception)
    assert [one.name for one in out.iterdir()] == ["chapter.txt"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xef\xbb\xbf" + jsonl(row()), id="byte order mark"),
        pytest.param(jsonl(row()).replace(b"\n", b"\r\n"), id="CRLF"),
        pytest.param(jsonl(row()).replace(b"\n", b"\n\n"), id="blank lines"),
        pytest.param(jsonl(row()).rstrip(), id="no newline at the end"),
        pytest.param(jsonl(row(question="one\u2028two", more={"x": float("nan")})), id="U+2028"),
    ],
)
def test_what_is_unusual_and_clear_is_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.jsonl").write_bytes(content)
    samples = load_side(str(tmp_path / "p.jsonl")).samples
    assert samples["doc_id"].tolist() == [0, 1]
    assert samples["score"].tolist() == [1, 1]


def test_csv_with_a_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_bytes(
        b"\xef\xbb\xbf" + HEADER.replace(b"\n", b"\r\n") + b"t,0,B,C\r\n"
    )
    samples = load_side(str(tmp_path / "p.csv")).samples
    assert samples[["task", "doc_id", "target", "prediction", "score"]].to_numpy().tolist() == [
        ["t", 0, "B", "C", 0.0]
    ]


def test_the_same_rows_as_parquet(tmp_path: Path) -> None:
    pd.DataFrame([GOOD, row(prediction=None)]).to_parquet(tmp_path / "p.parquet")
    samples = load_side(str(tmp_path / "p.parquet")).samples
    assert samples["score"].tolist() == [1, 0]
    assert samples["prediction"].tolist()[0] == "heparin"
    assert samples["prediction"].isna().tolist() == [False, True]
    assert samples["problem"].tolist()[1] == "empty"
    assert samples["problem"].isna().tolist() == [True, False]
