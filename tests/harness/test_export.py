"""Exporting: the real Model Builder on a tiny random Llama, run by ONNX Runtime beside torch."""

import json
import math
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from medbench.errors import InputError, StageError
from medbench.harness.export import ExportInfo, artifact, build, estimate, export_onnx, process
from medbench.harness.export.checkpoint import builder_lacks
from medbench.harness.ort.runtime import OrtModel

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


def run_instead(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Let the builder's process be a shell script; its arguments are python's."""
    python = folder / "python"
    python.write_text(f"#!/bin/bash\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


def test_export_says_what_it_made(export: ExportInfo) -> None:
    files = {path.name for path in export.path.iterdir()}
    assert {"model.onnx", "genai_config.json", "tokenizer_config.json"} <= files
    record = export.path / "export.json"
    graph = sum(path.stat().st_size for path in export.path.iterdir() if path != record)
    assert export.bytes == graph
    assert artifact.read(export.path) == export
    assert (export.precision, export.provider) == ("fp32", "cpu")
    assert export.seconds > 0
    assert export.builder.startswith("onnxruntime-genai")
    assert [path.name for path in export.path.parent.iterdir()] == ["fp32"]  # no draft left


def test_table_of_rotary_angles_is_capped(export: ExportInfo) -> None:
    assert export.max_positions == 8192
    # Uncapped, it alone would take 131072 × 16 × 4 bytes = 8 MB.
    assert export.bytes < 2_000_000


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


@pytest.mark.parametrize(
    ("kind", "changed", "reason"),
    [
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0}}, "RoPE scaling 'lin"),
        ("llama", {"intermediate_size": VOCAB}, "intermediate_size equals vocab_size"),
        ("mistral", {"sliding_window": 32}, "the sliding window of 32 tokens"),
        ("qwen2", {"sliding_window": 32, "use_sliding_window": False}, None),
        ("mistral", {"sliding_window": 1 << 17}, None),
        ("llama", {"rope_parameters": ROPE}, None),
        ("gemma3_text", {}, "one for each kind of them"),
        ("gemma4_text", {}, None),
    ],
)
def test_the_builder_is_not_given_what_it_gets_wrong(
    kind: str, changed: dict[str, object], reason: str | None
) -> None:
    sizes = {"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 128}
    config = AutoConfig.for_model(kind, **sizes | {"max_position_embeddings": 4096} | changed)

    found = builder_lacks(config)

    assert found is None if reason is None else reason in str(found)


def test_checkpoint_without_weights_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for path in checkpoint.glob("*.json"):
        shutil.copy(path, empty)

    with pytest.raises(InputError, match=r"no \*\.safetensors there"):
        export_onnx(empty, tmp_path / "onnx")


def test_failing_builder_shows_the_end_of_its_output(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_instead(monkeypatch, tmp_path, "echo no such operator >&2; exit 1")

    with pytest.raises(StageError, match=r"(?s)Model Builder failed \(exit code 1\).*no such oper"):
        export_onnx(checkpoint, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_killed_builder_leaves_nothing_and_says_so(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_instead(monkeypatch, tmp_path, 'mkdir -p "$4"; echo half > "$4/model.onnx"; kill -9 $$')

    with pytest.raises(StageError, match=r"killed by SIGKILL \(most likely .* memory\)"):
        export_onnx(checkpoint, tmp_path / "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["python"]


def test_full_disk_stops_the_builder_and_says_so(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No file may grow beyond 100 kB: the real builder's write fails as on a full disk.
    run_instead(monkeypatch, tmp_path, f'ulimit -f 100; exec {sys.executable} "$@"')

    with pytest.raises(StageError, match="the disk is full, so the ONNX Model Builder stopped"):
        export_onnx(checkpoint, tmp_path / "onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["python"]


def test_too_little_disk_or_memory_is_known_before(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_instead(monkeypatch, tmp_path, "exit 7")  # the builder must not be reached
    free = SimpleNamespace(free=10**6, available=10**6)
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: free)
        with pytest.raises(StageError, match=r"needs \d+ MB of disk and 1 MB are free"):
            export_onnx(checkpoint, tmp_path / "onnx")
    with monkeypatch.context() as patch:
        patch.setattr("psutil.virtual_memory", lambda: free)
        with pytest.raises(StageError, match=r"needs about \d{3} MB of memory and 1 MB are avail"):
            export_onnx(checkpoint, tmp_path / "onnx")


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantised_exports_run_and_stay_within_the_estimate(
    checkpoint: Path, tmp_path: Path, precision: str, capfd: pytest.CaptureFixture[str]
) -> None:
    info = export_onnx(checkpoint, tmp_path / "onnx", precision=precision)
    OrtModel(info.path, max_len=4).prefill(torch.tensor([[1, 2]]))

    assert capfd.readouterr() == ("", "")
    assert info.bytes < info.estimate["disk"]
    assert info.builder_bytes is not None
    assert info.builder_bytes < info.estimate["memory"]


def test_estimate_of_a_checkpoint_by_hand(checkpoint: Path) -> None:
    found = estimate.shapes(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert sum(math.prod(shape) for shape in found.values()) == model.num_parameters()

    fp32, int4 = (estimate.estimate(checkpoint, kind, "cpu") for kind in ("fp32", "int4"))

    assert fp32.disk == 4 * model.num_parameters() + 20e6
    embedding = VOCAB * 64
    matrices = model.num_parameters() - embedding
    assert int4.disk == pytest.approx(matrices * (0.5 + 5 / 32) + 4 * embedding + 20e6)
    traced = estimate.estimate(checkpoint, "int4", "cpu", traced=True)
    assert traced.disk == fp32.disk, "what is traced first, and then replaced"


def test_damaged_weights_are_named(checkpoint: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(checkpoint, model)
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])

    with pytest.raises(InputError, match=r"model\.safetensors: cut off or damaged"):
        export_onnx(model, tmp_path / "onnx")


def test_same_content_is_exported_once(
    export: ExportInfo, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_instead(monkeypatch, tmp_path, "exit 7")
    copy = tmp_path / "renamed"
    shutil.copytree(checkpoint, copy)

    again = export_onnx(checkpoint, export.path)
    beside = export_onnx(copy, export.path.parent / "beside")

    assert again.reused
    assert again.path == export.path
    assert beside.reused
    assert beside.key == export.key
    assert (beside.path / "model.onnx").samefile(export.path / "model.onnx")
    shutil.rmtree(beside.path)
    assert artifact.read(export.path) == export


def test_other_content_has_another_key(checkpoint: Path, tmp_path: Path) -> None:
    recipe = {"precision": "fp32"}
    before = artifact.key_of(checkpoint, recipe)
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    assert artifact.key_of(other, recipe) == before
    assert artifact.key_of(checkpoint, {"precision": "int4"}) != before
    (other / "medbench-merge.json").write_text("{}")  # says where it comes from, not what it is
    assert artifact.key_of(other, recipe) == before
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-5}))
    assert artifact.key_of(other, recipe) != before


@pytest.mark.parametrize("damage", ["cut", "lost", "unsealed", "foreign"])
def test_what_is_not_whole_is_no_export(export: ExportInfo, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "exports" / "copy"
    shutil.copytree(export.path, folder)
    assert artifact.find(tmp_path / "exports", export.key)
    graph = folder / "model.onnx.data"
    if damage == "cut":
        graph.write_bytes(graph.read_bytes()[:-1])
    elif damage == "lost":
        graph.unlink()
    elif damage == "unsealed":
        (folder / "export.json").unlink()
    else:
        (folder / "export.json").write_text('["not", "ours"]')

    assert artifact.read(folder) is None
    assert artifact.find(tmp_path / "exports", export.key) is None


def test_draft_of_a_killed_run_is_no_export(export: ExportInfo, tmp_path: Path) -> None:
    # What SIGKILL leaves of atomic_path: a hidden holder with the draft in it, sealed or not.
    shutil.copytree(export.path, tmp_path / ".tuned-fp32.abcd1234" / "tuned-fp32")
    assert artifact.find(tmp_path, export.key) is None


def test_graph_of_a_pair_that_does_not_work_is_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # For fp16/cpu the builder exits with success and leaves a graph whose second step fails.
    monkeypatch.setitem(build.PAIRS, "cpu", ("fp16",))
    monkeypatch.setitem(estimate._MEMORY, ("fp16", "cpu"), 4.0)

    with pytest.raises(StageError, match=r"fails in its first steps.*Shape mismatch"):
        export_onnx(checkpoint, tmp_path / "onnx", precision="fp16")
    assert not list(tmp_path.iterdir())


def test_graph_that_fails_in_its_steps_is_refused(
    export: ExportInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(self: OrtModel, ids: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("no kernel\nat all")

    monkeypatch.setattr(OrtModel, "step", step)
    with pytest.raises(StageError, match=r"fails in its first steps.*said: no kernel$"):
        build._try(export.path, "cpu")
    monkeypatch.setattr(OrtModel, "step", lambda self, ids: torch.tensor([torch.nan]))
    with pytest.raises(StageError, match="logits are not finite"):
        build._try(export.path, "cpu")


def test_code_of_a_checkpoint_runs_only_when_trusted(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    custom = tmp_path / "custom"
    shutil.copytree(checkpoint, custom)
    config = json.loads((custom / "config.json").read_text())
    code = {"auto_map": {"AutoConfig": "code.Config"}, "model_type": "custom"}
    (custom / "config.json").write_text(json.dumps(config | code))
    (custom / "code.py").write_text(
        "from transformers import LlamaConfig\n\n\n"
        "class Config(LlamaConfig):\n    model_type = 'custom'\n"
    )
    with pytest.raises(InputError, match=r"config\.json: cannot be read .*trust_remote_code"):
        export_onnx(custom, tmp_path / "onnx")

    given = []

    def builder(*arguments: object) -> None:
        given.append(arguments)
        raise StageError("stop")

    monkeypatch.setattr(process, "run", builder)
    with pytest.raises(StageError, match="stop"):
        export_onnx(custom, tmp_path / "onnx", trust_remote_code=True)
    assert given[0][1] == "builder"
    assert given[0][-3:] == ("fp32", "cpu", "true")
