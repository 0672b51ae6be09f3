"""The masks and the past of a row, for FlexAttention too, on a machine without a GPU."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from medbench.harness.packing import BLOCK, PAST_STEP, Engine, _block_mask, _dense_mask
from medbench.harness.trie import Row, Trie


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


def test_rows_through_flex_attention(clinic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch._dynamo.config, "disable", True)  # runs as it is, not compiled
    model = AutoModelForCausalLM.from_pretrained(clinic).eval()
    trie = branching(6)
    expected, greedy, _ = Engine(model).answer(trie, 300)
    monkeypatch.setattr(Engine, "flex", True)
    found, same, _ = Engine(model).answer(trie, 300)
    assert np.abs(found - expected).max() <= 1e-4
    assert (same == greedy).all()
    assert model.config._attn_implementation == "sdpa"


def test_parts_are_compiled_for_long_runs_and_given_back(
    clinic: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(torch._dynamo.config, "disable", True)
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda part, **_: compiled.append(type(part).__name__)
    )
    monkeypatch.setattr("medbench.harness.packing.COMPILE_FROM", 1)
    monkeypatch.setattr(Engine, "flex", True)
    model = AutoModelForCausalLM.from_pretrained(clinic).eval()
    Engine(model).answer(branching(1), 300)
    assert set(compiled) == {"LlamaRMSNorm", "LlamaMLP"}
    assert all(part._compiled_call_impl is None for part in model.modules())


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-4), (torch.bfloat16, 0.1)])
def test_rows_on_a_gpu(clinic: Path, dtype: Any, allowed: float) -> None:
    model = AutoModelForCausalLM.from_pretrained(clinic, dtype=dtype).eval()
    trie = branching(6)
    expected, _, _ = Engine(model).answer(trie, 300)
    found, _, _ = Engine(model.to("cuda")).answer(trie, 1024)
    assert np.abs(found - expected).max() <= allowed * (1 if dtype == torch.float32 else 10)
