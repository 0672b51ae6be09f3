"""Nothing secret gets out, nothing foreign is run."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import load_file

from medbench.errors import InputError
from medbench.harness.notes import notes
from medbench.harness.planning import weights
from medbench.harness.planning.plan import make_plan
from medbench.harness.suite import load_suite

PLANTED = {
    "HF_TOKEN": "hf_plantedPlantedPlantedPlantedPlanted",
    "OPENAI_API_KEY": "sk-planted-0123456789abcdef0123456789",
    "WANDB_API_KEY": "0123456789abcdefplanted0123456789abcdef0",
}


def test_planted_tokens_are_in_nothing_that_a_run_leaves(
    tmp_path: Path, short_recipe: Path
) -> None:
    """Tuned, tracked, scored and reported; one token is even written on the command line."""
    watchers = [name for name in ("tensorboard", "wandb", "mlflow") if find_spec(name)]
    short_recipe.write_text(
        short_recipe.read_text("utf-8").replace("watch: []", f"watch: {watchers}"), "utf-8"
    )
    out = tmp_path / "R"
    settings = [
        f"models.tuned.adapter.recipe={short_recipe}", "tasks=[clinic_text]", "limit=4",
        "latency=null", f"description=Run with {PLANTED['HF_TOKEN']}.",
    ]  # fmt: skip
    done = subprocess.run(
        [
            sys.executable, "-m", "medbench", "run", "--device", "cpu", "--out", str(out),
            *(part for one in settings for part in ("--set", one)),
        ],
        capture_output=True, text=True, env=os.environ | PLANTED, check=True,
    )  # fmt: skip
    contents = {str(path): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for table in out.rglob("*.parquet"):  # they are compressed
        contents[f"{table} as text"] = pd.read_parquet(table).to_json().encode()
    contents["terminal"] = (done.stdout + done.stderr).encode()
    assert len(contents) > 15
    for where, content in contents.items():
        for name, token in PLANTED.items():
            assert token.encode() not in content, f"{name} in {where}"
    assert "[secret]" in json.loads(contents[f"{out}/manifest.json"])["command"]


def test_a_token_in_an_error_is_not_shown(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "medbench", "run", "--suite", PLANTED["HF_TOKEN"]],
        capture_output=True, text=True, env=os.environ | PLANTED, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--suite [secret]: no built-in suite" in done.stderr
    assert PLANTED["HF_TOKEN"] not in done.stdout + done.stderr


def test_pickled_weights_are_converted_by_the_command_that_the_error_gives(
    tmp_path: Path, clinic: Path
) -> None:
    model = shutil.copytree(clinic, tmp_path / "m")
    tensors = load_file(model / "model.safetensors")
    torch.save(tensors, model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"pytorch_model.bin is a pickle") as caught:
        weights.check_model("models.base", model)
    command = str(caught.value).partition("Convert it: ")[2]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", command], env=environment, check=True, capture_output=True)
    weights.check_model("models.base", Path(f"{model}-safe"))
    made = load_file(tmp_path / "m-safe" / "model.safetensors")
    assert all(torch.equal(made[name], tensors[name]) for name in made)
    assert set(made) >= {name for name in tensors if name != "lm_head.weight"}


def test_a_pickled_adapter_is_converted_by_the_command_that_the_error_gives(
    tmp_path: Path,
) -> None:
    adapter = tmp_path / "a"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    torch.save({"lora": torch.ones(2, 3)}, adapter / "adapter_model.bin")
    with pytest.raises(InputError, match=r"adapter_model.bin is a pickle") as caught:
        weights.check_adapter("models.tuned.adapter.path", adapter)
    command = str(caught.value).partition("Convert it: ")[2]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    subprocess.run(["bash", "-c", command], env=environment, check=True, capture_output=True)
    weights.check_adapter("models.tuned.adapter.path", adapter)
    assert load_file(adapter / "adapter_model.safetensors")["lora"].shape == (2, 3)


def test_code_of_a_model_is_trusted_only_by_the_suite_and_the_report_says_so(
    tmp_path: Path, clinic: Path
) -> None:
    model = shutil.copytree(clinic, tmp_path / "m")
    config = json.loads((model / "config.json").read_text("utf-8"))
    config |= {"model_type": "evil", "auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    (model / "config.json").write_text(json.dumps(config), "utf-8")
    flags: dict[str, Any] = {
        "models": "base",
        "tasks": "clinic_text",
        "device": "cpu",
        "command": "test",
    }

    def plan(*more: str):  # type: ignore[no-untyped-def]
        suite = load_suite("quickstart", [f"models.base.pretrained={model}", "latency=null", *more])
        return make_plan(suite, **flags)

    with pytest.raises(InputError, match=r"evil.Model.*models.base.trust_remote_code: true"):
        plan()
    trusting = plan("models.base.trust_remote_code=true")
    assert any("code that comes with" in note for note in notes(trusting))
    assert trusting.suite.model_dump()["models"]["base"]["trust_remote_code"] is True


def test_the_workflows_may_read_and_no_more() -> None:
    folder = Path(__file__).parents[1] / ".github" / "workflows"
    for path in folder.glob("*.yml"):
        assert yaml.safe_load(path.read_text("utf-8"))["permissions"] == {"contents": "read"}
