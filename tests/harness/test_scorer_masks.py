"""The masks and the past of a row, for FlexAttention too, on a machine without a GPU."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from transformers import AutoModelForCausalLM
from transformers.integrations import flex_attention as integration

from medbench.harness.scorer.fit import Fit, probe
from medbench.harness.scorer.packing import BLOCK, PAST_STEP, Engine, _block_mask, _dense_mask
from medbench.harness.scorer.trie import Row, Trie


def branching(count: int, seed: int = 0) -> Trie:
    """Stems of very different lengths under one prefix, four short continuations each."""
    draw = random.Random(seed)

    def words(number: int) -> list[int]:
        return [draw.randrange(2, 500) for _ in range(number)]

    prefix = words(150)
    requests = []
    for _ in range(count):
        stem = prefix + words(draw.choice([3, 40, 300]))
        requests += [(stem + words(size), size) for size in (1, 2, 5, 9)]
    return Trie(requests)


def rows(trie: Trie, length: int) -> list[Row]:
    found = list(trie.rows(length))
    assert any(row.past > BLOCK for row in found)
    return found


@pytest.mark.parametrize("length", [200, 384, 1000])
def test_block_masks_allow_what_dense_masks_allow(length: int) -> None:
    for row in rows(branching(12), length):
        size = row.stop - row.start
        padded = -(-size // BLOCK) * BLOCK
        blocks = _block_mask(row, PAST_STEP, padded, "cpu")
        whole = np.zeros((padded, PAST_STEP + padded), bool)
        dense = _dense_mask(row, "cpu")[0, 0].numpy()
        whole[:size, : row.past] = dense[:, : row.past]
        whole[:size, PAST_STEP : PAST_STEP + size] = dense[:, row.past :]

        query, key = torch.meshgrid(
            torch.arange(padded), torch.arange(PAST_STEP + padded), indexing="ij"
        )
        allowed = blocks.mask_mod(0, 0, query, key).numpy()
        assert (allowed[:size] == whole[:size]).all()
        assert allowed[size:].any(1).all()  # a softmax over nothing would be no number

        tiles = whole.reshape(padded // BLOCK, BLOCK, -1, BLOCK)
        some, every = tiles.any((1, 3)), tiles.all((1, 3))
        full, mixed = (
            listed(blocks.full_kv_num_blocks, blocks.full_kv_indices),
            listed(blocks.kv_num_blocks, blocks.kv_indices),
        )
        assert not (full & mixed).any()
        assert not (some & ~(full | mixed)).any()
        assert not (full & ~every).any()


def listed(counts: Any, indices: Any) -> Any:
    """[query blocks, key blocks], true where the lists name the block."""
    found = np.zeros(indices.shape[2:], bool)
    for query, (count, keys) in enumerate(zip(counts[0, 0], indices[0, 0], strict=True)):
        found[query, keys[:count].numpy()] = True
    return found


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """FlexAttention as it is written, on this processor."""

    def plain(*states: Any, training: bool = False, **options: Any) -> Any:
        return flex_attention(*states, **options)

    monkeypatch.setattr(integration, "compile_friendly_flex_attention", plain)
    monkeypatch.setattr(Engine, "flex", True)


def test_rows_through_flex_attention(clinic: Path, request: pytest.FixtureRequest) -> None:
    model = AutoModelForCausalLM.from_pretrained(clinic).eval()
    trie = branching(6)
    expected, greedy, _ = Engine(model).answer(trie, 300)
    request.getfixturevalue("uncompiled")
    found, same, _ = Engine(model).answer(trie, 300)
    assert np.abs(found - expected).max() <= 1e-4
    assert (same == greedy).all()
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.usefixtures("uncompiled")
def test_parts_are_compiled_for_long_runs_and_given_back(
    clinic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda part, **_: compiled.append(type(part).__name__)
    )
    monkeypatch.setattr("medbench.harness.scorer.packing.COMPILE_FROM", 1)
    model = AutoModelForCausalLM.from_pretrained(clinic).eval()
    Engine(model).answer(branching(1), 300)
    assert set(compiled) == {"LlamaRMSNorm", "LlamaMLP"}
    assert all(part._compiled_call_impl is None for part in model.modules())


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_an_adapters_share_is_what_peft_makes_it(quantization: Any) -> None:
    from peft import LoraConfig, get_peft_model

    from medbench.harness.models.load import load_base
    from medbench.harness.scorer.speed import lean_lora
    from medbench.harness.suite import ModelSpec

    torch.manual_seed(0)
    base, _ = load_base(ModelSpec(pretrained="embedded:clinic", quantization=quantization), "cpu")
    targets = ["q_proj", "o_proj", "down_proj"]
    settings = {"target_modules": targets, "init_lora_weights": False, "task_type": "CAUSAL_LM"}
    model = get_peft_model(base, LoraConfig(r=4, lora_alpha=12, **settings), adapter_name="one")
    model.add_adapter("two", LoraConfig(r=2, use_rslora=True, **settings))
    model.add_adapter("dora", LoraConfig(r=2, use_dora=quantization == "none", **settings))
    model.eval()
    ids = torch.arange(2, 60)[None]
    for name in ("one", "two", "dora"):
        model.set_adapter(name)
        with torch.inference_mode():
            expected = model(ids).logits
            with lean_lora(model) as adapted:
                found = model(ids).logits
            assert adapted == (name != "dora" or quantization != "none")
            assert torch.allclose(found, expected, atol=2e-4)
            assert torch.equal(model(ids).logits, expected)
    with model.disable_adapter(), lean_lora(model) as adapted:
        assert not adapted


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-4), (torch.bfloat16, 1.0)])
def test_rows_on_a_gpu(clinic: Path, dtype: Any, allowed: float) -> None:
    model = AutoModelForCausalLM.from_pretrained(clinic, dtype=dtype).eval()
    trie = branching(6)
    expected, _, _ = Engine(model).answer(trie, 300)
    found, _, _ = Engine(model.to("cuda")).answer(trie, 1024)
    assert np.abs(found - expected).max() <= allowed


def answers_apart(clinic: Path, model: Any) -> None:
    """*model* takes packed rows, a dense mask among them, and answers as it does in one place."""
    trie = branching(6)
    expected, _, _ = Engine(AutoModelForCausalLM.from_pretrained(clinic).eval()).answer(trie, 300)
    engine = Engine(model)
    assert engine.split
    assert not engine.flex
    assert probe(engine).good
    found, _, budget = engine.answer(trie, 300)
    assert budget == 300
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_rows_of_a_model_that_is_said_to_lie_apart(clinic: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(clinic).eval()
    model.hf_device_map = {"model": 0, "lm_head": 1}
    answers_apart(clinic, model)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="this machine has no two GPUs")
def test_rows_of_a_model_that_lies_on_two_gpus(clinic: Path) -> None:
    places = dict.fromkeys(("model.embed_tokens", "model.rotary_emb", "lm_head"), 0)  # tied
    places |= {f"model.layers.{n}": n // 2 % 2 for n in range(5)} | {"model.norm": 1}
    model = AutoModelForCausalLM.from_pretrained(clinic, dtype=torch.float32, device_map=places)
    answers_apart(clinic, model.eval())


@pytest.mark.parametrize(
    ("error", "noise", "good"),
    [
        (0.03, 0.0, True),  # bfloat16
        (0.11, 0.04, True),  # bfloat16 under a large adapter
        (0.11, 0.0, False),  # exact with itself, and yet wrong
        (0.4, 0.3, True),  # int8
        (0.9, 0.3, False),  # however noisy, this is what ignoring the mask gives
    ],
)
def test_noise_of_its_own_is_no_misfit(error: float, noise: float, good: bool) -> None:
    assert Fit(error, noise).good is good


def test_a_probe_sees_the_noise_of_a_precision(clinic: Path) -> None:
    def fit(dtype: torch.dtype) -> Fit:
        model = AutoModelForCausalLM.from_pretrained(clinic, dtype=dtype)
        return probe(Engine(model.eval()))

    exact, rounded = fit(torch.float32), fit(torch.bfloat16)
    assert exact.error < 1e-4
    assert exact.noise < 1e-4
    assert 1e-3 < rounded.error < 4 * rounded.noise < 0.5
