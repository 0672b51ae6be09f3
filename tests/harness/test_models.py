"""One base in memory, adapters on and off: the base must answer as if nothing were attached."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from medbench.errors import InputError, StageError
from medbench.harness.models.device import resolve_device
from medbench.harness.models.load import ScoringPool, load_base
from medbench.harness.suite import AdapterSpec, ModelSpec

SPECS = {
    "base": ModelSpec(pretrained="embedded:clinic"),
    "a": ModelSpec(base="base", adapter=AdapterSpec(path="a")),
    "b": ModelSpec(base="base", adapter=AdapterSpec(path="b")),
}


@pytest.fixture
def adapters(tmp_path: Path, clinic: Path) -> dict[str, Path]:
    for seed, name in enumerate("ab"):
        torch.manual_seed(seed)
        config = LoraConfig(
            r=4,
            target_modules=["q_proj", "down_proj"],
            init_lora_weights=False,
            task_type="CAUSAL_LM",
        )
        model = AutoModelForCausalLM.from_pretrained(clinic)
        get_peft_model(model, config).save_pretrained(tmp_path / name)
    return {name: tmp_path / name for name in "ab"}


def logits(pool: ScoringPool, name: str) -> torch.Tensor:
    with pool.use(name) as lm, torch.no_grad():
        ids = lm.tokenizer("Question: which drug?\n", return_tensors="pt")["input_ids"]
        found: torch.Tensor = lm.model(input_ids=ids).logits
        return found


def test_base_scores_do_not_know_of_adapters(adapters: dict[str, Path]) -> None:
    pool = ScoringPool(SPECS, adapters, "cpu")
    before = logits(pool, "base")
    a, b = logits(pool, "a"), logits(pool, "b")
    assert not torch.allclose(a, before)
    assert not torch.allclose(a, b)
    assert torch.equal(logits(pool, "base"), before)
    assert torch.equal(logits(pool, "a"), a)
    fresh, _ = load_base(SPECS["base"], "cpu")
    assert {p.dtype for p in fresh.parameters()} == {torch.float32}


def test_every_adapter_is_known_to_change_something(adapters: dict[str, Path]) -> None:
    pool = ScoringPool(SPECS, adapters, "cpu")
    logits(pool, "base")
    assert pool.changes == {}
    logits(pool, "a")
    logits(pool, "b")
    assert list(pool.changes) == ["a", "b"]
    assert all(change > 1e-3 for change in pool.changes.values())


def test_an_adapter_that_does_nothing_is_refused(tmp_path: Path, clinic: Path) -> None:
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")  # lora_B is zero
    get_peft_model(AutoModelForCausalLM.from_pretrained(clinic), config).save_pretrained(tmp_path)
    pool = ScoringPool(SPECS, {"a": tmp_path}, "cpu")
    with pytest.raises(StageError, match="changes nothing"), pool.use("a"):
        pass


def test_a_quantised_base_is_quantised() -> None:
    import bitsandbytes

    model, _ = load_base(SPECS["base"].model_copy(update={"quantization": "nf4"}), "cpu")
    layers = [m for m in model.modules() if isinstance(m, bitsandbytes.nn.Linear4bit)]
    assert len(layers) == 7 * model.config.num_hidden_layers
    assert all(layer.weight.quant_type == "nf4" for layer in layers)


def test_an_adapter_of_another_size_is_named(adapters: dict[str, Path], tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    other = get_peft_model(
        LlamaForCausalLM(config), LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    )
    other.save_pretrained(tmp_path / "other")
    pool = ScoringPool(SPECS, {"a": tmp_path / "other"}, "cpu")
    with (
        pytest.raises(StageError, match=r"was made for another base.*hidden size 128"),
        pool.use("a"),
    ):
        pass


def test_pickled_weights_are_refused(tmp_path: Path, clinic: Path) -> None:
    for file in clinic.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(StageError, match="safetensors"):
        load_base(ModelSpec(pretrained=str(tmp_path)), "cpu")


def test_devices() -> None:
    assert resolve_device("cpu") == "cpu"
    with pytest.raises(InputError, match="auto, cpu, cuda"):
        resolve_device("tpu")
    if not torch.cuda.is_available():
        assert resolve_device("auto") == "cpu"
        with pytest.raises(InputError, match="sees no GPU"):
            resolve_device("cuda")
