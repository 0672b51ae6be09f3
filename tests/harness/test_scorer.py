"""Packed scores equal lm-eval's own, one request at a time, in float32."""

import logging
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from medbench.errors import InputError, StageError
from medbench.harness.scorer.lm import PackedLM
from medbench.harness.scorer.packing import Engine
from medbench.harness.scorer.trie import Trie

Pair = tuple[None, list[int], list[int]]
LIMIT = 96
WORDS = 512  # drawn from; every vocabulary here is larger
SIZE: dict[str, Any] = {
    "vocab_size": 2048, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3,
    "num_attention_heads": 4, "max_position_embeddings": LIMIT, "bos_token_id": 0,
    "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
GROUPED = SIZE | {"num_key_value_heads": 2}
SHAPES: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**GROUPED)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=None)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(**GROUPED, head_dim=16, query_pre_attn_scalar=16, sliding_window=LIMIT)
    ),
    "gpt-neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**SIZE)),
}


def make(shape: str, clinic: Path) -> Any:
    torch.manual_seed(0)
    if shape == "embedded":
        return AutoModelForCausalLM.from_pretrained(clinic).eval()
    return SHAPES[shape]().eval()


def mixed(count: int, seed: int = 0) -> list[Pair]:
    """Letters, option text, few-shot, rolling, one-token contexts, repeats, over-long ones."""
    rng = random.Random(seed)

    def words(number: int) -> list[int]:
        return [rng.randrange(WORDS) for _ in range(number)]

    shots = words(50)
    found: list[Pair] = []
    while len(found) < count:
        stem = words(rng.randrange(5, 30))
        kind = rng.randrange(7)
        if kind == 0:
            found += [(None, stem, words(1)) for _ in range(4)]
        elif kind == 1:
            found += [(None, stem, words(rng.randrange(1, 9))) for _ in range(4)]
        elif kind == 2:
            found += [(None, shots + stem, words(rng.randrange(1, 5))) for _ in range(4)]
        elif kind == 3:
            found.append((None, words(1), words(rng.randrange(1, 40))))
        elif kind == 4:
            found.append((None, words(LIMIT + rng.randrange(-3, 20)), words(rng.randrange(1, 9))))
        elif found:
            _, context, rest = rng.choice(found)
            found.append((None, context, rest))
            found.append((None, context + rest[:-1], rest[-1:]))
    return found[:count]


def pair(model: Any, clinic: Path, **options: Any) -> tuple[PackedLM, HFLM]:
    tokenizer = AutoTokenizer.from_pretrained(clinic)
    ours = PackedLM(pretrained=model, tokenizer=tokenizer, max_length=LIMIT, **options)
    # Its cache of logits misreads requests that share their tokens and differ in what they ask.
    theirs = HFLM(
        pretrained=model, tokenizer=tokenizer, max_length=LIMIT, softmax_dtype="float32",
        logits_cache=False,
    )  # fmt: skip
    return ours, theirs


def compare(found: list[tuple[float, bool]], expected: list[tuple[float, bool]]) -> float:
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    return max(abs(a - b) for (a, _), (b, _) in zip(found, expected, strict=True))


@pytest.mark.parametrize("shape", ["embedded", *SHAPES])
def test_scores_are_those_of_lm_eval(shape: str, clinic: Path) -> None:
    model = make(shape, clinic)
    ours, theirs = pair(model, clinic)
    requests = mixed(500)
    expected = theirs._loglikelihood_tokens(requests, disable_tqdm=True)
    found = ours._loglikelihood_tokens(requests, disable_tqdm=True)
    assert ours._unfit is None
    scale = 1 if shape != "embedded" else 4  # random tokens surprise a trained model: larger sums
    assert compare(found, expected) <= 1e-4 * scale


@pytest.mark.parametrize("shape", SHAPES)
def test_scores_do_not_depend_on_the_budget(shape: str, clinic: Path) -> None:
    model = make(shape, clinic)
    trie = Trie([((a + b)[-LIMIT - 1 :], len(b)) for _, a, b in mixed(200, seed=1)])
    (small, _, _), (large, _, _) = (Engine(model).answer(trie, size) for size in (256, 4096))
    assert np.abs(small - large).max() <= 1e-5


def texts(clinic: Path) -> list[Instance]:
    from medbench.tasks.clinic.rows import choice_docs

    docs = choice_docs("dev")[:8]
    shots = "".join(f"{doc['question']}\n{doc['answer']}\n\n" for doc in docs[-3:])
    found = []
    for index, doc in enumerate(docs):
        for option in doc["options"].values():
            for context in (doc["question"] + "\n", shots + doc["question"], ""):
                found.append((index, (context, " " + option)))
    return [Instance("loglikelihood", {}, args, 0, ("clinic", i, 1)) for i, args in found]


def test_strings_are_encoded_as_lm_eval_does(clinic: Path) -> None:
    model = make("embedded", clinic)
    tokenizer = AutoTokenizer.from_pretrained(clinic)
    ours = PackedLM(pretrained=model, tokenizer=tokenizer)
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, softmax_dtype="float32")
    requests = texts(clinic)[:48]
    expected = theirs.loglikelihood(requests, disable_tqdm=True)
    assert compare(ours.loglikelihood(requests, disable_tqdm=True), expected) <= 1e-4
    again = PackedLM(pretrained=model, tokenizer=tokenizer, token_budget=64)
    assert compare(again.loglikelihood(requests, disable_tqdm=True), expected) <= 1e-4
    assert again._budget == 64


def test_rolling_windows(clinic: Path) -> None:
    ours, theirs = pair(make("embedded", clinic), clinic)
    long = " ".join(doc.args[0] for doc in texts(clinic)[:12])
    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in (long, long[:50])]
    expected = theirs.loglikelihood_rolling(requests, disable_tqdm=True)
    found = ours.loglikelihood_rolling(requests, disable_tqdm=True)
    assert len(ours.tok_encode(long)) > 3 * LIMIT
    assert found == pytest.approx(expected, rel=1e-6)


def test_truncation_names_the_documents(clinic: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = pair(make("llama", clinic), clinic)
    requests = [request for request in texts(clinic) if len(request.args[0]) < 90][:20]
    long = Instance("loglikelihood", {}, ("fever " * 200, "yes"), 0, ("clinic", 41, 1))
    with caplog.at_level(logging.WARNING, "medbench.harness.scorer.lm"):
        found = ours.loglikelihood([*requests, long], disable_tqdm=True)
    assert "cut from the left: documents 41" in caplog.text
    assert compare(found, theirs.loglikelihood([*requests, long], disable_tqdm=True)) <= 1e-4


def test_a_request_without_an_answer_is_refused(clinic: Path) -> None:
    ours, _ = pair(make("llama", clinic), clinic)
    with pytest.raises(StageError, match="0 continuation tokens"):
        ours._loglikelihood_tokens([(("what", ""), [1, 2], [])])
    assert ours._loglikelihood_tokens([]) == []


def test_running_out_of_memory_halves_the_budget_and_loses_nothing(
    clinic: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ours, theirs = pair(make("llama", clinic), clinic, token_budget=1024)
    requests = mixed(120)
    forward, failures = Engine._forward, []

    def short_of_memory(self: Engine, row: Any, *rest: Any) -> Any:
        if row.start > 0 and row.stop - row.start > 300:
            forward(self, row, *rest)  # fails late, with keys already stored
            failures.append(row.start)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, row, *rest)

    ours._loglikelihood_tokens(requests[:4], disable_tqdm=True)
    monkeypatch.setattr(Engine, "_forward", short_of_memory)
    found = ours._loglikelihood_tokens(requests, disable_tqdm=True)
    assert len(failures) == 2
    assert failures[0] == failures[1]
    assert ours._budget == 256
    assert "rows now hold 256 tokens" in caplog.text
    assert compare(found, theirs._loglikelihood_tokens(requests, disable_tqdm=True)) <= 1e-4


def test_out_of_memory_with_the_shortest_rows_is_an_error(
    clinic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Engine, "_forward", none_left)
    with pytest.raises(torch.OutOfMemoryError):
        Engine(make("llama", clinic)).answer(Trie([([1, 2, 3], 1)]), 512)


def test_a_budget_of_nothing_is_refused(clinic: Path) -> None:
    with pytest.raises(InputError, match="token_budget 0"):
        pair(make("llama", clinic), clinic, token_budget=0)


def test_progress_counts_requests(clinic: Path) -> None:
    heard: list[tuple[int, int, str]] = []
    ours, _ = pair(
        make("llama", clinic), clinic, token_budget=128, tick=lambda *args: heard.append(args)
    )
    ours._loglikelihood_tokens(mixed(100))
    assert [done for done, _, _ in heard] == sorted(done for done, _, _ in heard)
    assert len(heard) > 3
    assert heard[-1] == (100, 100, "")


def mamba() -> Any:
    size = {"vocab_size": 2048, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    return MambaForCausalLM(MambaConfig(**size, bos_token_id=0, eos_token_id=1, pad_token_id=0))


def windowed() -> Any:
    return MistralForCausalLM(MistralConfig(**GROUPED, sliding_window=48))


def prompted() -> Any:
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    return get_peft_model(SHAPES["llama"](), config)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (mamba, "does not"),
        (windowed, "sliding_window 48 is shorter than the longest request"),
        (prompted, "virtual tokens"),
    ],
)
def test_models_that_cannot_take_the_mask_are_scored_by_lm_eval(
    build: Any, reason: str, clinic: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    ours, theirs = pair(build().eval(), clinic)
    requests = mixed(24)
    with caplog.at_level(logging.WARNING, "medbench.harness.scorer.lm"):
        found = ours._loglikelihood_tokens(requests, disable_tqdm=True)
        assert ours._loglikelihood_tokens(requests, disable_tqdm=True) == found
    assert sum(reason in record.getMessage() for record in caplog.records) == 1
    assert compare(found, theirs._loglikelihood_tokens(requests, disable_tqdm=True)) <= 1e-4


def test_a_window_that_no_request_outgrows_does_not_matter(clinic: Path) -> None:
    torch.manual_seed(0)
    ours, theirs = pair(windowed().eval(), clinic)
    requests: list[Pair] = [(None, [n, 2, 3], [4, 5]) for n in range(20)]
    found = ours._loglikelihood_tokens(requests, disable_tqdm=True)
    assert ours._unfit is None
    assert ours._probed
    assert compare(found, theirs._loglikelihood_tokens(requests, disable_tqdm=True)) <= 1e-4


def test_a_model_is_left_as_it_was(clinic: Path) -> None:
    model = make("llama", clinic)
    model.set_attn_implementation("eager")
    ours, theirs = pair(model, clinic)
    requests = mixed(40)
    found = ours._loglikelihood_tokens(requests, disable_tqdm=True)
    assert model.config._attn_implementation == "eager"
    assert compare(found, theirs._loglikelihood_tokens(requests, disable_tqdm=True)) <= 1e-4


def test_a_quantised_base(clinic: Path) -> None:
    from medbench.harness.models.load import load_base
    from medbench.harness.suite import ModelSpec

    model, _ = load_base(ModelSpec(pretrained="embedded:clinic", quantization="nf4"), "cpu")
    ours, theirs = pair(model, clinic)
    requests = mixed(60)
    found = ours._loglikelihood_tokens(requests, disable_tqdm=True)
    assert ours._unfit is None
    assert compare(found, theirs._loglikelihood_tokens(requests, disable_tqdm=True)) <= 1e-3
