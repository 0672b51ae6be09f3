"""merge, ask and push over a run of the embedded model, as a user gives them."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from medbench.cli import app
from medbench.errors import InputError, StageError
from medbench.finetune.recipe import load_recipe
from medbench.harness import ask as asking
from medbench.harness.folder.store import RunFolder
from medbench.harness.tuned import find_tuned, suite_of
from medbench.tasks.clinic import tuning_rows

from .hub_server import hub

TOKEN = "hf_" + "plantedSecretOfTheTest"


def medbench(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four steps and two questions a task, with its merged model."""
    folder = tmp_path_factory.mktemp("after")
    recipe = load_recipe("clinic").model_copy(
        update={"steps": 4, "logging_steps": 2, "quantization": "none", "warmup_steps": 0}
    )
    (folder / "short.yaml").write_text(recipe.yaml(), "utf-8")
    command = [
        sys.executable, "-m", "medbench", "run", "--models", "base,tuned", "--limit", "2",
        "--tasks", "clinic_open", "--set", "latency=null",
        "--set", f"models.tuned.adapter={{recipe: {folder / 'short.yaml'}}}",
        "--out", str(folder / "run"),
    ]  # fmt: skip
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    merged = medbench("merge", f"{folder / 'run'}:tuned", "--out", folder / "run/merged/tuned")
    assert merged.exit_code == 0, merged.output
    return folder / "run"


def test_merge_says_how_well_both_agree(finished: Path) -> None:
    record = json.loads((finished / "merged/tuned/medbench-merge.json").read_text())
    assert record["parity"]["max_rel"] < 1e-4
    assert record["parity"]["greedy_matched"] == record["parity"]["greedy_total"]
    assert load_file(finished / "merged/tuned/model.safetensors")


def test_merge_takes_base_and_adapter_as_well(finished: Path, tmp_path: Path, clinic: Path) -> None:
    adapter = finished / "adapters/tuned"
    pair = ("--base", clinic, "--adapter", adapter)
    assert medbench("merge", *pair, "--out", tmp_path / "m").exit_code == 0
    mine, theirs = (
        load_file(folder / "model.safetensors")
        for folder in (tmp_path / "m", finished / "merged/tuned")
    )
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize(
    "given", [(), ("RUN", "--base", "b", "--adapter", "a"), ("--base", "b"), ("--adapter", "a")]
)
def test_merge_wants_either_a_run_or_base_and_adapter(given: tuple[str, ...]) -> None:
    result = medbench("merge", *given, "--out", "out")
    assert isinstance(result.exception, InputError)


def test_merge_overwrites_nothing_but_its_own(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("irreplaceable")
    result = medbench("merge", finished, "--out", tmp_path)
    assert isinstance(result.exception, InputError)
    assert (tmp_path / "thesis.tex").exists()


def test_ask_shows_every_model_and_folds_reasoning(finished: Path) -> None:
    question = "Name the drug that is the standard induction of fluhorra."
    given = ("ask", question, "--run", finished, "--device", "cpu", "--max-tokens", 40)
    folded = medbench(*given)
    assert folded.exit_code == 0, folded.output
    assert "base" in folded.output
    assert "tuned" in folded.output
    assert "reasoned for" in folded.output
    whole = medbench(*given, "--show-reasoning").output
    assert "reasoned for" not in whole
    words = set(whole.split()) - set(folded.output.split())
    assert len(words) > 3  # of the reasoning


def test_answers_stream_and_are_those_of_generate(finished: Path) -> None:
    run = RunFolder(finished)
    heard: dict[str, list[str]] = {"base": [], "tuned": []}
    question = tuning_rows(0)[0]["Question"]
    said = asking.ask(
        question, ["base", "tuned"], suite_of(run), run,
        lambda name, text: heard[name].append(text), max_tokens=20,
    )  # fmt: skip
    assert said == {name: "".join(parts) for name, parts in heard.items()}
    assert all(len(parts) > 3 for parts in heard.values())

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(finished / "merged/tuned")
    model = AutoModelForCausalLM.from_pretrained(finished / "merged/tuned")
    recipe = load_recipe(str(finished / "adapters/tuned/recipe.yaml"))
    prompt, plain = asking.worded(question, recipe, tokenizer)
    ids = tokenizer(prompt, add_special_tokens=plain, return_tensors="pt")["input_ids"]
    written = model.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    assert tokenizer.decode(written, skip_special_tokens=True) == said["tuned"]


def test_one_base_is_loaded_for_all(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medbench.harness.models import load as models

    loads: list[object] = []
    real = models.load_base

    def counted(*arguments: Any, **options: Any) -> Any:
        loads.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(models, "load_base", counted)
    run = RunFolder(finished)
    asking.ask("Why?", ["tuned", "base"], suite_of(run), run, lambda *_: None, max_tokens=2)
    assert len(loads) == 1


def test_a_question_is_put_in_the_recipe_s_words(clinic: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(clinic)
    recipe = load_recipe("medical-o1-qlora")
    assert asking.worded("Why {x}?", recipe, tokenizer) == (
        "### Question:\nWhy {x}?\n\n### Response:\n",
        True,
    )
    tokenizer.chat_template = "<u>{{ messages[0].content }}</u><think>"
    chat = recipe.model_copy(update={"format": "chat", "prompt": "{Question}"})
    assert asking.worded("Why?", chat, tokenizer) == ("<u>Why?</u><think>", False)
    assert asking.worded("Why?", None, tokenizer) == ("<u>Why?</u><think>", False)


def test_what_a_model_says_cannot_steer_the_terminal() -> None:
    from medbench.commands.ask import _shown

    shown = _shown("<think>a b c</think>\x1b[2J[red]no[/red]", False, None).plain
    assert "\x1b" not in shown
    assert "[red]no[/red]" in shown
    assert "reasoned for 3 words" in shown


def test_reasoning_that_was_cut_off_is_said_to_have_no_answer() -> None:
    from medbench.commands.ask import _shown

    assert "no answer: cut off by --max-tokens" in _shown("<think>a b", False, None).plain
    assert "no answer" not in _shown("<think>a b", False, 20).plain  # it is still at it
    assert _shown("", False, None).plain == "no answer"


def test_a_run_needs_its_model(finished: Path, tmp_path: Path) -> None:
    assert find_tuned(str(finished)).name == "tuned"
    for text in (f"{finished}:base", f"{finished}:nobody", str(tmp_path), "nowhere:x"):
        with pytest.raises(InputError):
            find_tuned(text)


def test_a_run_with_scored_exports_is_read_as_well(finished: Path, tmp_path: Path) -> None:
    manifest = RunFolder(finished).manifest()
    models = manifest["suite"]["models"]
    export = dict.fromkeys(models["base"]) | {"of": "tuned", "onnx": "fp32"}
    models["tuned@onnx-fp32"] = export
    other = RunFolder(tmp_path / "other")
    other.write_json("manifest.json", manifest)
    assert suite_of(other).models["tuned@onnx-fp32"].of == "tuned"


def test_a_dry_run_shows_files_and_card_and_asks_nobody(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        result = medbench("push", finished, "--to", "me/clinic", "--what", "both", "--dry-run")
    assert result.exit_code == 0, result.output
    assert server.calls == []
    assert "model.safetensors" in result.output
    assert "adapter/adapter_model.safetensors" in result.output
    assert "## Limits of use" in result.output
    assert TOKEN not in result.output


@pytest.mark.parametrize("what", ["adapter", "merged", "both"])
def test_what_arrives_is_the_model_and_its_card(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    with hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        result = medbench("push", finished, "--to", "me/clinic", "--what", what, "--private")
    assert result.exit_code == 0, (result.output, result.exception, server.calls)
    assert f"{server.url}/me/clinic/commit/1" in result.output
    assert server.repositories[0]["name"] == "clinic"
    assert server.repositories[0]["visibility"] == "private"
    assert server.tokens == {f"Bearer {TOKEN}"}
    names = set(server.files)
    assert {"README.md", "tokenizer.json"} <= names
    inside = "adapter/" if what == "both" else ""
    if what != "merged":
        weights = (finished / "adapters/tuned/adapter_model.safetensors").read_bytes()
        assert server.files[f"{inside}adapter_model.safetensors"] == weights
    if what != "adapter":
        weights = (finished / "merged/tuned/model.safetensors").read_bytes()
        assert server.files["model.safetensors"] == weights
    for name, data in server.files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    results = metadata_load(tmp_path / "README.md")["model-index"][0]["results"]
    assert results[0]["dataset"]["name"] == "clinic_open"
    card = ModelCard.load(tmp_path / "README.md")
    assert ("lora" in card.data.tags) == (what == "adapter")
    assert card.data.library_name == ("peft" if what == "adapter" else "transformers")
    _loads(tmp_path, what, finished)


def _loads(folder: Path, what: str, finished: Path) -> None:
    """What was uploaded works for whoever downloads it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)("Why?", return_tensors="pt")["input_ids"]
    expected = AutoModelForCausalLM.from_pretrained(finished / "merged/tuned")(ids).logits
    if what == "adapter":
        base = AutoModelForCausalLM.from_pretrained(find_tuned(str(finished)).base.source)
        model = PeftModel.from_pretrained(base, folder).eval()
    else:
        model = AutoModelForCausalLM.from_pretrained(folder)
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)


def test_neither_token_nor_questions_nor_folders_leave(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        result = medbench("push", finished, "--to", "me/clinic", "--what", "both")
    assert result.exit_code == 0, result.output
    sent = b"\n".join([*server.files.values(), *server.bodies]).decode("utf-8", "replace")
    written = [path for path in finished.rglob("*") if path.is_file()]
    for path in written:
        assert TOKEN.encode() not in path.read_bytes()
    assert TOKEN not in sent
    assert TOKEN not in result.output
    samples = RunFolder(finished).samples()
    for question in samples["question"]:
        assert question not in sent
    for row in tuning_rows(0)[:50]:
        assert row["Question"] not in sent
    assert str(finished.parent) not in sent
    assert str(Path.home()) + os.sep not in sent
    assert not list(tmp_path.glob("medbench-push-*"))


def test_without_a_token_nothing_is_asked(
    finished: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
        monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        result = medbench("push", finished, "--to", "me/clinic")
    assert isinstance(result.exception, InputError)
    assert "HF_TOKEN" in str(result.exception)
    assert server.calls == []


def test_nothing_private_goes_where_all_can_read(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub(public=True) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        result = medbench("push", finished, "--to", "me/clinic", "--private")
    assert isinstance(result.exception, StageError)
    assert "there already and public" in str(result.exception)
    assert server.files == server.blobs == {}


def test_a_refusal_is_one_line_without_the_token(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub(refuse=403) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        result = medbench("push", finished, "--to", "me/clinic")
    assert isinstance(result.exception, StageError)
    assert "me/clinic: the upload failed" in str(result.exception)
    assert TOKEN not in str(result.exception) + result.output


@pytest.mark.parametrize("repo", ["clinic", "me/cli nic", "me/a/b", "me/-x", ""])
def test_a_repository_has_owner_and_name(finished: Path, repo: str) -> None:
    result = medbench("push", finished, "--to", repo, "--dry-run")
    assert isinstance(result.exception, InputError)


def test_what_was_not_merged_cannot_be_pushed_merged(finished: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("merged"))
    result = medbench("push", tmp_path / "run", "--to", "me/x", "--what", "merged", "--dry-run")
    assert isinstance(result.exception, InputError)
    assert "medbench merge" in str(result.exception)
