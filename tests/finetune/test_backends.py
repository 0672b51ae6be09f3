"""Which libraries train, and the process in which Unsloth does.

Unsloth itself needs a GPU. What stands in for it here has its two entry points, notes what they are
called with, and trains with transformers and peft: everything between it and the caller is real.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from safetensors.torch import load_file

from medbench.errors import InputError, StageError
from medbench.finetune import backends
from medbench.finetune.backends import choose, tune_with_unsloth
from medbench.finetune.recipe import Recipe, load_recipe
from medbench.finetune.train import Job, tune
from medbench.harness.planning.plan import make_plan
from medbench.harness.progress import silent
from medbench.harness.suite import ModelSpec, load_suite

BASE = ModelSpec(pretrained="embedded:clinic")

STAND_IN = """
import json, os, sys, time

assert "transformers" not in sys.modules, "Unsloth must be imported first"
print("a banner on standard output")
if "STAND_IN_SLEEPS" in os.environ:
    open(os.environ["STAND_IN_SLEEPS"], "w").close()
    time.sleep(600)
if "STAND_IN_DIES" in os.environ:
    print("last words", file=sys.stderr)
    os._exit(3)


class FastLanguageModel:
    @staticmethod
    def from_pretrained(**options):
        note("from_pretrained", options)
        if "STAND_IN_REFUSES" in os.environ:
            raise NotImplementedError("this architecture is not yet implemented")
        from transformers import AutoModelForCausalLM, AutoTokenizer
        model = AutoModelForCausalLM.from_pretrained(options["model_name"], dtype=options["dtype"])
        model.requires_grad_(False)
        model.config.use_cache = False
        return model, AutoTokenizer.from_pretrained(options["model_name"])

    @staticmethod
    def get_peft_model(model, use_gradient_checkpointing, random_state, **lora):
        note("get_peft_model", lora | {"random_state": random_state})
        import peft, transformers
        transformers.set_seed(random_state)
        return peft.get_peft_model(model, peft.LoraConfig(task_type="CAUSAL_LM", **lora))


def note(name, options):
    places = {key: os.environ.get(key) for key in
              ("UNSLOTH_COMPILE_LOCATION", "UNSLOTH_DISABLE_STATISTICS")}
    with open(os.environ["STAND_IN_NOTES"], "a") as file:
        said = {key: str(v) if key == "dtype" else v for key, v in options.items()}
        file.write(json.dumps([name, said, places]) + "\\n")
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Installs the stand-in for this process and its children; the file of its notes."""
    folder = tmp_path / "installed"
    folder.mkdir()
    (folder / "unsloth.py").write_text(STAND_IN)
    notes = tmp_path / "notes.jsonl"
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("STAND_IN_NOTES", str(notes))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return notes


@pytest.fixture
def recipe(short_recipe: Path) -> Recipe:
    """Four steps, each logged, unquantized: the two back ends then compute the same."""
    return load_recipe(str(short_recipe)).model_copy(
        update={"quantization": "none", "logging_steps": 1}
    )


def adapted(recipe: Recipe, **change: object) -> Recipe:
    return recipe.model_copy(update={"adapter": recipe.adapter.model_copy(update=change)})


def test_unsloth_is_taken_where_it_is_installed_and_there_is_a_gpu(
    stand_in: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose(recipe, "cuda").name == "unsloth"
    on_a_cpu = choose(recipe, "cpu")
    assert (on_a_cpu.name, on_a_cpu.why) == ("trl", "Unsloth needs a CUDA GPU")
    asked = choose(recipe.model_copy(update={"backend": "trl"}), "cuda")
    assert (asked.name, asked.why) == ("trl", "the recipe asks for it")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "one GPU" in choose(recipe, "cuda").why


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"adapter": load_recipe("medical-o1-ia3").adapter}, "not ia3"),
        ({"adapter": load_recipe("medical-o1-prefix").adapter}, "not prefix"),
        ({"adapter": load_recipe("medical-o1-dora").adapter}, "not dora"),
        ({"quantization": "int8"}, "not int8"),
        ({"precision": "float32"}, "not float32"),
    ],
)
def test_what_unsloth_is_not_run_for_is_trained_by_trl_and_says_so(
    stand_in: Path, recipe: Recipe, change: dict[str, Any], why: str
) -> None:
    other = recipe.model_copy(update=change)
    taken = choose(other, "cuda")
    assert taken.name == "trl"
    assert taken.why.endswith(why)
    with pytest.raises(InputError, match=why):
        choose(other.model_copy(update={"backend": "unsloth"}), "cuda")


def test_a_recipe_that_asks_for_unsloth_is_refused_in_the_plan(
    short_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    text = short_recipe.read_text().replace("backend: auto", "backend: unsloth")
    short_recipe.write_text(text)
    suite = load_suite("quickstart", [f"models.tuned.adapter.recipe={short_recipe}"])
    with pytest.raises(InputError, match=r"medbench\[unsloth\]"):
        make_plan(suite, models=None, tasks=None, device="cpu", command="")


def test_unsloth_trains_the_same_rows_in_the_same_order_as_trl(
    tmp_path: Path, stand_in: Path, recipe: Recipe
) -> None:
    heard: list[tuple[int, int]] = []
    job = Job(BASE, recipe, tmp_path / "a", tmp_path / "a-steps", "cpu")
    detail = tune_with_unsloth(job, lambda done, total, note: heard.append((done, total)))
    assert heard == [(step, 4) for step in (1, 2, 3, 4)]
    plain = tune(Job(BASE, recipe, tmp_path / "b", tmp_path / "b-steps", "cpu"), silent)
    assert plain["backend"] == "trl"
    assert plain["backend_why"]
    for key in ("data_sha256", "rows", "steps", "trainable_parameters", "rows_at_once"):
        assert detail[key] == plain[key], key
    logs = [pd.read_csv(tmp_path / name / "losses.csv")["loss"] for name in "ab"]
    assert logs[0].tolist() == pytest.approx(logs[1].tolist(), rel=1e-5)
    ours, theirs = (
        load_file(tmp_path / name / "adapter_model.safetensors").keys() for name in "ab"
    )
    assert ours == theirs
    assert not (tmp_path / "a-steps").exists()


def test_unsloth_is_called_with_what_the_recipe_says(
    tmp_path: Path, stand_in: Path, recipe: Recipe
) -> None:
    mine = adapted(recipe, r=4, alpha=12, rslora=True).model_copy(
        update={"seed": 5, "gradient_checkpointing": True, "max_length": 200}
    )
    tune_with_unsloth(Job(BASE, mine, tmp_path / "a", tmp_path / "steps", "cpu"), silent)
    calls = [json.loads(line) for line in stand_in.read_text().splitlines()]
    (_, load, places), (_, adapter, _) = calls
    assert load == {
        "model_name": BASE.source,
        "max_seq_length": 200,
        "dtype": "torch.float32",
        "load_in_4bit": False,
        "revision": None,
        "trust_remote_code": False,
        "use_safetensors": True,
        "use_gradient_checkpointing": "unsloth",
        "random_state": 5,
        "use_exact_model_name": True,
    }
    assert adapter["r"] == 4
    assert adapter["lora_alpha"] == 12
    assert adapter["use_rslora"] is True
    assert adapter["random_state"] == 5
    assert places["UNSLOTH_DISABLE_STATISTICS"] == "1"
    assert not Path(places["UNSLOTH_COMPILE_LOCATION"]).is_relative_to(Path.cwd())


def test_errors_of_the_child_arrive_as_what_they_are(
    tmp_path: Path, stand_in: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = recipe.data.model_copy(update={"rows": 2, "validation_rows": 2})
    none_left = recipe.model_copy(update={"data": data})
    job = Job(BASE, none_left, tmp_path / "a", tmp_path / "steps", "cpu")
    with pytest.raises(InputError, match="none is left to tune on"):
        tune_with_unsloth(job, silent)
    job = Job(BASE, recipe, tmp_path / "a", tmp_path / "steps", "cpu")
    with monkeypatch.context() as change:
        change.setenv("STAND_IN_REFUSES", "1")
        with pytest.raises(StageError, match=r"not yet implemented.*backend: trl does without"):
            tune_with_unsloth(job, silent)
    with monkeypatch.context() as change:
        change.setenv("STAND_IN_DIES", "1")
        with pytest.raises(StageError, match=r"exit code 3.*(?s:.)*last words"):
            tune_with_unsloth(job, silent)
    assert not (tmp_path / "a").exists()


def test_the_child_ends_with_its_parent(tmp_path: Path, stand_in: Path) -> None:
    awake = tmp_path / "awake"
    child = subprocess.Popen(
        [sys.executable, "-m", "medbench.finetune.unsloth_child", str(tmp_path)],
        env=os.environ | {"STAND_IN_SLEEPS": str(awake)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin is not None
    while not awake.exists():
        assert child.poll() is None
    child.stdin.close()
    assert child.wait(timeout=20) == 1
