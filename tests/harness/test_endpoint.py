"""Models behind a URL: real clients against a real server, its failures, and a mixed suite."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medbench.errors import StageError
from medbench.harness.folder.store import RunFolder
from medbench.harness.suite import EMBEDDED, ModelSpec
from medbench.tasks.templates import Prompt

from .asking import chat, samples
from .openai_server import Answer, model_at, saying, serving

KEY = "sk-planted-0123456789abcdef"


@pytest.fixture(autouse=True)
def planted_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture(scope="module")
def clinic_model() -> Answer:
    return model_at(EMBEDDED["embedded:clinic"])


def test_a_chat_endpoint_answers_as_its_weights_do(clinic_model: Answer) -> None:
    ours = samples(ModelSpec(pretrained="embedded:clinic"), "clinic_open")
    with serving(clinic_model) as server:
        theirs = samples(chat(server.url), "clinic_open", Prompt(chat_template=True))
        assert len(server.requests) == 6
        path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("clinic", 0, 96)
    for ours_row, row in zip(ours.to_dict("records"), theirs.to_dict("records"), strict=True):
        assert json.loads(row["prompt"])[-1]["content"].strip() == ours_row["prompt"].strip()
        assert row["output_tokens"] > 0, "the server's own count"
    same = ["doc_hash", "question", "target", "task"]
    pd.testing.assert_frame_equal(ours[same], theirs[same])
    assert (ours["output"] == theirs["output"]).all()
    assert (ours["score"] == theirs["score"]).all()
    assert (ours["output_tokens"] == theirs["output_tokens"]).all()


def test_a_completions_endpoint_scores_as_its_weights_do(
    clinic: Path, clinic_model: Answer
) -> None:
    ours = samples(ModelSpec(pretrained="embedded:clinic"), "clinic_text")
    with serving(clinic_model) as server:
        args = {
            "model": "clinic",
            "base_url": f"{server.url}/v1/completions",
            "tokenizer": str(clinic),
            "tokenizer_backend": "huggingface",
            "batch_size": 4,
        }
        theirs = samples(ModelSpec(backend="local-completions", args=args), "clinic_text")
    for a, b in zip(ours["option_scores"], theirs["option_scores"], strict=True):
        assert np.allclose(a, b, atol=1e-4)
    assert (ours["prompt_hash"] == theirs["prompt_hash"]).all()


def test_what_the_server_says_of_its_reply_is_kept() -> None:
    def answer(_: str, body: dict[str, Any]) -> dict[str, Any]:
        return saying("<think>so", "length") | {"usage": {"completion_tokens": 7}}

    with serving(answer) as server:
        table = samples(chat(server.url), "clinic_open", Prompt(chat_template=True), limit=1)
    (row,) = table.to_dict("records")
    assert row["truncated"]
    assert row["output_tokens"] == 7
    assert row["problem"] in {"truncated", "unclosed"}


def test_a_reply_without_text_or_count_is_an_empty_answer() -> None:
    def answer(_: str, body: dict[str, Any]) -> dict[str, Any]:
        return {"choices": [{"index": 0, "message": {"role": "assistant", "content": None}}]}

    with serving(answer) as server:
        table = samples(chat(server.url), "clinic_open", Prompt(chat_template=True), limit=1)
    (row,) = table.to_dict("records")
    assert (row["output"], row["problem"], row["score"]) == ("", "empty", 0)
    assert pd.isna(row["output_tokens"])
    assert not row["truncated"]


FAILURES: list[tuple[Answer | None, str]] = [
    (None, r"models\.m: http://127\.0\.0\.1:\d+/v1/chat/completions cannot be reached .*server up"),
    (lambda *_: {"status": 401, "error": f"bad key {KEY}"}, r"refused the key \(HTTP 401\)"),
    (lambda *_: {"status": 500, "error": f"at {KEY}"}, r"answered HTTP 500"),
    (lambda *_: {"error": f"quota of {KEY}"}, r"answered without 'choices'.*\[secret\]"),
]


@pytest.mark.parametrize(("answer", "message"), FAILURES)
@pytest.mark.parametrize("concurrent", [1, 2])
def test_a_failing_endpoint_is_named_and_no_key_is_shown(
    answer: Answer | None,
    message: str,
    concurrent: int,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """aiohttp's errors show the headers of their request; lm-eval writes them into its log."""
    with serving(answer or (lambda *_: {})) as server:
        url = server.url
        if answer is not None:
            fail(chat(url, max_retries=1, num_concurrent=concurrent), message)
    if answer is None:  # now nobody listens there
        fail(chat(url, max_retries=1, num_concurrent=concurrent), message)
    out, err = capfd.readouterr()
    assert KEY not in caplog.text + out + err


def fail(spec: ModelSpec, message: str) -> None:
    import gc

    with pytest.raises(StageError, match=message) as error:
        samples(spec, "clinic_open", Prompt(chat_template=True), limit=3)
    assert KEY not in str(error.value)
    del error
    gc.collect()  # asyncio tells of lost tasks when they are collected


def test_a_slow_endpoint_is_named() -> None:
    import time

    def answer(_: str, body: dict[str, Any]) -> dict[str, Any]:
        time.sleep(1.5)
        return saying("late")

    with serving(answer) as server:
        fail(
            chat(server.url, max_retries=1, timeout=1), r"did not answer in time; raise args\.timeo"
        )


def test_another_variable_may_hold_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINIC_KEY", "another-planted-key")
    with serving(lambda *_: saying("x")) as server:
        spec = chat(server.url).model_copy(update={"key_env": "CLINIC_KEY"})
        samples(spec, "clinic_open", Prompt(chat_template=True), limit=1)
        assert server.requests[0][1]["Authorization"] == "Bearer another-planted-key"


def test_a_mixed_suite_runs_end_to_end(
    tmp_path: Path, clinic: Path, clinic_model: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hf base, its adapter, an endpoint and a judge give one run folder, without the key."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from typer.testing import CliRunner

    from medbench.cli import app

    lora = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(clinic), lora).save_pretrained(
        tmp_path / "lora"
    )

    def answer(path: str, body: dict[str, Any]) -> dict[str, Any]:
        if body["model"] != "grader":
            return clinic_model(path, body)
        asked = json.loads(body["messages"][1]["content"])
        right = asked["reference_answer"].lower() in asked["answer_to_grade"].lower()
        return saying("correct" if right else "incorrect")

    with serving(answer) as server:
        grader = chat(server.url, model="grader").model_dump(include={"backend", "args"})
        suite = {
            "name": "mixed",
            "tasks": ["clinic_open"],
            "limit": 5,
            "models": {
                "base": {"backend": "hf", "pretrained": "embedded:clinic"},
                "tuned": {"base": "base", "adapter": {"path": str(tmp_path / "lora")}},
                "chat": chat(server.url).model_dump(include={"backend", "args"}),
            },
            "judge": {"kind": "endpoint", "model": grader},
        }
        (tmp_path / "suite.yaml").write_text(json.dumps(suite), "utf-8")
        out = tmp_path / "R"
        command = ["run", "--suite", str(tmp_path / "suite.yaml"), "--out", str(out)]
        done = CliRunner().invoke(app, [*command, "--device", "cpu"], catch_exceptions=False)
        asked = len(server.requests)
        assert done.exit_code == 0, done.output
        CliRunner().invoke(app, [*command, "--device", "cpu"], catch_exceptions=False)
        assert len(server.requests) == asked, "nothing is asked twice"

    run = RunFolder.open(out)
    results, table, judged = run.results(), run.samples(), run.table("judgements.parquet")
    assert list(results["tasks"]["clinic_open"]["scores"]) == ["base", "tuned", "chat"]
    assert [(c["base"], c["tuned"]) for c in results["comparisons"]] == [("base", "tuned")]
    by_model = dict(iter(table.groupby("model")))
    outputs = [by_model[name]["output"].tolist() for name in ("base", "chat")]
    assert outputs[0] == outputs[1], "the endpoint serves the base"
    assert by_model["chat"]["protocol"].str.endswith(", chat template").all()
    assert len(judged) == len(table) == 15
    assert [one["model"] for one in results["judge"]] == ["base", "tuned", "chat"]
    for one in results["judge"]:
        assert one["agreement"] is None or one["agreement"]["n"] <= 5
    assert any("cannot be hashed" in note for note in results["notes"])
    manifest = run.manifest()
    assert list(manifest["stages"])[-3:] == [
        f"judge/{name}/clinic_open" for name in ("base", "tuned", "chat")
    ]
    for name in ("report.md", "report.html"):
        assert "chat" in (out / name).read_text("utf-8")
    for file in out.rglob("*"):
        assert not file.is_file() or KEY.encode() not in file.read_bytes(), file
