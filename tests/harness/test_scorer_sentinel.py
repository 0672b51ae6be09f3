"""Adapters that do nothing, or were made for another base, are told apart from those that work."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from medbench.errors import StageError
from medbench.harness.scorer.sentinel import PROMPTS, check_adapter, sentinel


def lora(**options: Any) -> LoraConfig:
    settings: dict[str, Any] = {"r": 4, "target_modules": ["q_proj", "down_proj"]} | options
    return LoraConfig(task_type="CAUSAL_LM", **settings)


def base(clinic: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(clinic)


@pytest.fixture
def adapter(tmp_path: Path, clinic: Path) -> Path:
    torch.manual_seed(0)
    get_peft_model(base(clinic), lora(init_lora_weights=False)).save_pretrained(tmp_path / "a")
    return tmp_path / "a"


def test_what_an_adapter_changes_is_measured(clinic: Path) -> None:
    torch.manual_seed(0)
    model = get_peft_model(base(clinic), lora(init_lora_weights=False), adapter_name="one")
    model.add_adapter("two", lora(init_lora_weights=False))
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(clinic)
    changes = sentinel(model, tokenizer, ["one", "two"])
    assert list(changes) == ["one", "two"]
    assert model.active_adapter == "one"
    model.set_adapter("two")
    largest = 0.0
    for prompt in PROMPTS:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            tuned = model(ids).logits.log_softmax(-1)
            with model.disable_adapter():
                largest = max(largest, (tuned - model(ids).logits.log_softmax(-1)).abs().max())
    assert changes["two"] == pytest.approx(float(largest))


def test_an_adapter_that_changes_nothing_is_an_error(clinic: Path) -> None:
    model = get_peft_model(base(clinic), lora(init_lora_weights=False), adapter_name="one")
    model.add_adapter("idle", lora())  # B starts at zero
    tokenizer = AutoTokenizer.from_pretrained(clinic)
    with pytest.raises(StageError, match="adapter 'idle' changes nothing"):
        sentinel(model.eval(), tokenizer, ["one", "idle"])


def test_a_damaged_adapter_is_an_error(clinic: Path) -> None:
    model = get_peft_model(base(clinic), lora(init_lora_weights=False), adapter_name="one")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.fill_(float("nan"))
    with pytest.raises(StageError, match="adapter 'one' answers with NaN"):
        sentinel(model.eval(), AutoTokenizer.from_pretrained(clinic), ["one"])


def test_the_right_base_is_accepted(clinic: Path, adapter: Path) -> None:
    check_adapter(base(clinic), adapter)
    check_adapter(PeftModel.from_pretrained(base(clinic), adapter), adapter)


def other(**changes: int) -> Any:
    settings: dict[str, int] = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 2,
    } | changes  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(**settings))


def test_another_hidden_size_is_named(adapter: Path) -> None:
    with pytest.raises(StageError, match=r"is \d+ wide, where the base has \d+ \(hidden size 32\)"):
        check_adapter(other(num_hidden_layers=8), adapter)


def test_modules_that_the_base_lacks_are_counted(adapter: Path, clinic: Path) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    renamed = {key.replace("q_proj", "query"): value for key, value in weights.items()}
    save_file(renamed, adapter / "adapter_model.safetensors")
    with pytest.raises(StageError, match=rf"{len(weights) // 2} of its {len(weights)} matrices"):
        check_adapter(base(clinic), adapter)


def test_another_vocabulary_is_named(tmp_path: Path) -> None:
    model = get_peft_model(other(vocab_size=72), lora(modules_to_save=["lm_head"]))
    model.save_pretrained(tmp_path)
    with pytest.raises(StageError, match="vocabulary 72, where the base has 64"):
        check_adapter(other(), tmp_path)


@pytest.mark.parametrize(
    ("made_for", "name", "same"),
    [
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B", True),
        ("unsloth/Meta-Llama-3.1-8B-bnb-4bit", "meta-llama/Llama-3.1-8B", True),
        ("Qwen/Qwen2-7B", "meta-llama/Llama-3.1-8B", False),
        ("/data/llama", "meta-llama/Llama-3.1-8B", True),
        (None, "meta-llama/Llama-3.1-8B", True),
    ],
)
def test_names_of_the_hub_are_compared(
    tmp_path: Path, made_for: str | None, name: str, same: bool
) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": made_for}))
    model = other()
    model.config._name_or_path = name
    if same:
        check_adapter(model, tmp_path)
    else:
        with pytest.raises(StageError, match="names 'Qwen/Qwen2-7B'"):
            check_adapter(model, tmp_path)


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"adapter_config\.json cannot be read"):
        check_adapter(other(), tmp_path)
