"""vLLM's engine at its seam: a stand-in with the calls that are made of the real one. No GPU."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from medbench.harness.latency import LatencyJob, LatencySettings
from medbench.harness.latency.vllm import VllmModel
from medbench.harness.suite import EMBEDDED

CLINIC = EMBEDDED["embedded:clinic"]


class FakeEngine:
    """Prefills one request a step, in order; then gives each request one token a step."""

    given: dict[str, Any] = {}

    def __init__(self) -> None:
        self.waiting: list[tuple[str, list[int], int]] = []
        self.running: dict[str, tuple[list[int], list[int], int]] = {}

    @classmethod
    def from_engine_args(cls, given: dict[str, Any]) -> "FakeEngine":
        cls.given = given
        return cls()

    def add_request(self, name: str, prompt: dict[str, list[int]], asked: dict[str, Any]) -> None:
        assert asked["ignore_eos"]
        assert asked["temperature"] == 0.0
        assert asked["min_tokens"] == asked["max_tokens"]
        self.waiting.append((name, prompt["prompt_token_ids"], asked["max_tokens"]))

    def step(self) -> list[Any]:
        if self.waiting:
            name, prompt, tokens = self.waiting.pop(0)
            self.running[name] = (prompt, [], tokens)
        outputs = []
        for name, (prompt, said, tokens) in list(self.running.items()):
            said.append(prompt[-1] + len(said) + 1)
            if len(said) == tokens:
                del self.running[name]
            output = SimpleNamespace(token_ids=list(said))
            outputs.append(SimpleNamespace(request_id=name, outputs=[output]))
        return outputs


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> VllmModel:
    fake = SimpleNamespace(EngineArgs=dict, LLMEngine=FakeEngine, SamplingParams=dict)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**11, 10**11))
    settings = LatencySettings(prompt_tokens=[4, 8], output_tokens=[3, 5], batch=[1, 3])
    return VllmModel(
        LatencyJob(
            model="tuned", model_dir=CLINIC, onnx={}, prompts=["x"], settings=settings,
            device="cuda",
        )
    )  # fmt: skip


def test_engine_is_made_for_what_is_asked(model: VllmModel) -> None:
    given = FakeEngine.given
    assert given["model"] == str(CLINIC)
    assert (given["max_model_len"], given["max_num_seqs"]) == (13, 3)
    assert given["enable_prefix_caching"] is False
    assert given["trust_remote_code"] is False
    assert 0.05 < given["gpu_memory_utilization"] < 0.1  # not the usual 0.9: others share the GPU
    assert model.format == {"bfloat16": "bf16", "float16": "fp16"}[given["dtype"]]


def test_a_token_is_given_when_all_rows_have_it(model: VllmModel) -> None:
    # The rows are prefilled one after another, so the first runs ahead of the last.
    found = list(model.stream(torch.tensor([[1, 10], [1, 20], [1, 30]]), 4))
    assert found == [[11, 21, 31], [12, 22, 32], [13, 23, 33], [14, 24, 34]]
    assert list(model.stream(torch.tensor([[40]]), 2)) == [[41], [42]]
