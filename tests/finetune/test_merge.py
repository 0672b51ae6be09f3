"""Merging: the merged checkpoint answers as base and adapter do together."""

import json
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, LoraModel, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from medbench.errors import InputError
from medbench.finetune.merge import RECORD, merge_adapter
from medbench.harness.suite import ModelSpec

WORDS = ["</s>", "fever", "cough", "rash", "pain"]


def save_base(folder: Path, *, hidden: int = 32, dtype: torch.dtype = torch.float32) -> Path:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=hidden,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="</s>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="</s>").save_pretrained(folder)
    return folder


def save_adapter(base: Path, folder: Path) -> Path:
    torch.manual_seed(5)
    config = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules=["q_proj", "v_proj", "down_proj"],
        init_lora_weights=False,  # so that it changes something without being trained
        task_type="CAUSAL_LM",
    )
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    return folder


def spec(folder: Path) -> ModelSpec:
    return ModelSpec(pretrained=str(folder))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_base(tmp_path_factory.mktemp("merge") / "base")


@pytest.fixture(scope="module")
def adapter(base: Path) -> Path:
    return save_adapter(base, base.parent / "adapter")


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(torch.tensor([[1, 2, 3, 4, 2, 1]])).logits


def test_merged_equals_base_with_adapter(base: Path, adapter: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    merge_adapter(spec(base), adapter, merged)

    plain = AutoModelForCausalLM.from_pretrained(base)
    before = logits(plain)
    expected = logits(PeftModel.from_pretrained(plain, adapter).eval())
    actual = logits(AutoModelForCausalLM.from_pretrained(merged))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert (expected - before).abs().max() > 0.01  # the adapter does something at all


def test_merged_folder_is_a_plain_safetensors_checkpoint(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    out = tmp_path / "merged"
    out.mkdir()
    (out / "old.txt").write_text("from an earlier run")

    merge_adapter(spec(base), adapter, out)

    names = {path.name for path in out.iterdir()}
    assert "config.json" in names
    weights = {path for path in out.iterdir() if path.suffix not in {".json", ".jinja"}}
    assert {path.name for path in weights} == {"model.safetensors"}
    assert "adapter_config.json" not in names
    assert AutoTokenizer.from_pretrained(out)("fever rash")["input_ids"] == [1, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]  # no draft left


def test_dtype_is_the_base_own_unless_asked(tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", dtype=torch.bfloat16)
    adapter = save_adapter(base, tmp_path / "adapter")

    own, wide = tmp_path / "own", tmp_path / "wide"
    merge_adapter(spec(base), adapter, own)
    merge_adapter(spec(base), adapter, wide, dtype="float32")

    assert {t.dtype for t in load_file(own / "model.safetensors").values()} == {torch.bfloat16}
    assert {t.dtype for t in load_file(wide / "model.safetensors").values()} == {torch.float32}


def test_nothing_is_printed(
    base: Path, adapter: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    merge_adapter(spec(base), adapter, tmp_path / "merged")

    assert capfd.readouterr() == ("", "")


def test_quantised_base_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    four_bit = tmp_path / "four-bit"
    four_bit.mkdir()
    config = (base / "config.json").read_text().rstrip().removesuffix("}")
    quantization = '{"quant_method": "bitsandbytes", "load_in_4bit": true}'
    (four_bit / "config.json").write_text(f'{config}, "quantization_config": {quantization}}}')

    with pytest.raises(InputError, match=r"four-bit: its weights are quantised.*full-precision"):
        merge_adapter(spec(four_bit), adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_missing_base_is_named(adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere.*cannot be read"):
        merge_adapter(spec(tmp_path / "nowhere"), adapter, tmp_path / "merged")


def test_folder_without_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"adapter_config\.json: no such file"):
        merge_adapter(spec(base), base, tmp_path / "merged")


def test_adapter_of_another_base_is_refused(adapter: Path, tmp_path: Path) -> None:
    wider = save_base(tmp_path / "wider", hidden=64)

    with pytest.raises(InputError, match="does not fit base"):
        merge_adapter(spec(wider), adapter, tmp_path / "merged")


def test_incomplete_adapter_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    weights.pop(next(name for name in weights if "down_proj" in name))
    save_file(weights, adapter / "adapter_model.safetensors")

    with pytest.raises(InputError, match="missing adapter keys"):
        merge_adapter(spec(base), adapter, tmp_path / "merged")


def test_parity_is_measured_and_kept(base: Path, adapter: Path, tmp_path: Path) -> None:
    parity = merge_adapter(spec(base), adapter, tmp_path / "merged")
    record = json.loads((tmp_path / "merged" / RECORD).read_text())
    assert record["parity"] == vars(parity)
    assert 0 < parity.max_rel < 1e-5
    assert parity.greedy_matched == parity.greedy_total > 0
    assert record["base"] == "base"  # not where it lay


def test_parity_sees_weights_that_changed(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = LoraModel.merge_and_unload

    def broken(self: LoraModel, **how: object) -> torch.nn.Module:
        model = whole(self, **how)
        with torch.no_grad():
            model.lm_head.weight.mul_(-1)
        return model

    monkeypatch.setattr(LoraModel, "merge_and_unload", broken)
    parity = merge_adapter(spec(base), adapter, tmp_path / "merged")
    assert parity.max_rel > 0.1
    assert parity.greedy_matched < parity.greedy_total


def test_weights_that_are_no_numbers_are_refused(base: Path, tmp_path: Path) -> None:
    adapter = save_adapter(base, tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = float("nan")
    save_file(weights, adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match="NaNs detected in the merged weights"):
        merge_adapter(spec(base), adapter, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_a_pickled_adapter_is_not_loaded(base: Path, adapter: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    shutil.copy(adapter / "adapter_config.json", pickled)
    torch.save(load_file(adapter / "adapter_model.safetensors"), pickled / "adapter_model.bin")
    with pytest.raises(InputError, match="is a pickle, which can run any code"):
        merge_adapter(spec(base), pickled, tmp_path / "merged")


def test_a_prefix_has_nothing_to_merge(base: Path, tmp_path: Path) -> None:
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    model.save_pretrained(tmp_path / "prefix")
    with pytest.raises(InputError, match=r"PREFIX_TUNING .* nothing to merge into"):
        merge_adapter(spec(base), tmp_path / "prefix", tmp_path / "merged")


def test_a_full_disk_is_said_before_anything_is_written(
    base: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10, 9, 1))
    with pytest.raises(InputError, match="make room or choose another disk"):
        merge_adapter(spec(base), adapter, tmp_path / "new" / "merged")
    assert not (tmp_path / "new").exists()


def test_pickled_weights_are_not_loaded(base: Path, adapter: Path, tmp_path: Path) -> None:
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for path in base.iterdir():
        if path.suffix == ".json":
            (pickled / path.name).write_bytes(path.read_bytes())
    torch.save(load_file(base / "model.safetensors"), pickled / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"expected \*\.safetensors"):
        merge_adapter(spec(pickled), adapter, tmp_path / "merged")


def test_a_quantised_base_is_dequantised_only_when_asked(
    base: Path, adapter: Path, tmp_path: Path
) -> None:
    from transformers import BitsAndBytesConfig

    four_bit = tmp_path / "four-bit"
    held = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    AutoModelForCausalLM.from_pretrained(base, quantization_config=held).save_pretrained(four_bit)
    AutoTokenizer.from_pretrained(base).save_pretrained(four_bit)
    with pytest.raises(InputError, match="--from-quantized"):
        merge_adapter(spec(four_bit), adapter, tmp_path / "merged")
    merge_adapter(spec(four_bit), adapter, tmp_path / "merged", from_quantized=True)
    assert json.loads((tmp_path / "merged" / RECORD).read_text())["dequantized"] is True
    assert "quantization_config" not in (tmp_path / "merged" / "config.json").read_text()
    exact = load_file(base / "model.safetensors")["model.layers.0.self_attn.k_proj.weight"]
    rounded = load_file(tmp_path / "merged" / "model.safetensors")
    assert not torch.equal(exact, rounded["model.layers.0.self_attn.k_proj.weight"].float())
