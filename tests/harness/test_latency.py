"""Latency: real measurements of a tiny model in processes of their own."""

import json
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from medbench.errors import InputError, StageError
from medbench.harness.export import export_onnx
from medbench.harness.latency import (
    COLUMNS,
    LatencyJob,
    LatencySettings,
    engines,
    machine,
    measure,
    summarise,
)
from medbench.harness.latency.engines import greedy
from medbench.harness.latency.worker import Session, fill

VOCAB = 40
SETTINGS = LatencySettings(
    prompt_tokens=[5, 9],
    output_tokens=4,
    batch=[1, 2],
    warmup=1,
    iterations=2,
    threads=1,
    memory=False,
)
SERIES = 4 * 2  # four shapes, two engines


class Extended(LatencySettings):
    """As a suite does: its latency section is these settings and more."""

    formats: tuple[str, ...] = ("fp32",)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latency") / "model"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    words = {"</s>": 0, **{f"w{i}": i for i in range(1, VOCAB)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def job(checkpoint: Path) -> LatencyJob:
    export = export_onnx(checkpoint, checkpoint.parent / "onnx")
    return LatencyJob(
        model="tuned",
        model_dir=checkpoint,
        onnx={"fp32": export.path},
        prompts=["w1 w2 w3", "w4 w5"],
        settings=SETTINGS,
    )


@pytest.fixture(scope="module")
def ticks() -> list[tuple[int, int, str]]:
    return []


@pytest.fixture(scope="module")
def timings(job: LatencyJob, ticks: list[tuple[int, int, str]]) -> pd.DataFrame:
    return measure(job, lambda *report: ticks.append(report))


def test_one_row_a_request(timings: pd.DataFrame) -> None:
    assert tuple(timings.columns) == COLUMNS
    assert len(timings) == SERIES * (SETTINGS.warmup + SETTINGS.iterations)
    series = timings.groupby(["engine", "format", "batch", "prompt_tokens"])
    assert set(series.groups) == {
        (engine, "fp32", batch, length)
        for engine in ("onnxruntime", "torch")
        for batch in (1, 2)
        for length in (5, 9)
    }
    for _, rows in series:
        assert rows["iteration"].tolist() == [0, 1, 2]
        assert rows["warmup"].tolist() == [True, False, False]
    assert set(timings["provider"]) == {"cpu"}
    assert set(timings["model"]) == {"tuned"}
    assert set(timings["threads"]) == {1}


def test_raw_values_add_up(timings: pd.DataFrame) -> None:
    for row in timings.itertuples():
        assert isinstance(row.token_s, list)
        assert len(row.token_s) == row.output_tokens - 1 == 3
        assert min(row.ttft_s, *row.token_s) > 0
        assert math.isclose(row.e2e_s, row.ttft_s + sum(row.token_s), rel_tol=1e-9)
        assert row.load_1m >= 0
        assert "cores" in row.hardware
        assert row.ttft_floor_s > 0
        assert row.token_floor_s > 0
    assert timings["peak_bytes"].isna().all()
    peaks = timings.attrs["peaks"]
    assert peaks["matmul"]["float32"] > 1e8
    assert all(rate > 1e8 for rate in peaks["bandwidth"].values())
    assert timings.attrs["skipped"] == {}


def test_engines_take_turns(timings: pd.DataFrame) -> None:
    first_shape = timings[(timings["batch"] == 1) & (timings["prompt_tokens"] == 5)]
    assert first_shape["engine"].tolist() == [
        "onnxruntime", "torch", "torch", "onnxruntime", "onnxruntime", "torch"
    ]  # fmt: skip


def test_progress_is_told(timings: pd.DataFrame, ticks: list[tuple[int, int, str]]) -> None:
    total = len(timings)
    assert [(done, all_) for done, all_, _ in ticks] == [(k, total) for k in range(1, total + 1)]
    assert {note for _, _, note in ticks} == {"torch fp32", "onnxruntime fp32"}


def test_settings_of_a_suite_and_token_ids_are_taken_silently(
    job: LatencyJob, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = Extended(
        prompt_tokens=[3], output_tokens=[2, 3], warmup=0, iterations=1, engines=["onnxruntime"]
    )

    timings = measure(job.model_copy(update={"settings": settings, "prompts": [[1, 2], [3]]}))

    assert timings["output_tokens"].tolist() == [2, 3]
    assert timings["peak_bytes"].between(1, 10**9).all()
    assert capfd.readouterr() == ("", "")


def test_failing_process_is_a_stage_error(job: LatencyJob, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    config = job.onnx["fp32"] / "genai_config.json"
    (tmp_path / "genai_config.json").write_bytes(config.read_bytes())

    with pytest.raises(StageError, match=r"(?s)latency of tuned.*model\.onnx.*cannot load it"):
        measure(job.model_copy(update={"onnx": {"fp32": tmp_path}}))


@pytest.mark.parametrize("prompts", [[], [""], [[1], []]])
def test_prompts_are_needed(job: LatencyJob, prompts: list[str]) -> None:
    with pytest.raises(InputError, match="no prompts, or an empty one"):
        measure(job.model_copy(update={"prompts": prompts}))


def test_missing_export_is_named(job: LatencyJob, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model\.onnx is missing; run the export first"):
        measure(job.model_copy(update={"onnx": {"int4": tmp_path}}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_cuda_is_an_error(job: LatencyJob) -> None:
    with pytest.raises(InputError, match="'cuda'"):
        measure(job.model_copy(update={"device": "cuda"}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompt_tokens": []},
        {"prompt_tokens": [0]},
        {"batch": [0]},
        {"output_tokens": 1},
        {"iterations": 0},
        {"threads": 0},
        {"output_tokens": [1]},
        {"engines": ["llama.cpp"]},
        {"engines": []},
        {"min_seconds": -1},
        {"repeats": 3},
    ],
)
def test_settings_refuse_nonsense(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        LatencySettings.model_validate(wrong)


def test_prompts_are_joined_and_cut() -> None:
    prompts = [[1, 2, 3], [4, 5]]
    assert fill(prompts, 0, 2) == [1, 2]
    assert fill(prompts, 1, 4) == [4, 5, 1, 2]
    assert fill(prompts, 2, 7) == [1, 2, 3, 4, 5, 1, 2]


class Counting:
    """An engine whose next token is the last one plus one, and 0, the end token, after 3."""

    def __init__(self) -> None:
        self.fed: list[list[list[int]]] = []

    def reset(self) -> None:
        self.fed = []

    def prefill(self, ids: torch.Tensor) -> torch.Tensor:
        self.fed.append(ids.tolist())
        return torch.nn.functional.one_hot((ids + 1) % 4, 4).float()

    step = prefill


def test_greedy_goes_on_after_the_end_token() -> None:
    engine = Counting()
    tokens = list(greedy(engine, torch.tensor([[0, 1], [1, 2]]), 4))
    assert tokens == [[2, 3], [3, 0], [0, 1], [1, 2]]
    assert engine.fed == [[[0, 1], [1, 2]], [[2], [3]], [[3], [0]], [[0], [1]]]


def test_summary_of_a_measurement(timings: pd.DataFrame) -> None:
    rows = summarise(timings)
    assert len(rows) == SERIES
    assert {row["n"] for row in rows} == {SETTINGS.iterations}
    assert all(type(row["batch"]) is int and type(row["unstable"]) is bool for row in rows)
    json.dumps(rows, allow_nan=False)


def test_series_go_on_until_they_have_their_seconds(job: LatencyJob) -> None:
    settings = SETTINGS.model_copy(
        update={"prompt_tokens": [5], "batch": [1], "min_seconds": 0.25, "iterations": 2}
    )
    table = measure(job.model_copy(update={"settings": settings}))

    counted = table[~table["warmup"]]
    spent = counted.groupby("engine")["e2e_s"].sum()
    assert spent.min() >= 0.25
    assert counted.groupby("engine").size().nunique() == 1  # all engines take part in each round


def test_compiled_torch_says_what_torch_says(job: LatencyJob) -> None:
    session = Session(
        job.model_copy(
            update={
                "settings": SETTINGS.model_copy(update={"engines": ["torch", "torch-compiled"]})
            }
        )
    )
    if "torch-compiled" in session.skipped:
        pytest.skip(session.skipped["torch-compiled"])
    eager, compiled = session.engines
    for iteration in range(3):  # each over the cache that the last one left full
        ids = session.request((1, 5, 4), iteration)
        assert list(compiled.stream(ids, 4)) == list(eager.stream(ids, 4))


def test_what_cannot_run_here_is_said(job: LatencyJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    settings = SETTINGS.model_copy(update={"engines": ["torch-compiled", "vllm", "onnxruntime"]})
    wanted = job.model_copy(update={"settings": settings, "onnx": {}})

    assert engines.missing(wanted) == {
        "torch-compiled": "torch.compile needs a C++ compiler (no-such-compiler)",
        "vllm": "vllm is not installed",
        "onnxruntime": "there is no export",
    }


def test_an_engine_that_does_not_compile_is_left_out(
    job: LatencyJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: object, ids: object, tokens: int) -> Iterator[list[int]]:
        raise RuntimeError("unsupported operator\nand a long trace")

    monkeypatch.setattr(engines.CompiledModel, "stream", fails)
    settings = SETTINGS.model_copy(update={"engines": ["torch", "torch-compiled"]})
    monkeypatch.setattr(engines, "_no_compiler", lambda provider: "")

    session = Session(job.model_copy(update={"settings": settings}))

    assert [engine.name for engine in session.engines] == ["torch"]
    assert session.skipped == {"torch-compiled": "torch.compile failed: unsupported operator"}


def test_cores_that_are_not_there_are_refused(job: LatencyJob) -> None:
    settings = SETTINGS.model_copy(update={"cores": [9999]})
    with pytest.raises(InputError, match=r"latency\.cores \[9999\]: expected at least 1"):
        measure(job.model_copy(update={"settings": settings}))
    if hasattr(os, "sched_getaffinity"):
        there = sorted(os.sched_getaffinity(0))
        machine.check_cores(there, len(there))
        with pytest.raises(InputError, match=rf"expected at least {len(there) + 1}"):
            machine.check_cores(there, len(there) + 1)


def test_cuda_graph_on_a_cpu_is_refused(job: LatencyJob) -> None:
    settings = SETTINGS.model_copy(update={"cuda_graph": True})
    with pytest.raises(InputError, match=r"latency\.cuda_graph: needs device cuda, not cpu"):
        measure(job.model_copy(update={"settings": settings}))


def test_a_tokenizer_that_is_missing_is_named(job: LatencyJob, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((job.model_dir / "config.json").read_bytes())
    with pytest.raises(InputError, match=r"tokenizer_config\.json: missing"):
        measure(job.model_copy(update={"model_dir": tmp_path}))


def test_trust_reaches_the_loading_of_the_model(
    job: LatencyJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    seen = []

    class Loading:
        @staticmethod
        def from_pretrained(folder: Path, **given: object) -> None:
            seen.append(given["trust_remote_code"])
            raise InputError("stop")

    monkeypatch.setattr(transformers, "AutoModelForCausalLM", Loading)
    for trusted in (True, False):
        with pytest.raises(InputError, match="stop"):
            engines.load(job.model_copy(update={"trust_remote_code": trusted}), [("torch", "")])
    assert seen == [True, False]


@pytest.mark.parametrize(
    ("device", "given", "captured"),
    [("cuda", None, True), ("cuda:1", True, True), ("cuda", False, False), ("cpu", None, False)],
)
def test_steps_on_cuda_are_replayed_unless_told(
    job: LatencyJob,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    given: bool | None,
    captured: bool,
) -> None:
    entries = {"ep.cuda.fpa_intb_gemm": "1"}
    settings = SETTINGS.model_copy(update={"cuda_graph": given, "session_options": entries})
    asked: dict[str, object] = {}

    def opened(folder: Path, **given: object) -> None:
        asked.update(given)
        raise InputError("stop")

    monkeypatch.setattr(engines, "OrtModel", opened)
    with pytest.raises(InputError, match="stop"):
        engines.load(
            job.model_copy(update={"settings": settings, "device": device}),
            [("onnxruntime", next(iter(job.onnx)))],
        )
    assert asked["cuda_graph"] is captured
    assert asked["options"] == entries


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_peak_memory_is_seen_after_it_was_given_back() -> None:
    peak = machine.Peak("cpu")
    block = bytearray(50_000_000)
    block[::4096] = b"x" * len(block[::4096])
    del block

    assert 45e6 < (peak.bytes() or 0) < 80e6
