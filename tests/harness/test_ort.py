"""Running an export: the embedded model by real ONNX Runtime, beside torch."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from medbench.errors import InputError, StageError
from medbench.harness.export import export_onnx
from medbench.harness.latency.engines import greedy
from medbench.harness.ort import runtime
from medbench.harness.ort import session as ort_session
from medbench.harness.ort.capture import Graphs
from medbench.harness.ort.runtime import OrtModel
from medbench.harness.suite import EMBEDDED
from medbench.tasks.clinic.rows import choice_docs

CHECKPOINT = EMBEDDED["embedded:clinic"]
TOKENIZER = AutoTokenizer.from_pretrained(CHECKPOINT)
CUDA = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(CHECKPOINT, tmp_path_factory.mktemp("ort") / "fp32").path


@pytest.fixture(scope="module")
def reference() -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32)


def prompt(length: int, seed: int) -> list[int]:
    return random.Random(seed).choices(range(3, 1000), k=length)


def padded(rows: list[list[int]]) -> torch.Tensor:
    """Rows filled up on the right, with an id that means something."""
    longest = max(map(len, rows))
    return torch.tensor([row + [7] * (longest - len(row)) for row in rows])


@pytest.mark.parametrize("batch", [1, 3])
def test_cache_grows_in_place(export: Path, reference: torch.nn.Module, batch: int) -> None:
    model = OrtModel(export, max_len=24)
    ids = torch.tensor([prompt(20, seed=row) for row in range(batch)])
    with torch.inference_mode():
        expected = reference(ids).logits

    for _ in range(2):  # the second time over the buffers that the first one left full
        model.reset()
        parts = [model.prefill(ids[:, :16])]
        parts += [model.step(ids[:, k : k + 1]).clone() for k in range(16, 20)]
        torch.testing.assert_close(torch.cat(parts, 1), expected, rtol=1e-4, atol=1e-4)
    assert model.length == 20
    assert model.lengths == (20,) * batch
    assert model.provider == "CPUExecutionProvider"


def test_rows_of_unlike_length_are_as_good_as_alone(export: Path) -> None:
    rows = [prompt(length, seed=length) for length in (5, 12, 9)]
    more = torch.tensor([prompt(6, seed=row) for row in range(3)])
    model = OrtModel(export, max_len=32)

    prefill = model.prefill(padded(rows), [5, 12, 9])
    steps = [model.step(more[:, k : k + 1]).clone() for k in range(6)]

    assert model.lengths == (11, 18, 15)
    for place, row in enumerate(rows):
        alone = OrtModel(export, max_len=32)
        torch.testing.assert_close(prefill[place, : len(row)], alone.prefill(padded([row]))[0])
        for k, step in enumerate(steps):
            torch.testing.assert_close(step[place], alone.step(more[place : place + 1, [k]])[0])


def test_several_tokens_are_appended_at_batch_one(export: Path, reference: torch.nn.Module) -> None:
    model = OrtModel(export, max_len=16)
    ids = torch.tensor([prompt(16, seed=4)])

    actual = torch.cat([model.prefill(ids[:, :7]), model.prefill(ids[:, 7:])], 1)

    with torch.inference_mode():
        torch.testing.assert_close(actual, reference(ids).logits, rtol=1e-4, atol=1e-4)


def test_continuations_share_what_was_rewound_to(export: Path) -> None:
    model = OrtModel(export, max_len=32)
    context, one, other = (torch.tensor([prompt(9, seed=seed)]) for seed in range(3))
    model.prefill(context)
    before = model.prefill(one)
    model.rewind(9)
    model.prefill(other)
    model.rewind(9)

    torch.testing.assert_close(model.prefill(one), before, rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"cannot rewind to 19: the rows hold \(18,\)"):
        model.rewind(19)
    model.rewind(0)
    assert model.lengths == ()


def test_what_the_graph_would_get_wrong_is_refused(export: Path) -> None:
    model = OrtModel(export, max_len=8)
    ids = torch.ones((2, 4), dtype=torch.int64)
    model.prefill(ids)
    with pytest.raises(ValueError, match="batch 1 only"):
        model.prefill(ids)
    with pytest.raises(ValueError, match=r"2 rows, got 1; call reset"):
        model.step(ids[:1, :1])
    model.reset()
    with pytest.raises(ValueError, match=r"0 \+ 9 tokens exceed the cache of 8"):
        model.prefill(torch.ones((2, 9), dtype=torch.int64))
    for lengths in ([4], [0, 4], [4, 5]):
        with pytest.raises(ValueError, match="expected 2 numbers from 1 to 4"):
            model.prefill(ids, lengths)


def test_more_than_was_exported_is_refused(export: Path) -> None:
    with pytest.raises(InputError, match=r"holds 2 to 2048; shorten prompt_tokens"):
        OrtModel(export, max_len=2049)


def test_cache_beyond_memory_is_refused_before_it_is_made(
    export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = OrtModel(
        export
    )  # 2048 positions of 5 layers, 4 heads of 32 in fp32, twice: 10.5 MB a row
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=15_000_000))

    model.prefill(torch.ones((1, 4), dtype=torch.int64))
    model.reset()
    with pytest.raises(StageError, match=r"2 rows and 2048 tokens takes 0\.0 GB .* lower batch"):
        model.prefill(torch.ones((2, 4), dtype=torch.int64))


def test_an_export_is_needed() -> None:
    with pytest.raises(InputError, match=r"genai_config\.json: missing.*export the model again"):
        OrtModel(CHECKPOINT)


def test_a_broken_graph_is_named(export: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(export, broken)
    (broken / "model.onnx").write_bytes(b"not a graph")

    with pytest.raises(StageError, match=r"broken/model\.onnx: ONNX Runtime .* cannot load it"):
        OrtModel(broken)


# CUDA graphs. No GPU is needed for what is bound and asked for; only the replay itself is CUDA's.


def test_cuda_graph_needs_cuda(export: Path) -> None:
    with pytest.raises(InputError, match="cuda_graph: needs device cuda, got cpu"):
        OrtModel(export, cuda_graph=True)


@pytest.mark.parametrize("lengths", [[4, 6], [6, 6]])
def test_a_captured_step_has_fixed_shapes_and_addresses(
    export: Path, monkeypatch: pytest.MonkeyPatch, lengths: list[int]
) -> None:
    ids = padded([prompt(length, seed=length) for length in lengths])
    more = torch.tensor([prompt(10, seed=row) for row in range(2)])
    plain, graphed = OrtModel(export, max_len=16), OrtModel(export, max_len=16)
    graphed._graphs = Graphs()
    bound: list[tuple[object, ...]] = []
    bind = ort_session.bind

    def noted(
        call: Callable[..., None], name: str, buffer: torch.Tensor, shape: tuple[int, ...] = ()
    ) -> None:
        bound.append((name, shape or tuple(buffer.shape), buffer.data_ptr()))
        bind(call, name, buffer, shape)

    plain.prefill(ids, lengths)
    graphed.prefill(ids, lengths)
    seen = []
    for k in range(10):  # the last one fills the cache
        bound.clear()
        with monkeypatch.context() as patched:
            patched.setattr(runtime, "bind", noted)
            step = graphed.step(more[:, [k]])
        torch.testing.assert_close(step, plain.step(more[:, [k]]), rtol=0, atol=0)
        seen.append(tuple(bound))
    assert len(set(seen)) == 1
    assert {name: shape for name, shape, _ in seen[0]} == {
        "input_ids": (2, 1), "attention_mask": (2, 16), "logits": (2, 1, 1024)
    }  # fmt: skip


def test_only_steps_are_captured_and_anew_when_buffers_move() -> None:
    graphs = Graphs()
    graphs.renew()

    def number(*, step: bool) -> str:
        options, captured = graphs.options(step=step)
        assert captured == step
        return str(options.get_run_config_entry("gpu_graph_id"))

    assert number(step=False) == "-1"
    first = number(step=True)
    assert number(step=True) == first
    graphs.renew()
    assert number(step=True) != first


class FakeSession:
    """Keeps how it was asked for; runs on the providers it was told."""

    asked: dict[str, object] = {}
    options: onnxruntime.SessionOptions
    runs_on = ["CUDAExecutionProvider"]

    def __init__(self, path: Path, options: onnxruntime.SessionOptions, **given: object) -> None:
        FakeSession.options = options
        FakeSession.asked = {"threads": options.intra_op_num_threads, **given}

    def get_providers(self) -> list[str]:
        return self.runs_on


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_session_asks_for_the_graph_and_the_options(
    monkeypatch: pytest.MonkeyPatch, cuda_graph: bool
) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)

    entries = {"ep.cuda.fpa_intb_gemm": "1"}
    ort_session.open_session(Path("model.onnx"), CUDA, 3, cuda_graph=cuda_graph, entries=entries)

    options = {"device_id": "0", "enable_cuda_graph": "1" if cuda_graph else "0"}
    assert FakeSession.asked == {
        "threads": 3, "providers": [("CUDAExecutionProvider", options)]
    }  # fmt: skip
    for name in ("session.use_device_allocator_for_initializers", "ep.cuda.fpa_intb_gemm"):
        assert FakeSession.options.get_session_config_entry(name) == "1"


def test_falling_back_to_the_cpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "InferenceSession", FakeSession)
    monkeypatch.setattr(FakeSession, "runs_on", ["CPUExecutionProvider"])

    with pytest.raises(
        StageError, match=r"model\.onnx: ONNX Runtime fell back from CUDA to the CPU"
    ):
        ort_session.open_session(Path("model.onnx"), CUDA, 1, cuda_graph=False)


# On a GPU.


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["fp16", "bf16", "int4"])
def test_replayed_steps_are_plain_ones(tmp_path: Path, kind: str) -> None:
    folder = export_onnx(CHECKPOINT, tmp_path / kind, precision=kind, provider="cuda").path
    plain, graphed = (
        OrtModel(folder, device="cuda", max_len=64, cuda_graph=graph) for graph in (False, True)
    )
    # Another number of rows moves the buffers, so that the second and third are captured anew.
    for lengths in ([9], [5, 12, 9], [20]):
        ids = padded([prompt(length, seed=length) for length in lengths])
        more = torch.tensor([prompt(12, seed=row) for row in range(len(lengths))])
        for model in (plain, graphed):
            model.reset()
            model.prefill(ids, lengths)
        for k in range(12):
            wanted, found = (model.step(more[:, [k]]).float() for model in (plain, graphed))
            assert (found - wanted).norm() < 0.02 * wanted.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True])
def test_a_gpu_continues_as_torch_does(
    tmp_path: Path, reference: torch.nn.Module, graph: bool
) -> None:
    folder = export_onnx(CHECKPOINT, tmp_path / "fp16", precision="fp16", provider="cuda").path
    model = OrtModel(folder, device="cuda", max_len=96, cuda_graph=graph)
    same = 0
    for row in choice_docs("test")[:8]:
        ids = TOKENIZER(f"{row['question']}\nAnswer:", return_tensors="pt").input_ids[:, :48]
        found = torch.tensor(list(greedy(model, ids, 32)))[:, 0]
        with torch.inference_mode():
            logits = reference(torch.cat([ids, found[None]], 1)).logits
        same += int((logits[0, ids.shape[1] - 1 : -1].argmax(-1) == found).sum())
    assert same >= 0.98 * 8 * 32
