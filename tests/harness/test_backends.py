"""Other back ends: what a suite may say, what is refused, and that local ones answer the same.

Models behind a URL: test_endpoint.py.
"""

import ast
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lm_eval.models import MODEL_MAPPING

from medbench.errors import InputError, StageError
from medbench.harness.models import backends
from medbench.harness.models.load import ScoringPool
from medbench.harness.notes import notes
from medbench.harness.planning.plan import Plan, identity, make_plan
from medbench.harness.suite import AdapterSpec, JudgeSection, ModelSpec, Suite, load_suite

from .asking import chat, samples

KEY = "sk-planted-0123456789abcdef"


@pytest.fixture(autouse=True)
def planted_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


# -- the table -----------------------------------------------------------------------------------


def test_every_known_back_end_is_lm_evals() -> None:
    assert set(backends.KNOWN) - {"medbench"} <= set(MODEL_MAPPING)
    assert backends.find("gguf") == backends.Backend("gguf")
    with pytest.raises(ValueError, match="no such back end"):
        backends.find("ggfu")


@pytest.mark.parametrize("name", ["local-chat-completions", "openai-chat-completions"])
def test_chat_back_ends_give_no_log_likelihoods(name: str) -> None:
    """What the table says is what lm-eval's classes do."""
    kind = backends.lm_class(name)
    with pytest.raises(NotImplementedError):
        kind.loglikelihood(None, [])
    assert not backends.find(name).likelihoods


def test_onnxruntime_writes_no_text() -> None:
    with pytest.raises(NotImplementedError):
        backends.lm_class("onnxruntime")._generate(None, [], {})
    assert not backends.find("onnxruntime").generates


# -- what a suite may say ------------------------------------------------------------------------

URL = "http://localhost:1/v1/chat/completions"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"backend": "vlm"}, r"no such back end; expected one of: medbench, hf, vllm"),
        ({"backend": "vllm"}, "expected either 'pretrained'"),
        ({"backend": "vllm", "pretrained": "x", "quantization": "nf4"}, "only medbench and hf"),
        ({"backend": "hf", "pretrained": "x", "key_env": "A_KEY"}, "hf sends no key"),
        ({"backend": "local-chat-completions", "args": {"model": "m"}}, "base_url is missing"),
        ({"backend": "local-chat-completions", "args": {"base_url": URL}}, "model is missing"),
        (
            {"backend": "local-completions", "args": {"model": "m", "base_url": "localhost:80"}},
            "a whole http:// or https:// URL",
        ),
        (
            {"backend": "openai-chat-completions", "pretrained": "m", "args": {"model": "m"}},
            "pretrained: an endpoint's weights are not loaded here",
        ),
    ],
)
def test_a_model_that_cannot_be_is_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ModelSpec.model_validate(spec)


@pytest.mark.parametrize(
    "args",
    [
        {"api_key": "x"},
        {"header": {"Authorization": "Bearer x"}},
        {"auth_token": "x"},
        {"extra": {"password": "x"}},
        {"base_url": "https://me:secret@host/v1"},
        {"base_url": "https://host/v1?key=abc"},
        {"suffix": f"…{KEY}…"},
    ],
)
def test_a_secret_in_a_suite_is_refused_and_not_shown(args: dict[str, Any], tmp_path: Path) -> None:
    spec = {
        "backend": "local-chat-completions",
        "args": {"model": "m", "base_url": URL} | args,
    }
    suite = tmp_path / "suite.yaml"
    suite.write_text(
        json.dumps({"name": "s", "tasks": ["clinic_open"], "models": {"chat": spec}}), "utf-8"
    )
    with pytest.raises(InputError, match="is, or holds, a secret") as error:
        load_suite(str(suite))
    assert KEY not in str(error.value)


def test_tokens_of_a_text_are_no_secret() -> None:
    args = {"tokenizer": "t", "tokenizer_backend": "huggingface", "tokenized_requests": False,
            "max_gen_toks": 9, "think_end_token": "</think>", "prefix_token_id": 1}  # fmt: skip
    assert backends.secret_in(args) is None


@pytest.mark.parametrize("page", ["other-backends", "judge"])
def test_every_example_of_the_docs_is_valid(page: str) -> None:
    text = (Path(__file__).parents[2] / f"docs/how-to/{page}.md").read_text("utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.S)]
    assert len(blocks) >= 2
    for block in blocks:
        if "judge" in block:
            JudgeSection.model_validate(block["judge"])
        for spec in {} if "judge" in block else block.get("models", block).values():
            ModelSpec.model_validate(spec)


# -- what is refused before anything runs --------------------------------------------------------


def plan(models: dict[str, Any], tasks: list[str], **more: Any) -> Plan:
    suite = Suite.model_validate({"name": "s", "models": models, "tasks": tasks} | more)
    return make_plan(suite, models=None, tasks=None, device="cpu", command="test")


CHAT = {"backend": "local-chat-completions", "args": {"model": "m", "base_url": URL}}
BASE = {"pretrained": "embedded:clinic"}


def test_log_likelihoods_are_not_asked_of_a_chat() -> None:
    message = (
        r"task clinic_text, model chat: back end local-chat-completions gives no log-likelihoods, "
        r".*on it work clinic_open\."
    )
    with pytest.raises(InputError, match=message):
        plan({"base": BASE, "chat": CHAT}, ["clinic_open", "clinic_text"])
    with pytest.raises(InputError, match=r"on it work medqa_cot\."):
        plan({"chat": CHAT}, ["medqa"])
    assert plan({"chat": CHAT}, ["clinic_open"]).models == ["chat"]


def test_text_is_not_asked_of_onnxruntime(tmp_path: Path) -> None:
    model = {"backend": "onnxruntime", "pretrained": str(tmp_path)}
    with pytest.raises(InputError, match=r"onnxruntime gives no text.*clinic_letters"):
        plan({"onnx": model}, ["clinic_open"])
    assert plan({"onnx": model}, ["clinic_letters"]).models == ["onnx"]
    with pytest.raises(InputError, match="nowhere: no such file"):
        plan({"onnx": model | {"pretrained": "nowhere"}}, ["clinic_letters"])


def test_what_needs_weights_is_not_asked_of_an_endpoint() -> None:
    latency = {"models": ["chat"]}
    with pytest.raises(InputError, match=r"latency\.models: chat runs on back end local-chat"):
        plan({"chat": CHAT}, ["clinic_open"], latency=latency)
    tuned = {"base": "chat", "adapter": {"path": "x"}}
    with pytest.raises(InputError, match=r"models\.tuned: .* takes no adapter"):
        plan({"chat": CHAT, "tuned": tuned}, ["clinic_open"])
    with pytest.raises(InputError, match=r"takes messages, so that .*leave out prompt\.think"):
        plan({"chat": CHAT}, ["clinic_open"], prompt={"chat_template": True, "think": "open"})


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    openai = {"backend": "openai-chat-completions", "args": {"model": "m"}}
    with pytest.raises(InputError, match=r"models\.chat: OPENAI_API_KEY is not set"):
        plan({"chat": openai}, ["clinic_open"])
    with pytest.raises(InputError, match="MY_KEY is not set"):
        plan({"chat": CHAT | {"key_env": "MY_KEY"}}, ["clinic_open"])
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(InputError, match=r"models\.fast: .*needs vllm, .*pip install vllm"):
            plan({"fast": {"backend": "vllm", "pretrained": "embedded:clinic"}}, ["clinic_text"])
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'medbench\[api\]'"):
        plan({"chat": CHAT}, ["clinic_open"])


def test_notes_say_what_a_url_cannot() -> None:
    said = notes(plan({"base": BASE, "chat": CHAT}, ["clinic_open"]))
    (hashed,) = [note for note in said if "cannot be hashed" in note]
    assert hashed.startswith("chat is what 'm' at localhost:1 answered")
    (template,) = [note for note in said if "only be asked through a chat template" in note]
    assert template.startswith("chat can")
    alike = plan({"base": BASE, "chat": CHAT}, ["clinic_open"], prompt={"chat_template": True})
    assert not [note for note in notes(alike) if "only be asked" in note]


def test_identity_is_back_end_and_arguments() -> None:
    one = identity(chat("http://a"))
    assert one == identity(chat("http://a"))
    assert len({one, identity(chat("http://b")), identity(chat("http://a", seed=1))}) == 3
    other = chat("http://a").model_copy(update={"backend": "local-completions"})
    assert identity(other) != one


# -- vLLM, which needs a GPU: the arguments it gets ----------------------------------------------


def vllm_parameters() -> set[str]:
    """Parameters of lm-eval's vLLM class, read from its source: importing it needs vllm."""
    spec = importlib.util.find_spec("lm_eval.models.vllm_causallms")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text("utf-8"))
    (kind,) = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "VLLM"]
    (init,) = [n for n in kind.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    return {argument.arg for argument in init.args.args}


def adapter(folder: Path, **config: Any) -> Path:
    (folder / "adapter_config.json").write_text(json.dumps({"r": 16} | config), "utf-8")
    return folder


def test_vllm_gets_its_base_and_adapter_by_the_names_it_knows(tmp_path: Path) -> None:
    spec = ModelSpec(
        backend="vllm",
        pretrained="embedded:clinic",
        revision="main",
        dtype="bfloat16",
        trust_remote_code=True,
        args={"tensor_parallel_size": 2, "max_model_len": 4096},
    )
    found = backends.arguments(spec, adapter(tmp_path, r=24))
    assert found == {
        "pretrained": spec.source,
        "revision": "main",
        "dtype": "bfloat16",
        "trust_remote_code": True,
        "tensor_parallel_size": 2,
        "max_model_len": 4096,
        "lora_local_path": str(tmp_path),
        "max_lora_rank": 32,
    }
    assert set(found) <= vllm_parameters()
    assert "lora_local_path" not in backends.arguments(spec)


def test_the_largest_rank_of_an_adapter_counts(tmp_path: Path) -> None:
    assert backends.arguments(VLLM, adapter(tmp_path, r=8, rank_pattern={"q_proj": 64}))[
        "max_lora_rank"
    ] == 64  # fmt: skip
    with pytest.raises(StageError, match="rank 1024; vLLM takes at most 512"):
        backends.arguments(VLLM, adapter(tmp_path, r=1024))


VLLM = ModelSpec(backend="vllm", pretrained="embedded:clinic")


def test_an_engine_of_its_own_gets_the_adapter_and_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[Path | None] = []

    def build(spec: ModelSpec, path: Path | None = None) -> object:
        built.append(path)
        return object()

    monkeypatch.setattr(backends, "build", build)
    tuned = ModelSpec(base="base", adapter=AdapterSpec(path=str(tmp_path)))
    pool = ScoringPool({"base": VLLM, "tuned": tuned}, {"tuned": tmp_path}, "cpu")
    for name in ("base", "base", "tuned", "tuned", "base"):
        with pool.use(name) as lm:
            assert lm is not None
    assert built == [None, tmp_path, None]


# -- models that run here -------------------------------------------------------------------------


def test_hf_scores_as_medbench_does() -> None:
    ours, theirs = (
        samples(ModelSpec(backend=backend, pretrained="embedded:clinic"), "clinic_letters")
        for backend in ("medbench", "hf")
    )
    for a, b in zip(ours["option_scores"], theirs["option_scores"], strict=True):
        assert np.allclose(a, b, atol=1e-4)


def test_an_export_scores_and_writes_as_its_weights_do(tmp_path: Path, clinic: Path) -> None:
    """What was exported can be scored itself, by lm-eval's two ONNX back ends."""
    from medbench.harness.export import export_onnx

    export_onnx(clinic, tmp_path / "onnx", precision="fp32", provider="cpu")
    ours = ModelSpec(pretrained="embedded:clinic")
    args = {"execution_provider": "cpu"}
    onnx, genai = (
        ModelSpec(backend=name, pretrained=str(tmp_path / "onnx"), args=args)
        for name in ("onnxruntime", "onnxruntime-genai")
    )
    scored, exported = (samples(spec, "clinic_letters", limit=3) for spec in (ours, onnx))
    for a, b in zip(scored["option_scores"], exported["option_scores"], strict=True):
        assert np.allclose(a, b, atol=1e-3)
    written, exported = (samples(spec, "clinic_open", limit=3) for spec in (ours, genai))
    assert written["output"].tolist() == exported["output"].tolist()
