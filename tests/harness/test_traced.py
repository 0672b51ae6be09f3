"""Exports by torch.onnx: tiny random models that the Model Builder does not know, beside torch."""

import json
import random
import shutil
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
)

from medbench.errors import InputError, StageError
from medbench.harness.export import (
    ExportInfo,
    build,
    checkpoint,
    export_onnx,
    nbits,
    process,
    tracer,
)
from medbench.harness.latency import roofline
from medbench.harness.ort import fidelity
from medbench.harness.ort.engine import Engine
from medbench.harness.ort.lm import OnnxLM
from medbench.harness.ort.runtime import OrtModel
from medbench.harness.ort.scoring import ScoringModel
from medbench.harness.scorer.lm import PackedLM
from medbench.harness.scorer.trie import Trie
from medbench.harness.suite import EMBEDDED

CLINIC = EMBEDDED["embedded:clinic"]
VOCAB = 1024
ENDS = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
# Logits far enough apart for greedy choices to be stable.
WIDE = {"vocab_size": VOCAB, "initializer_range": 0.2, **ENDS}


def gpt2(**changed: Any) -> torch.nn.Module:
    """As BioMedLM has it: Conv1D, learned positions, a tied head, attention scaled by layer."""
    scaled = {"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}
    return GPT2LMHeadModel(
        GPT2Config(n_positions=256, n_embd=64, n_layer=2, n_head=4, **WIDE, **scaled, **changed)
    )


def neox() -> torch.nn.Module:
    """As Pythia has it: rotary angles for a quarter of each head, a head of its own."""
    return GPTNeoXForCausalLM(
        GPTNeoXConfig(
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            **WIDE,
        )
    )


def save(folder: Path, model: torch.nn.Module) -> Path:
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(CLINIC / name, folder)
    return folder


def of(kind: str, **changed: Any) -> torch.nn.Module:
    """A tiny random model of any kind that transformers knows."""
    sizes = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **sizes | WIDE | changed))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(5)
    return {"gpt2": save(root / "gpt2", gpt2()), "neox": save(root / "neox", neox())}


Graphs = Callable[[str], Path]


@pytest.fixture(scope="module")
def exported(
    models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], ExportInfo]:
    """GPT-2 exported to a format, once, the whole way."""
    root = tmp_path_factory.mktemp("exports")
    return cache(lambda form: export_onnx(models["gpt2"], root / form, precision=form))


@pytest.fixture(scope="module")
def graphs(
    models: dict[str, Path],
    exported: Callable[[str], ExportInfo],
    tmp_path_factory: pytest.TempPathFactory,
) -> Graphs:
    """The fp32 graph of a model; GPT-NeoX is traced in this process, which is sooner done."""
    out = tmp_path_factory.mktemp("graphs") / "neox"

    def trace(kind: str) -> Path:
        if kind == "gpt2":
            return exported("fp32").path
        assert tracer.main(str(models[kind]), str(out), "fp32", "cpu", "false") == 0
        return out

    return cache(trace)


def prompt(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(3, 1000), k=length)


def padded(rows: list[list[int]]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [7] * (longest - len(row)) for row in rows])


@pytest.mark.parametrize("kind", ["gpt2", "neox"])
def test_logits_and_greedy_text_are_torchs(
    graphs: Graphs, models: dict[str, Path], kind: str
) -> None:
    found = fidelity.measure(models[kind], graphs(kind), [prompt(40, 1)], greedy_tokens=64)

    assert found.max_rel <= 1e-5
    assert (found.greedy_matched, found.greedy_total) == (64, 64)


def test_the_record_says_what_made_the_graph_and_how_its_cache_grows(exported: Any) -> None:
    info = exported("fp32")

    assert info.cache == "concatenated"
    assert info.builder.startswith("torch 2")
    assert "onnxscript" in info.builder
    assert info.max_positions == 256


def test_rows_of_unlike_length_are_as_good_as_alone(graphs: Graphs) -> None:
    folder = graphs("gpt2")
    rows = [prompt(length, seed=length) for length in (5, 12, 9)]
    more = torch.tensor([prompt(6, seed=row) for row in range(3)])
    model, alone = OrtModel(folder, max_len=32), OrtModel(folder, max_len=32)

    prefill = model.prefill(padded([*rows[:2], [*rows[2], 7, 7, 7, 7, 7]]), [5, 12, 9])
    steps = [model.step(more[:, [k]]).clone() for k in range(6)]

    assert model.lengths == (11, 18, 15)
    for place, row in enumerate(rows):
        alone.reset()
        torch.testing.assert_close(
            prefill[place, : len(row)], alone.prefill(padded([row]))[0], rtol=1e-4, atol=1e-4
        )
        for k, step in enumerate(steps):
            wanted = alone.step(more[place : place + 1, [k]])[0]
            torch.testing.assert_close(step[place], wanted, rtol=1e-4, atol=1e-4)

    model.rewind(4)  # rows that end together are moved back to where they begin
    ids = padded([prompt(1, seed) for seed in range(3)])
    step = model.step(ids)
    for place, row in enumerate(rows):
        alone.reset()
        wanted = alone.prefill(torch.tensor([row[:4] + ids[place].tolist()]))[0, -1:]
        torch.testing.assert_close(step[place], wanted, rtol=1e-4, atol=1e-4)


def test_what_several_texts_share_is_kept(graphs: Graphs) -> None:
    model = OrtModel(graphs("neox"), max_len=40)
    context, *others = (torch.tensor([prompt(9, seed=seed)]) for seed in range(4))
    wanted = []
    for other in others:
        model.reset()
        wanted.append(model.prefill(torch.cat([context, other], 1))[0, 9:])
    model.reset()
    model.prefill(context)
    for other, logits in zip(others, wanted, strict=True):
        torch.testing.assert_close(model.prefill(other)[0], logits, rtol=1e-4, atol=1e-4)
        model.rewind(9)
    model.prefill(others[0])
    model.prefill(others[1])
    model.rewind(9)  # not what the last tokens were appended to
    torch.testing.assert_close(model.prefill(others[2])[0], wanted[2], rtol=1e-4, atol=1e-4)


def test_log_likelihoods_are_torchs(graphs: Graphs, models: dict[str, Path]) -> None:
    stems = [prompt(length, length) for length in (7, 20, 33)]
    texts = [(stem + prompt(tail, tail), tail) for stem in stems for tail in (1, 1, 4, 6)]
    trie = Trie(texts)
    model = ScoringModel(graphs("gpt2"))

    sums, greedy, _ = Engine([model], "cpu").answer(trie, 64)

    reference = AutoModelForCausalLM.from_pretrained(models["gpt2"]).eval()
    for (tokens, asked), value, best in zip(texts, sums, greedy, strict=True):
        with torch.inference_mode():
            logits = reference(torch.tensor([tokens[:-1]])).logits[0, -asked:].log_softmax(-1)
        targets = torch.tensor(tokens[-asked:])
        assert value == pytest.approx(float(logits.gather(1, targets[:, None]).sum()), abs=1e-4)
        assert best == bool((logits.argmax(-1) == targets).all())


@pytest.mark.parametrize("kind", ["gpt2", "neox"])
def test_generated_text_of_a_batch_is_torchs(
    graphs: Graphs, models: dict[str, Path], kind: str
) -> None:
    torch_model = AutoModelForCausalLM.from_pretrained(models[kind]).eval()
    tokenizer = AutoTokenizer.from_pretrained(models[kind])
    reference = PackedLM(pretrained=torch_model, tokenizer=tokenizer)
    export = OnnxLM(graphs(kind), threads=1, batch_size=4)
    settings = {"until": ["\n\n"], "max_gen_toks": 16, "do_sample": False, "temperature": 0.0}
    texts = [tokenizer.decode(prompt(length, length)) for length in (3, 11, 30, 18, 6)]
    asked = [
        Instance("generate_until", {}, (text, settings), place, ("t", place, 1))
        for place, text in enumerate(texts)
    ]

    found = export.generate_until(asked, disable_tqdm=True)

    assert found == reference.generate_until(asked, disable_tqdm=True)
    assert len(set(found)) > 3


@pytest.mark.parametrize(
    ("form", "worst"), [("int8", 0.05), pytest.param("int4", 0.6, marks=pytest.mark.slow)]
)
def test_quantised_weights_are_the_builders_kind(
    exported: Any, graphs: Graphs, models: dict[str, Path], tmp_path: Path, form: str, worst: float
) -> None:
    if form == "int4":
        info = exported("int4")
        assert info.bytes < info.estimate["disk"]
        assert info.builder_bytes < info.estimate["memory"]
        folder = info.path
    else:
        folder = tmp_path / "draft" / "onnx"
        shutil.copytree(graphs("gpt2"), folder)
        assert nbits.main("", str(folder), form) == 0
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    blocks = [node for node in graph.node if node.op_type == "MatMulNBits"]
    assert len(blocks) == 2 * 4 + 1  # two layers, and the head, which is tied
    given = [
        {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute} for node in blocks
    ]
    bits = {"int8": 8, "int4": 4}[form]
    assert {(one["bits"], one["block_size"], one["accuracy_level"]) for one in given} == {
        (bits, 32, 4)
    }
    found = fidelity.measure(models["gpt2"], folder, [prompt(40, 1)], greedy_tokens=8)
    assert 1e-4 < found.max_rel < worst
    work = roofline.of_onnx(folder, "cpu")
    assert work.parameters == 2 * 12 * 64 * 64 + VOCAB * 64
    assert work.compute is None


def test_the_least_work_of_a_traced_graph_is_that_of_its_model(
    graphs: Graphs, models: dict[str, Path]
) -> None:
    for kind in ("gpt2", "neox"):
        found = roofline.of_onnx(graphs(kind), "cpu")
        model = AutoModelForCausalLM.from_pretrained(models[kind], dtype=torch.float32)
        expected = roofline.of_torch(model)
        assert found.parameters == expected.parameters
        assert found.attention == expected.attention
        assert found.kv_bytes == expected.kv_bytes
        # Biases, norms and masks come on top.
        assert expected.weight_bytes < found.weight_bytes < 1.05 * expected.weight_bytes


def test_same_content_is_traced_once(
    exported: Any, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    info = exported("fp32")
    monkeypatch.setattr(process, "run", lambda *_: pytest.fail("exported again"))

    beside = export_onnx(models["gpt2"], info.path.parent / "beside")

    assert (beside.reused, beside.key, beside.cache) == (True, info.key, "concatenated")
    monkeypatch.setattr(build, "_version", lambda names: f"{names[0]} of tomorrow")
    with pytest.raises(pytest.fail.Exception, match="exported again"):
        export_onnx(models["gpt2"], info.path)  # a newer builder may know it


def test_onnxruntime_genai_runs_the_folder(graphs: Graphs, models: dict[str, Path]) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    ids = prompt(6, 2)
    model = genai.Model(str(graphs("gpt2")))
    options = genai.GeneratorParams(model)
    options.set_search_options(max_length=30, do_sample=False)
    generator = genai.Generator(model, options)
    generator.append_tokens(ids)
    while not generator.is_done():
        generator.generate_next_token()

    reference = AutoModelForCausalLM.from_pretrained(models["gpt2"])
    wanted = reference.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, 6), max_length=30, do_sample=False
    )
    assert list(generator.get_sequence(0)) == wanted[0].tolist()


YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}

# As MedGemma 27B has it: one layer in six sees everything, its positions stretched.
GEMMA3: dict[str, Any] = {
    "num_hidden_layers": 6,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 16,
    "rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
    },
}


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("llama", {"rope_parameters": YARN}),
        pytest.param("mistral", {"sliding_window": 16}, marks=pytest.mark.slow),
        ("biogpt", {"num_key_value_heads": None}),
        pytest.param("gemma3_text", GEMMA3, marks=pytest.mark.slow),
    ],
)
def test_what_the_builder_gets_wrong_or_does_not_know_is_compared_with_torch(
    tmp_path: Path, kind: str, changed: dict[str, Any]
) -> None:
    torch.manual_seed(1)
    source = save(tmp_path / "model", of(kind, **changed))
    out = tmp_path / "draft" / "onnx"
    assert checkpoint.trace_lacks(checkpoint.read(source, trust_remote_code=False)) is None

    assert tracer.main(str(source), str(out), "fp32", "cpu", "false") == 0

    # Beyond the window, and beyond the length that YaRN extends.
    found = fidelity.measure(source, out, [prompt(90, 3)], greedy_tokens=8)
    assert found.max_rel < 1e-5


def test_sixteen_bits_for_cuda_keep_the_graphs_shape(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    out = tmp_path / "draft" / "onnx"

    assert tracer.main(str(models["gpt2"]), str(out), "fp16", "cuda", "false") == 0

    graph = onnx.load(out / "model.onnx", load_external_data=False).graph
    kinds = {one.name: one.type.tensor_type.elem_type for one in graph.input}
    assert kinds["past_key_values.0.key"] == onnx.TensorProto.FLOAT16
    assert {kinds[name] for name in ("input_ids", "attention_mask", "position_ids")} == {
        onnx.TensorProto.INT64
    }
    assert max(weight.data_type for weight in graph.initializer if len(weight.dims) > 1) == (
        onnx.TensorProto.FLOAT16
    )


def test_pairs_of_cuda_that_are_not_known_to_work_are_refused(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "require_device", lambda _: None)

    with pytest.raises(StageError, match=r"nor can torch\.onnx \(bf16/cuda is not known to work"):
        export_onnx(models["gpt2"], tmp_path / "onnx", precision="bf16", provider="cuda")
    with pytest.raises(InputError, match="one of fp32/cpu"):
        export_onnx(models["gpt2"], tmp_path / "onnx", precision="fp32", provider="cuda")


def test_a_model_that_neither_can_export_is_said_and_nothing_is_left(
    models: dict[str, Path], tmp_path: Path
) -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    model = save(tmp_path / "dynamic", of("llama", rope_parameters=dynamic))

    with pytest.raises(
        StageError,
        match=r"dynamic: .*Builder .* \(it would drop RoPE scaling 'dynamic'\), nor can torch.onnx "
        r"\(RoPE scaling 'dynamic' depends on the length of the text",
    ):
        export_onnx(model, tmp_path / "onnx")

    state = save(tmp_path / "state", of("mamba"))
    with pytest.raises(StageError, match=r"torch.onnx \(it keeps no keys and values\)"):
        export_onnx(state, tmp_path / "onnx")
    assert {path.name for path in tmp_path.iterdir()} == {"dynamic", "state"}


def test_a_graph_that_is_not_the_model_is_refused(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """A trace that took the traced call's batch for all there is."""
    real = tracer.Flat.forward

    def forward(
        self: Any, ids: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, past: Any
    ) -> Any:
        return real(self, ids, mask, positions * 0, past)

    monkeypatch.setattr(tracer.Flat, "forward", forward)
    code = tracer.main(str(models["gpt2"]), str(tmp_path / "d" / "onnx"), "fp32", "cpu", "false")
    assert code == 3
    said = capfd.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("its graph's logits differ from torch's by ")


@pytest.mark.slow
def test_a_full_disk_stops_the_trace_and_says_so(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No file may grow beyond 100 kB: writing the graph fails as on a full disk.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/bash\nulimit -f 100; exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))

    with pytest.raises(StageError, match=r"the disk is full, so torch\.onnx stopped"):
        process.run(
            "torch.onnx", "tracer", models["gpt2"], tmp_path / "d" / "o", "fp32", "cpu", "false"
        )


def test_the_longest_text_is_read_from_any_config() -> None:
    assert checkpoint.context(AutoConfig.for_model("gpt2", n_positions=512)) == 512
    assert checkpoint.context(AutoConfig.for_model("mpt", max_seq_len=640)) == 640
    assert checkpoint.context(AutoConfig.for_model("bloom")) == checkpoint.MAX_POSITIONS
    assert checkpoint.context(AutoConfig.for_model("llama", max_position_embeddings=1 << 17)) == (
        checkpoint.MAX_POSITIONS
    )


@pytest.mark.gpu
def test_traced_graph_on_cuda(models: dict[str, Path], tmp_path: Path) -> None:
    info = export_onnx(models["gpt2"], tmp_path / "onnx", precision="fp16", provider="cuda")

    found = fidelity.measure(models["gpt2"], info.path, [prompt(40, 1)], device="cuda")

    assert found.max_rel < 0.02
    with pytest.raises(InputError, match=r"cuda_graph: .* cannot be captured"):
        OrtModel(info.path, device="cuda", cuda_graph=True)


@pytest.mark.slow
def test_a_run_with_a_model_that_the_builder_does_not_know(
    models: dict[str, Path], short_recipe: Path, tmp_path: Path
) -> None:
    """Tuned, scored, merged, exported, scored on the export, timed."""
    from medbench.harness.folder.store import RunFolder
    from medbench.harness.planning.plan import make_plan
    from medbench.harness.progress import silent
    from medbench.harness.run import execute, open_folder
    from medbench.harness.suite import load_suite

    text = short_recipe.read_text("utf-8")
    before, _, after = text.partition("  target_modules:")
    text = before + "  target_modules: [c_attn, c_proj, c_fc]\n" + after.partition("\n")[2]
    short_recipe.write_text(text.replace("quantization: nf4", "quantization: none"))
    suite = load_suite(
        "quickstart",
        [
            f"models.base.pretrained={models['gpt2']}",
            f"models.tuned.adapter.recipe={short_recipe}",
            "tasks=[clinic_open, clinic_text]",
            "limit=5",
            "latency.output_tokens=4",
            "latency.warmup=1",
            "latency.iterations=2",
        ],
    )
    plan = make_plan(
        suite, models="base,tuned,tuned@onnx-fp32", tasks=None, device="cpu", command="test"
    )

    class Watcher:
        def begin(self, stage: str) -> Any:
            return silent

        def end(self, stage: str, seconds: float | None, detail: dict[str, Any]) -> None:
            pass

    execute(plan, open_folder(tmp_path / "R", plan, fresh=False), Watcher())

    run = RunFolder.open(tmp_path / "R")
    samples, results = run.samples(), run.results()
    sides = [samples[samples["model"] == name] for name in ("tuned", "tuned@onnx-fp32")]
    for column in ("prompt_hash", "output", "prediction"):
        assert sides[0][column].tolist() == sides[1][column].tolist()
    for one, other in zip(*(side["option_scores"] for side in sides), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    assert {(row["engine"], row["format"]) for row in results["latency"]} == {
        ("onnxruntime", "fp32"), ("torch", "fp32")
    }  # fmt: skip
    record = json.loads((tmp_path / "R/exports/tuned-fp32/export.json").read_text())
    assert record["cache"] == "concatenated"
