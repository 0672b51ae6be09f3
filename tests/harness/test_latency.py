"""Latency: a real measurement of a tiny model in its own process, and the statistics by hand."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from medbench.errors import InputError, StageError
from medbench.harness.export import export_onnx
from medbench.harness.latency import COLUMNS, LatencyJob, LatencySettings, measure, summarise
from medbench.harness.latency.engines import greedy
from medbench.harness.latency.worker import fill

VOCAB = 40
SETTINGS = LatencySettings(
    prompt_tokens=[5, 9], output_tokens=4, batch=[1, 2], warmup=1, iterations=2, threads=1
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


def test_engines_take_turns(timings: pd.DataFrame) -> None:
    first_shape = timings[(timings["batch"] == 1) & (timings["prompt_tokens"] == 5)]
    assert first_shape["engine"].tolist() == [
        "torch", "onnxruntime", "onnxruntime", "torch", "torch", "onnxruntime"
    ]  # fmt: skip


def test_progress_is_told(timings: pd.DataFrame, ticks: list[tuple[int, int, str]]) -> None:
    total = len(timings)
    assert [(done, all_) for done, all_, _ in ticks] == [(k, total) for k in range(1, total + 1)]
    assert {note for _, _, note in ticks} == {"torch fp32", "onnxruntime fp32"}


def test_settings_of_a_suite_and_token_ids_are_taken_silently(
    job: LatencyJob, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = Extended(prompt_tokens=[3], output_tokens=2, warmup=0, iterations=1)

    timings = measure(job.model_copy(update={"settings": settings, "prompts": [[1, 2], [3]]}))

    assert len(timings) == 2
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


def table(e2e_s: list[float], *, ttft_s: float = 0.1, **fixed: object) -> pd.DataFrame:
    """A series of requests of three tokens; the first is a warm-up."""
    rows = [
        {
            **dict.fromkeys(COLUMNS),
            "model": "tuned",
            "engine": "torch",
            "format": "fp32",
            "provider": "cpu",
            "batch": 1,
            "prompt_tokens": 8,
            "output_tokens": 3,
            "iteration": iteration,
            "warmup": iteration == 0,
            "ttft_s": ttft_s,
            "token_s": [(e2e - ttft_s) / 2] * 2,
            "e2e_s": e2e,
            **fixed,
        }
        for iteration, e2e in enumerate(e2e_s)
    ]
    return pd.DataFrame(rows)


def test_summary_by_hand() -> None:
    timings = pd.concat(
        [
            table([9.0, 0.30, 0.32, 0.34]),
            table([9.0, 0.20], ttft_s=0.05, engine="onnxruntime"),
        ]
    )

    torch_row, ort_row = summarise(timings)

    # TPOT of the three requests: 0.10, 0.11, 0.12 s; linear interpolation between them.
    assert torch_row == {
        "model": "tuned",
        "engine": "torch",
        "format": "fp32",
        "provider": "cpu",
        "batch": 1,
        "prompt_tokens": 8,
        "output_tokens": 3,
        "ttft_ms_p50": pytest.approx(100),
        "ttft_ms_p90": pytest.approx(100),
        "ttft_ms_p99": pytest.approx(100),
        "tpot_ms_p50": pytest.approx(110),
        "tpot_ms_p90": pytest.approx(118),
        "tpot_ms_p99": pytest.approx(119.8),
        "n": 3,
        "unstable": False,
    }
    assert (ort_row["engine"], ort_row["n"]) == ("onnxruntime", 1)
    assert ort_row["ttft_ms_p50"] == pytest.approx(50)
    assert ort_row["tpot_ms_p99"] == pytest.approx(75)


def test_unstable_is_a_spread_above_a_tenth() -> None:
    (steady,) = summarise(table([1.0, *[1.0] * 10, 5.0]))  # one outlier in ten does not condemn
    # p10 0.84, p90 1.16, median 1.0: spread 0.32 / 2.563 = 0.125.
    (shaky,) = summarise(table([1.0, 0.8, 0.9, 1.0, 1.1, 1.2]))
    assert not steady["unstable"]
    assert shaky["unstable"]


def test_summary_of_warm_ups_alone_is_empty() -> None:
    assert summarise(table([1.0])) == []


def test_summary_of_a_measurement(timings: pd.DataFrame) -> None:
    rows = summarise(timings)
    assert len(rows) == SERIES
    assert {row["n"] for row in rows} == {SETTINGS.iterations}
    assert all(type(row["batch"]) is int and type(row["unstable"]) is bool for row in rows)
