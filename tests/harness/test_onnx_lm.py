"""An export as an lm-eval model: what it answers is what the torch model answers."""

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from lm_eval.api.instance import Instance
from transformers import AutoModelForCausalLM, AutoTokenizer

from medbench.errors import InputError, StageError
from medbench.harness.evaluate import Asking, score
from medbench.harness.folder import journal
from medbench.harness.models import answered
from medbench.harness.ort.lm import OnnxLM
from medbench.harness.ort.sessions import Sessions
from medbench.harness.scorer.lm import PackedLM
from medbench.tasks.catalog import tasks
from medbench.tasks.clinic.rows import choice_docs

from .asking import Counted

Exports = Callable[[str], Path]
GREEDY = {"until": ["\n"], "max_gen_toks": 24, "do_sample": False, "temperature": 0.0}


@pytest.fixture(scope="module")
def export(clinic_onnx: Exports) -> OnnxLM:
    return OnnxLM(clinic_onnx("fp32"), threads=1)


@pytest.fixture(scope="module")
def reference() -> PackedLM:
    from medbench.harness.suite import EMBEDDED

    folder = EMBEDDED["embedded:clinic"]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return PackedLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(folder))


def prompts(count: int) -> list[str]:
    return [f"Question: {row['question']}\nAnswer:" for row in choice_docs("test")[:count]]


def ask(kind: str, *arguments: Any) -> list[Instance]:
    return [Instance(kind, {}, one, i, ("test", i, 1)) for i, one in enumerate(arguments)]


def same(found: list[Any], expected: list[Any]) -> None:
    values, wanted = ([value for value, _ in side] for side in (found, expected))
    np.testing.assert_allclose(values, wanted, atol=1e-4, rtol=1e-6)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


@pytest.mark.parametrize("task", ["clinic_text", "clinic_letters", "clinic_response"])
def test_every_score_of_a_task_is_the_torch_models(
    export: OnnxLM, reference: PackedLM, task: str
) -> None:
    ours, theirs = (score("m", lm, tasks()[task], Asking(limit=8)) for lm in (export, reference))
    assert ours["prompt_hash"].tolist() == theirs["prompt_hash"].tolist()
    assert ours["prediction"].tolist() == theirs["prediction"].tolist()
    np.testing.assert_allclose(ours["score"], theirs["score"], atol=1e-3)
    for mine, other in zip(ours["option_scores"], theirs["option_scores"], strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-4)


def test_generated_answers_are_the_torch_models(export: OnnxLM, reference: PackedLM) -> None:
    task = tasks()["clinic_open"]
    ours, theirs = (score("m", lm, task, Asking(limit=12)) for lm in (export, reference))
    for column in ("output", "output_tokens", "truncated", "prediction", "score", "problem"):
        assert ours[column].tolist() == theirs[column].tolist()


@pytest.mark.parametrize("name", ["clinic_text", "clinic_open"])
def test_an_interrupted_task_goes_on_with_the_same_bits(
    export: OnnxLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(answered, "MINUTE", {"cpu": 1e9})
    monkeypatch.setattr(journal, "EVERY", 0)

    def asked(place: str, stop: int | None = None) -> tuple[Any, Counted, int]:
        counted = Counted(export, stop)
        kept = journal.Journal(tmp_path / place)
        with answered.answered(export, kept) as known:
            table = score("m", export, tasks()[name], Asking(limit=48), known.tick)
        return table, counted, known.before

    whole, every, _ = asked("whole")
    with pytest.raises(KeyboardInterrupt):
        asked("J", stop=len(every.requests) // 2)
    table, rest, before = asked("J")
    assert 0 < before < len(every.requests) == before + len(rest.requests)
    pd.testing.assert_frame_equal(table, whole, check_exact=True)


@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_generation_of_prompts_of_all_lengths(
    clinic_onnx: Exports, reference: PackedLM, batch_size: int
) -> None:
    export = OnnxLM(clinic_onnx("fp32"), threads=1, batch_size=batch_size)
    asked = [text[: 9 + 23 * i] for i, text in enumerate(prompts(11))]
    requests = ask("generate_until", *((text, GREEDY) for text in asked))
    found = export.generate_until(requests, disable_tqdm=True)
    assert found == reference.generate_until(requests, disable_tqdm=True)
    assert len(set(found)) > 3


def test_generation_stops_at_a_text_of_several_tokens(export: OnnxLM, reference: PackedLM) -> None:
    whole = export.generate_until(ask("generate_until", *((p, GREEDY) for p in prompts(4))), True)
    stop = whole[0][2:7]
    requests = ask("generate_until", *((p, GREEDY | {"until": [stop]}) for p in prompts(4)))
    found = export.generate_until(requests, disable_tqdm=True)
    assert found == reference.generate_until(requests, disable_tqdm=True)
    assert found[0] == whole[0].partition(stop)[0]


def test_an_end_token_ends_a_row_and_pads_it(export: OnnxLM) -> None:
    """The others go on; nothing of what follows the end is kept."""
    ids = [export.tok_encode(text) for text in prompts(3)]
    width = max(map(len, ids))
    pad = export.tokenizer.pad_token_id
    context = torch.tensor([[pad] * (width - len(one)) + one for one in ids])
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in ids])
    free = export._model_generate(context, width + 40, [], attention_mask=mask)
    end = int(free[0, width + 1])
    before = export._ends
    export._ends = torch.tensor([end])
    try:
        found = export._model_generate(context, width + 40, [], attention_mask=mask)
    finally:
        export._ends = before
    assert found[0, width + 1] == end
    assert (found[0, width + 2 :] == pad).all()
    others = [row for row in (1, 2) if end not in free[row, width:]]
    for row in others:
        assert found[row].tolist() == free[row, : found.shape[1]].tolist()


def test_log_likelihoods_of_odd_requests(export: OnnxLM, reference: PackedLM) -> None:
    """Empty contexts, contexts that end in spaces, repeats, and texts longer than the model."""
    rng = random.Random(3)
    long = " ".join(rng.choice(prompts(20)) for _ in range(120))
    assert len(export.tok_encode(long)) > export.max_length
    pairs = [
        ("", " asthma"), ("Question:  ", " yes"), ("Question:  ", " yes"), (long, " yes"),
        ("A", long[:3000]), *((p, o) for p in prompts(3) for o in (" yes", " no", " no idea")),
    ]  # fmt: skip
    requests = ask("loglikelihood", *pairs)
    same(export.loglikelihood(requests, True), reference.loglikelihood(requests, True))

    texts = ask("loglikelihood_rolling", *((text,) for text in [long, *prompts(4)]))
    found, expected = (lm.loglikelihood_rolling(texts, True) for lm in (export, reference))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("form", "worst"), [("int8", 2.0), ("int4", 40.0)])
def test_quantised_exports_answer_and_differ(
    clinic_onnx: Exports, reference: PackedLM, form: str, worst: float
) -> None:
    export = OnnxLM(clinic_onnx(form), threads=1)
    requests = ask("loglikelihood", *((p, o) for p in prompts(6) for o in (" yes", " no idea")))
    found, expected = (
        np.array([value for value, _ in lm.loglikelihood(requests, True)])
        for lm in (export, reference)
    )
    assert 1e-3 < np.abs(found - expected).max() < worst
    again = OnnxLM(clinic_onnx(form), threads=1, token_budget=9)
    cut = [value for value, _ in again.loglikelihood(requests, True)]
    np.testing.assert_allclose(cut, found, atol=1e-3)  # another kernel for fewer rows
    requests = ask("generate_until", *((text, GREEDY) for text in prompts(3)))
    assert all(export.generate_until(requests, True))


@pytest.mark.parametrize(
    "setting",
    [{"do_sample": True, "temperature": 0.7}, {"num_beams": 3}, {"repetition_penalty": 2.0}],
)
def test_what_is_not_greedy_is_refused(export: OnnxLM, setting: dict[str, Any]) -> None:
    asked = ask("generate_until", (prompts(1)[0], GREEDY | setting))
    with pytest.raises(StageError, match=r"generation_kwargs\..*: .*greedily"):
        export.generate_until(asked, disable_tqdm=True)


def test_a_folder_that_is_no_export_is_refused(
    clinic: Path, clinic_onnx: Exports, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"genai_config\.json: missing"):
        OnnxLM(clinic)
    with pytest.raises(InputError, match=r"nowhere/tokenizer_config\.json: missing"):
        OnnxLM(tmp_path / "nowhere")
    broken = tmp_path / "broken"
    shutil.copytree(clinic_onnx("fp32"), broken)
    (broken / "model.onnx").write_bytes(b"")
    with pytest.raises(StageError, match=r"model\.onnx: ONNX Runtime .* cannot load it"):
        OnnxLM(broken)


@pytest.mark.parametrize(("asked", "got"), [(None, 2048), (64, 64), (10**6, 2048)])
def test_texts_are_no_longer_than_the_export(
    clinic_onnx: Exports, asked: int | None, got: int
) -> None:
    export = OnnxLM(clinic_onnx("fp32"), max_length=asked)
    assert export.max_length == got
    long = ask("loglikelihood", (" ".join(prompts(80)), " yes"))
    assert export.loglikelihood(long, True)[0][0] < 0


def test_batches_shrink_to_what_the_memory_holds(
    clinic_onnx: Exports, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    row = 2 * 5 * 4 * 32 * 2048 * 4  # keys and values, layers, heads, size, positions, bytes
    monkeypatch.setattr("medbench.harness.ort.session.free_memory", lambda _: 7 * row)
    assert OnnxLM(clinic_onnx("fp32"), batch_size=16).batch_size == 3
    assert "room for the caches of 3 prompts" in caplog.text
    assert OnnxLM(clinic_onnx("fp32"), batch_size=2).batch_size == 2


@pytest.mark.parametrize("module", ["segmented", "runtime"])
@pytest.mark.parametrize(("asked", "seen"), [(None, "0"), ("1", "1")])
def test_attention_that_plans_every_shape_is_off_unless_asked_for(
    clinic_onnx: Exports, monkeypatch: pytest.MonkeyPatch, asked: str | None, seen: str, module: str
) -> None:
    name = "ORT_ENABLE_CUDNN_FLASH_ATTENTION"
    monkeypatch.delenv(name, raising=False)
    if asked:
        monkeypatch.setenv(name, asked)
    when_opened = []

    def opened(*_: Any, **given: Any) -> None:
        when_opened.append(os.environ.get(name))
        raise InputError("stop")

    monkeypatch.setattr(f"medbench.harness.ort.{module}.open_session", opened)
    sessions = Sessions(clinic_onnx("fp32"), "cpu", 1)
    with pytest.raises(InputError, match="stop"):
        (sessions.scoring if module == "segmented" else sessions.generating)()
    assert when_opened == [seen]
    assert os.environ.get(name) == asked  # what is measured afterwards is not changed


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_without_a_gpu_is_an_error_and_no_cpu_run(clinic_onnx: Exports) -> None:
    with pytest.raises(InputError, match="device 'cuda': "):
        OnnxLM(clinic_onnx("fp32"), device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("divided", [True, False])
def test_a_gpu_answers_as_torch_does_there(
    clinic: Path, tmp_path: Path, divided: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    from medbench.harness.export import export_onnx

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("the installed onnxruntime has no CUDA; onnxruntime-gpu has")
    if not divided:
        monkeypatch.setattr("medbench.harness.ort.segmented.for_scoring", lambda *_: None)
    folder = export_onnx(clinic, tmp_path / "fp16", precision="fp16", provider="cuda").path
    export = OnnxLM(folder, device="cuda")
    model = AutoModelForCausalLM.from_pretrained(clinic, dtype=torch.float32).cuda().eval()
    reference = PackedLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(clinic))
    requests = ask("loglikelihood", *((p, o) for p in prompts(24) for o in (" yes", " no idea")))
    found, expected = (
        [value for value, _ in lm.loglikelihood(requests, True)] for lm in (export, reference)
    )
    np.testing.assert_allclose(found, expected, atol=0.1)
    requests = ask("generate_until", *((text, GREEDY) for text in prompts(24)))
    texts = [lm.generate_until(requests, True) for lm in (export, reference)]
    assert sum(a == b for a, b in zip(*texts, strict=True)) >= 20
