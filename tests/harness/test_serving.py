"""What is served is what was measured: the same tuned model, asked over HTTP."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import pytest

from medbench.errors import InputError
from medbench.harness.folder.store import RunFolder
from medbench.harness.models import serving
from medbench.harness.suite import ModelSpec, load_suite
from medbench.harness.tuned import Tuned


def test_a_model_at_an_address_is_a_model_of_its_own() -> None:
    suite, models = serving.with_endpoints(
        load_suite("quickstart"), "tuned,tuned@http://localhost:8000"
    )
    assert models == "tuned,tuned-served"
    spec = suite.models["tuned-served"]
    assert spec.backend == "local-completions"
    assert spec.args["model"] == "tuned"
    assert spec.args["base_url"] == "http://localhost:8000/v1/completions"
    assert spec.args["eos_string"] == "<|end|>", "the base's own"


def test_other_names_are_left_as_they_are() -> None:
    suite = load_suite("quickstart")
    for models in (None, "base", "base,tuned@onnx-fp32"):
        assert serving.with_endpoints(suite, models) == (suite, models)


@pytest.mark.parametrize(
    "address", ["tuned@http://", "@http://localhost:8000", "tuned@http://me:word@localhost:8000"]
)
def test_a_bad_address_is_refused_and_its_password_not_repeated(address: str) -> None:
    with pytest.raises(InputError) as caught:
        serving.with_endpoints(load_suite("quickstart"), address)
    assert "me:word" not in str(caught.value)


@pytest.mark.parametrize("name", ["../../out", "owner/model", ".hidden", "a" * 60])
def test_a_name_that_can_be_no_folder_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="expected a name of letters"):
        serving.with_endpoints(load_suite("quickstart"), f"{name}@http://localhost:8000")


def test_vllm_gets_the_base_and_the_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 12}')
    base = ModelSpec(pretrained="owner/base", revision="abc", dtype="bfloat16")
    tuned = Tuned(RunFolder(tmp_path), "tuned", base, tmp_path)
    command = serving.vllm_command(tuned, serving.Address("localhost", 8000))
    assert command[:3] == ["vllm", "serve", "owner/base"]
    assert command[command.index("--lora-modules") + 1] == f"tuned={tmp_path}"
    assert command[command.index("--max-lora-rank") + 1] == "16"
    assert command[command.index("--revision") + 1] == "abc"
    assert "--trust-remote-code" not in command


def test_an_engine_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install vllm"):
        serving.choose("vllm", "cuda")
    wanted = r"fastapi, openai, uvicorn.*pip install 'transformers\[serving\]'"
    with pytest.raises(InputError, match=wanted):
        serving.choose("auto", "cuda")


@pytest.mark.slow
@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("fastapi", "openai", "uvicorn")),
    reason="needs transformers[serving]",
)
def test_answers_over_http_are_those_in_process(tmp_path: Path, short_recipe: Path) -> None:
    out = tmp_path / "R"
    settings = [f"models.tuned.adapter.recipe={short_recipe}", "latency=null", "limit=6"]
    medbench = [sys.executable, "-m", "medbench"]
    run = [
        *medbench, "run", "--device", "cpu", "--out", str(out), "--set", "tasks=[clinic_open]",
        *(part for one in settings for part in ("--set", one)),
    ]  # fmt: skip
    subprocess.run(run, check=True, capture_output=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    url = f"http://localhost:{port}"
    serve = [*medbench, "serve", str(out), "--device", "cpu", "--port", str(port)]
    with subprocess.Popen(serve, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 240
            while not _answers(url):
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.5)
            asked = [*run, "--models", f"base,tuned,tuned@{url}"]
            subprocess.run(asked, check=True, capture_output=True, env=os.environ)
        finally:
            server.terminate()
    samples = RunFolder(out).samples()
    here, there = (
        samples[samples["model"] == name]["output"].tolist() for name in ("tuned", "tuned-served")
    )
    assert len(here) == 6
    assert there == here


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2):
            return True
    except OSError:
        return False
