"""Exporting: the real Model Builder on a tiny random Llama, run by ONNX Runtime beside torch."""

import json
import random
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from medbench.errors import InputError, StageError
from medbench.harness.export import ExportInfo, check_parity, export_onnx
from medbench.harness.ort import OrtModel

VOCAB = 96
# As in Llama 3: the context is longer than the table of an export, and the angles are rescaled.
ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
needs_no_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")


def save_tokenizer(folder: Path) -> None:
    words = {"</s>": 0, **{f"w{i}": i for i in range(1, VOCAB)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="</s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>").save_pretrained(folder)


def save_llama(folder: Path, rope: dict[str, object]) -> Path:
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=131072,
        initializer_range=0.2,  # logits far enough apart for greedy choices to be stable
        bos_token_id=0,
        eos_token_id=0,
        rope_parameters=rope,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_llama(tmp_path_factory.mktemp("export") / "model", ROPE)


@pytest.fixture(scope="module")
def export(checkpoint: Path) -> ExportInfo:
    return export_onnx(checkpoint, checkpoint.parent / "onnx" / "fp32")


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(checkpoint)


def prompt(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(1, VOCAB), k=length)


def test_export_says_what_it_made(export: ExportInfo) -> None:
    files = {path.name for path in export.path.iterdir()}
    assert {"model.onnx", "genai_config.json", "tokenizer_config.json"} <= files
    assert export.bytes == sum(path.stat().st_size for path in export.path.iterdir())
    assert (export.precision, export.provider) == ("fp32", "cpu")
    assert export.seconds > 0
    assert export.builder.startswith("onnxruntime-genai")
    assert [path.name for path in export.path.parent.iterdir()] == ["fp32"]  # no draft left


def test_table_of_rotary_angles_is_capped(export: ExportInfo) -> None:
    assert export.max_positions == 8192
    # Uncapped, it alone would take 131072 × 16 × 4 bytes = 8 MB.
    assert export.bytes < 2_000_000


def test_parity_with_torch(checkpoint: Path, export: ExportInfo) -> None:
    # Prompts shorter and longer than the length that the rotary angles were rescaled from.
    prompts = [prompt(length, seed=length) for length in (1, 20, 200)]

    parity = check_parity(checkpoint, export.path, prompts)

    assert parity.prompts == 3
    assert parity.greedy_matched == parity.greedy_total == 96
    assert parity.max_rel < 1e-5
    assert 0 < parity.max_abs < 1e-3


def test_parity_counts_greedy_tokens_before_the_first_difference(
    checkpoint: Path, export: ExportInfo, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    torch.manual_seed(12)
    model = AutoModelForCausalLM.from_pretrained(other)
    LlamaForCausalLM(model.config).save_pretrained(other)

    parity = check_parity(other, export.path, [prompt(12, seed=1)], greedy_tokens=8)

    assert parity.max_rel > 0.1
    assert parity.greedy_matched < parity.greedy_total == 8


def test_parity_needs_prompts(checkpoint: Path, export: ExportInfo) -> None:
    with pytest.raises(InputError, match="no prompts, or an empty one"):
        check_parity(checkpoint, export.path, [[1], []])


@pytest.mark.parametrize("batch", [1, 3])
def test_runtime_grows_its_cache_in_place(
    export: ExportInfo, reference: torch.nn.Module, batch: int
) -> None:
    model = OrtModel(export.path, max_len=24)
    ids = torch.tensor([prompt(20, seed=row) for row in range(batch)])
    with torch.inference_mode():
        expected = reference(ids).logits

    for _ in range(2):  # the second time over the buffers that the first one left full
        model.reset()
        parts = [model.prefill(ids[:, :16])]
        parts += [model.step(ids[:, k : k + 1]).clone() for k in range(16, 20)]
        torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-4, atol=1e-4)
    assert model.length == 20
    assert model.provider == "CPUExecutionProvider"


def test_runtime_appends_to_a_filled_cache_at_batch_one(
    export: ExportInfo, reference: torch.nn.Module
) -> None:
    model = OrtModel(export.path, max_len=16)
    ids = torch.tensor([prompt(16, seed=4)])

    actual = torch.cat([model.prefill(ids[:, :7]), model.prefill(ids[:, 7:])], 1)

    with torch.inference_mode():
        torch.testing.assert_close(actual, reference(ids).logits, rtol=1e-4, atol=1e-4)


def test_runtime_refuses_what_the_graph_would_get_wrong(export: ExportInfo) -> None:
    model = OrtModel(export.path, max_len=8)
    ids = torch.ones((2, 4), dtype=torch.int64)
    model.prefill(ids)
    with pytest.raises(ValueError, match="batch 1 only"):
        model.prefill(ids)
    with pytest.raises(ValueError, match=r"2 rows, got 1; call reset"):
        model.step(ids[:1, :1])
    model.reset()
    with pytest.raises(ValueError, match=r"0 \+ 9 tokens exceed the cache of 8"):
        model.prefill(torch.ones((2, 9), dtype=torch.int64))


def test_runtime_refuses_more_than_was_exported(export: ExportInfo) -> None:
    with pytest.raises(InputError, match=r"holds 2 to 8192; shorten prompt_tokens"):
        OrtModel(export.path, max_len=8193)


def test_runtime_needs_an_export(checkpoint: Path) -> None:
    with pytest.raises(InputError, match=r"genai_config\.json: missing.*export the model again"):
        OrtModel(checkpoint)


def test_runtime_names_a_broken_graph(export: ExportInfo, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(export.path, broken)
    (broken / "model.onnx").write_bytes(b"not a graph")

    with pytest.raises(StageError, match=r"broken/model\.onnx: ONNX Runtime .* cannot load it"):
        OrtModel(broken)


@pytest.mark.parametrize(
    ("precision", "provider"), [("fp32", "cuda"), ("fp16", "cpu"), ("bf16", "cpu"), ("fp32", "npu")]
)
def test_pairs_that_do_not_work_are_refused(
    checkpoint: Path, tmp_path: Path, precision: str, provider: str
) -> None:
    with pytest.raises(InputError, match=r"use one of cpu/fp32|use one of fp32/cpu"):
        export_onnx(checkpoint, tmp_path / "onnx", precision=precision, provider=provider)
    assert not list(tmp_path.iterdir())


@needs_no_cuda
def test_cuda_without_cuda_is_an_error_and_no_cpu_run(
    checkpoint: Path, export: ExportInfo, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"'cuda': .*(driver|torch|onnxruntime)"):
        export_onnx(checkpoint, tmp_path / "onnx", precision="fp16", provider="cuda")
    with pytest.raises(InputError, match="'cuda'"):
        OrtModel(export.path, device="cuda")


def test_unknown_device_is_refused(export: ExportInfo) -> None:
    with pytest.raises(InputError, match="'tpu': unknown; use one of cpu, cuda"):
        OrtModel(export.path, device="tpu")


def test_checkpoint_without_tokenizer_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(checkpoint / "config.json", bare)

    with pytest.raises(InputError, match=r"tokenizer_config\.json: missing"):
        export_onnx(bare, tmp_path / "onnx")


def test_unknown_architecture_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    save_tokenizer(tmp_path / "gpt2")

    with pytest.raises(StageError, match=r"gpt2: .* does not support this architecture"):
        export_onnx(tmp_path / "gpt2", tmp_path / "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["gpt2"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (
            {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
            "would drop RoPE scaling 'linear'",
        ),
        ({"intermediate_size": VOCAB}, "intermediate_size equals vocab_size"),
    ],
)
def test_models_that_the_builder_gets_wrong_are_refused(
    checkpoint: Path, tmp_path: Path, changed: dict[str, object], reason: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changed))

    with pytest.raises(StageError, match=reason):
        export_onnx(model, tmp_path / "onnx")


def test_failing_builder_shows_the_end_of_its_output(checkpoint: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in checkpoint.glob("*.json"):
        shutil.copy(path, empty)

    with pytest.raises(StageError, match=r"(?s)Model Builder failed \(exit code 1\).*safetensors"):
        export_onnx(empty, tmp_path / "onnx")


def test_nothing_is_printed(
    checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    info = export_onnx(checkpoint, tmp_path / "onnx", precision="int4")
    check_parity(checkpoint, info.path, [[1, 2]], greedy_tokens=2)

    assert capfd.readouterr() == ("", "")
