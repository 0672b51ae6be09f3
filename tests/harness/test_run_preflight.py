"""What is missing is found before the first stage, and nothing is written for it."""

import importlib.util
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from medbench.cli import app
from medbench.errors import InputError
from medbench.harness.planning import hub, preflight
from medbench.harness.planning.plan import Plan, make_plan
from medbench.harness.suite import load_suite


def plan(*overrides: str, models: str | None = None) -> Plan:
    suite = load_suite("quickstart", ["tasks=[clinic_text]", *overrides])
    return make_plan(suite, models=models, tasks=None, device="cpu", command="test")


@pytest.mark.parametrize(
    ("gone", "stage"),
    [("trl", "tune/tuned"), ("lm_eval", "score/base"), ("onnxruntime_genai", "export/tuned")],
)
def test_a_missing_package_is_found_before_the_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: str, stage: str
) -> None:
    real: Callable[..., Any] = importlib.util.find_spec
    monkeypatch.setattr(preflight, "find_spec", lambda name: None if name == gone else real(name))
    out = tmp_path / "R"
    done = CliRunner().invoke(app, ["run", "--device", "cpu", "--out", str(out)])
    assert isinstance(done.exception, InputError)
    assert f"stage {stage} needs {gone}, which is not installed; pip install" in str(done.exception)
    assert not out.exists()


class TestHub:
    """The Hub out of reach: a port where nobody listens, and an empty cache."""

    @pytest.fixture(autouse=True)
    def nowhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))

    def test_nothing_is_asked_of_it_where_nothing_is_needed(self) -> None:
        assert hub.check_hub(plan()) == []

    def test_a_model_that_is_not_in_the_cache(self, tmp_path: Path) -> None:
        arguments = ["run", "--device", "cpu", "--models", "base", "--out", str(tmp_path / "R")]
        where = "models.base.pretrained=some-owner/some-model"
        done = CliRunner().invoke(app, [*arguments, "--set", where])
        assert isinstance(done.exception, InputError), done.exception
        for part in ("models.base", "some-owner/some-model", "cache", "cannot be reached"):
            assert part in str(done.exception)
        assert "\n" not in str(done.exception)
        assert not (tmp_path / "R").exists()

    def test_a_model_in_the_cache_is_taken(self, tmp_path: Path, clinic: Path) -> None:
        made = tmp_path / "cache" / "models--some-owner--some-model"
        (made / "refs").mkdir(parents=True)
        (made / "refs" / "main").write_text("a" * 40)
        (made / "snapshots").mkdir()
        (made / "snapshots" / ("a" * 40)).symlink_to(clinic)
        notes = hub.check_hub(plan("models.base.pretrained=some-owner/some-model", models="base"))
        assert len(notes) == 1
        assert "some-owner/some-model comes from the cache; the Hub cannot be reached" in notes[0]

    def test_tuning_data(self, tmp_path: Path, short_recipe: Path) -> None:
        text = short_recipe.read_text("utf-8")
        text = text.replace("source: clinic", "source: hub:some-owner/some-data")
        short_recipe.write_text(text, "utf-8")
        made = plan(f"models.tuned.adapter.recipe={short_recipe}")
        with pytest.raises(InputError, match=r"data.source.*some-owner/some-data.*cannot be reach"):
            hub.check_hub(made)


@pytest.mark.parametrize(
    ("files", "refused"),
    [
        (["config.json", "pytorch_model.bin"], True),
        (["config.json", "pytorch_model.bin", "model.safetensors"], False),
        (["config.json", "model.safetensors", "training_args.bin"], False),
    ],
)
def test_a_model_of_the_hub_that_is_pickled(
    monkeypatch: pytest.MonkeyPatch, files: list[str], refused: bool
) -> None:
    import huggingface_hub

    siblings = [SimpleNamespace(rfilename=name) for name in files]
    info = SimpleNamespace(gated=False, siblings=siblings)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", lambda *_, **__: info)
    made = plan("models.base.pretrained=some-owner/some-model", models="base")
    if refused:
        with pytest.raises(InputError, match=r"pytorch_model.bin is a pickle.*Convert it"):
            hub.check_hub(made)
    else:
        assert hub.check_hub(made) == []


class _Refusing(BaseHTTPRequestHandler):
    """A Hub that answers every question with one error of its own."""

    error = ""

    def do_GET(self) -> None:
        self.send_response(403 if self.error == "GatedRepo" else 404)
        self.send_header("X-Error-Code", self.error)
        self.send_header("X-Error-Message", "as the Hub says it")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("GatedRepo", "is gated; accept its terms"),
        ("RevisionNotFound", "has no revision 'v9'; name one"),
        ("RepoNotFound", "no such {what} on the Hub"),
    ],
)
@pytest.mark.parametrize("what", ["model", "data set"])
def test_what_the_hub_refuses_is_told_alike_of_models_and_data(
    monkeypatch: pytest.MonkeyPatch, short_recipe: Path, what: str, error: str, told: str
) -> None:
    from huggingface_hub import constants

    server = ThreadingHTTPServer(("127.0.0.1", 0), type("_", (_Refusing,), {"error": error}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    if what == "model":
        where = "models.base.pretrained=some-owner/some-thing"
        asked = plan(where, "models.base.revision=v9", models="base")
    else:
        text = short_recipe.read_text("utf-8")
        text = text.replace("source: clinic", "source: hub:some-owner/some-thing")
        short_recipe.write_text(text.replace("revision: null", "revision: v9"), "utf-8")
        asked = plan(f"models.tuned.adapter.recipe={short_recipe}")
    try:
        with pytest.raises(InputError) as refused:
            hub.check_hub(asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert told.format(what=what) in str(refused.value)
    assert "some-owner/some-thing" in str(refused.value)
