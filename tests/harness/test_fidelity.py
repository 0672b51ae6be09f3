"""How far an export is from its torch model, on the embedded (trained) checkpoint."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from medbench.errors import InputError
from medbench.harness.ort import fidelity
from medbench.harness.ort.fidelity import measure
from medbench.harness.ort.runtime import OrtModel
from medbench.tasks.clinic.rows import choice_docs

Exports = Callable[[str], Path]


def prompts(clinic: Path, count: int = 4) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(clinic)
    rows = choice_docs("test")[:count]
    return [tokenizer(f"Question: {row['question']}\nAnswer:")["input_ids"] for row in rows]


def test_fp32_is_the_torch_model(clinic: Path, clinic_onnx: Exports) -> None:
    asked = prompts(clinic)
    found = measure(clinic, clinic_onnx("fp32"), asked)
    assert found.prompts == 4
    assert found.tokens == sum(map(len, asked)) + 4 * 63
    assert found.greedy_matched == found.greedy_total == 256
    assert found.same_top == 1
    assert 0 < found.max_rel < 1e-5
    assert 0 <= found.kl_mean <= found.kl_p95 <= found.kl_max < 1e-8


def test_fewer_bits_are_further_away(clinic: Path, clinic_onnx: Exports) -> None:
    asked = prompts(clinic)
    fp32, int8, int4 = (measure(clinic, clinic_onnx(f), asked) for f in ("fp32", "int8", "int4"))
    assert fp32.kl_mean < 1e-8 < 1e-4 < int8.kl_mean < int4.kl_mean
    assert fp32.max_rel < int8.max_rel < int4.max_rel
    assert 1 == fp32.same_top > int8.same_top > int4.same_top
    assert 256 == fp32.greedy_matched > int8.greedy_matched > int4.greedy_matched > 0


def test_divergence_is_that_of_the_definition(
    clinic: Path, clinic_onnx: Exports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fidelity, "_CHUNK", 5)
    [prompt] = prompts(clinic, 1)
    found = measure(clinic, clinic_onnx("int8"), [prompt], greedy_tokens=1)

    model = AutoModelForCausalLM.from_pretrained(clinic, dtype=torch.float32).eval()
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        expected = torch.softmax(model(ids).logits[0].double(), -1).numpy()
    export = OrtModel(clinic_onnx("int8"))
    actual = torch.softmax(export.prefill(ids)[0].double(), -1).numpy()
    nats = (expected * np.log(expected / actual)).sum(-1)
    assert found.tokens == len(prompt)
    np.testing.assert_allclose(
        [found.kl_mean, found.kl_p95, found.kl_max],
        [nats.mean(), np.percentile(nats, 95), nats.max()],
        rtol=1e-3,
    )


def test_prompts_are_needed(clinic: Path, clinic_onnx: Exports) -> None:
    for wrong in ([], [[1], []]):
        with pytest.raises(InputError, match="no prompts, or an empty one"):
            measure(clinic, clinic_onnx("fp32"), wrong)


def test_a_prompt_longer_than_the_export_is_refused(clinic: Path, clinic_onnx: Exports) -> None:
    with pytest.raises(InputError, match="holds 2 to 2048"):
        measure(clinic, clinic_onnx("fp32"), [[5] * 2000])
