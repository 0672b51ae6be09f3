"""Tasks by generated chain of thought, from the spec to the report, over answers as models write
them: lm-eval asks a chat server through its own client, medbench reads, counts and reports.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from typer.testing import CliRunner

from medbench.harness.evaluate import score
from medbench.harness.folder.store import RunFolder
from medbench.reports import Report
from medbench.tasks import sources
from medbench.tasks.catalog import SPECS, task

from .openai_server import saying, serving


class Case(NamedTuple):
    """A reply, and what a careful reader makes of it; B is the right answer of every question."""

    reply: str
    letter: str | None
    problem: str | None
    finish: str = "stop"


CASES = [
    Case("<think>A? Too slow. B it is, not C.</think>\n\nThe answer is B.", "B", None),
    Case(
        "## Thinking\n\nThe drug is C, or so it seems at first.\n\n## Final Response\n\n"
        "Given the rash, **B. Trinol** is tried first.\n\nThe answer is B.",
        "B", None,
    ),
    Case("Rule out A and D.\n\n$$\\boxed{\\text{B}}$$", "B", None),
    Case("Step 1: the gut.\nStep 2: the liver.\n**Answer: (C)**", "C", None),
    Case("<think>It is B.</think>The answer is Zolvex.", "A", None),
    Case("<think>B, B, B. The answer is B. Or", None, "unclosed", "length"),
    Case("The patient presents with a fever of unknown origin and", None, "truncated", "length"),
    Case("The answer is B. On the other hand the rash speaks for D. The answer is D.", None,
         "several"),
    Case("I'm sorry, but I cannot provide medical advice.", None, "refused"),
    Case("<think>Hm.</think>", None, "empty"),
    Case("The answer is F.", None, "out_of_range"),
    Case("The answer is none of the above.", None, "none_of_the_above"),
    Case("It depends on the patient's weight.", None, "unstated"),
]  # fmt: skip
OPTIONS = {"A": "Zolvex", "B": "Trinol", "C": "Quarbin", "D": "Heltane"}


@pytest.fixture
def medqa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Invented questions in the shape of MedQA, one a case."""
    folder = tmp_path / "data" / "medqa_us_4options"
    folder.mkdir(parents=True)
    rows = [
        {"question": f"Case {n}: what is tried first?", "options": OPTIONS, "answer_idx": "B",
         "answer": "Trinol", "meta_info": "step1"}
        for n in range(len(CASES))
    ]  # fmt: skip
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    monkeypatch.setenv(sources.DATA_DIR, str(tmp_path / "data"))
    return tmp_path / "data"


def reply_to(prompt: str) -> Case:
    return CASES[int(prompt.rpartition("Case ")[2].partition(":")[0])]


def answer(_: str, body: dict[str, Any]) -> dict[str, Any]:
    asked = body["messages"][-1]["content"]
    assert "B. Trinol" in asked
    assert 'a line of the form "The answer is X"' in asked
    assert body["max_tokens"] == 2048
    case = reply_to(asked)
    return saying(case.reply, case.finish) | {"usage": {"completion_tokens": 9}}


class Replying(LM):  # type: ignore[misc]
    """Gives the case's reply to its question."""

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return [reply_to(request.args[0]).reply for request in requests]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        raise NotImplementedError

    loglikelihood_rolling = loglikelihood


def test_a_run_reads_counts_and_reports_every_kind(tmp_path: Path, medqa: Path) -> None:
    from medbench.cli import app

    with serving(answer) as server:
        url = f"{server.url}/v1/chat/completions"
        model = {"backend": "local-chat-completions", "args": {"model": "m", "base_url": url}}
        suite = {"name": "cot", "tasks": ["medqa_cot"], "models": {"chat": model}}
        (tmp_path / "suite.yaml").write_text(json.dumps(suite), "utf-8")
        out = tmp_path / "R"
        command = ["run", "--suite", str(tmp_path / "suite.yaml"), "--out", str(out)]
        done = CliRunner().invoke(app, [*command, "--device", "cpu"], catch_exceptions=False)
    assert done.exit_code == 0, done.output

    run = RunFolder.open(out)
    for case, row in zip(CASES, run.samples().to_dict("records"), strict=True):
        said = tuple(None if pd.isna(row[key]) else row[key] for key in ("prediction", "problem"))
        assert said == (OPTIONS.get(case.letter or ""), case.problem), case.reply
        assert row["score"] == float(case.letter == "B"), case.reply
        assert row["truncated"] == (case.finish == "length")
        assert row["output"] == case.reply
        assert row["subject"] == "step1"
    found = run.results()["tasks"]["medqa_cot"]["scores"]["chat"]
    assert (found["n"], found["value"]) == (13, pytest.approx(3 / 13)), "none is left out"
    assert found["unparsed"] == pytest.approx(8 / 13)

    (rates,) = Report.read(run).parsing
    kinds = [case.problem for case in CASES if case.problem]
    assert rates.problems == pytest.approx(dict.fromkeys(kinds, 1 / 13))
    assert rates.truncated == pytest.approx(2 / 13)
    for name in ("report.html", "report.md"):
        text = (out / name).read_text("utf-8").replace("\u00a0", " ")
        assert "61.5 %" in text, "not read in all"
        for kind in kinds:
            assert kind.replace("_", " ") in text
    assert rates.line.replace("\u00a0", " ").startswith("not read 61.5 % (empty 7.7 %, unclosed")


def test_plain_lm_eval_grades_alike(medqa: Path) -> None:
    specs = TaskManager(include_path=str(SPECS), include_defaults=False)
    found = simple_evaluate(
        model=Replying(), tasks=["medqa_cot"], task_manager=specs, bootstrap_iters=0
    )
    theirs = found["results"]["medqa_cot"]
    ours = score("m", Replying(), task("medqa_cot"))
    assert ours["score"].mean() == pytest.approx(theirs["acc,none"])
    assert ours["unparsed"].mean() == pytest.approx(theirs["unparsed,none"])


def test_the_embedded_model_writes_and_is_read(medqa: Path, clinic: Path) -> None:
    """What a model without medicine writes is text, whole in the table, and counted."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from medbench.harness.evaluate import Asking
    from medbench.harness.scorer.lm import PackedLM
    from medbench.tasks.templates import Prompt

    lm = PackedLM(
        pretrained=AutoModelForCausalLM.from_pretrained(clinic),
        tokenizer=AutoTokenizer.from_pretrained(clinic),
        batch_size=4,
    )
    table = score("base", lm, task("medqa_cot"), Asking(4, prompt=Prompt(max_tokens=48)))
    assert len(table) == 4
    assert (table["output"].str.len() > 0).all()
    assert table["output_tokens"].between(1, 48).all()
    read = table["problem"].isna()
    assert (table["prediction"].notna() == read).all()
    assert (table["unparsed"] == ~read).all()
    assert not table.loc[~read, "score"].any()


def test_zh_and_several_answers_are_read_by_their_own_rules(tmp_path: Path) -> None:
    from medbench.tasks.catalog import own_tasks
    from medbench.tasks.own import QuestionFile

    rows = [
        {"q": f"病例 {n}：首选哪种？", "o": list(OPTIONS.values()), "a": "AC"} for n in range(4)
    ]
    (tmp_path / "own.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    file = QuestionFile(
        file=str(tmp_path / "own.jsonl"), question="q", options="o", answer="a",
        answer_kind="letter", several=True, protocols=["cot"], language="zh",
    )  # fmt: skip
    replies = [
        "先看甲。\n答案是A、C",
        "<think>答案是A、C</think>答案是A",
        "答案是A或C",
        "无法判断。",
    ]

    class Chinese(Replying):
        def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
            return [replies[int(r.args[0].partition("病例 ")[2][0])] for r in requests]

    (asked,) = own_tasks("own", file)
    table: pd.DataFrame = score("m", Chinese(), asked)
    assert table["prompt"].str.contains("所有正确选项的字母").all()
    assert table["score"].tolist() == [1, 0, 0, 0]
    assert table["prediction"].tolist()[:2] == ["Zolvex; Quarbin", "Zolvex"]
    assert table["problem"].tolist()[2:] == ["several", "refused"]
