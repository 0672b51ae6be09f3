"""Tuning with the real libraries: what is trained, on what, and what is saved."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from medbench.errors import StageError
from medbench.finetune.dataset import prepare
from medbench.finetune.layout import Fit
from medbench.finetune.recipe import Recipe, load_recipe
from medbench.finetune.train import Job, tune
from medbench.finetune.trainer import Trainer, Work, _settings
from medbench.harness.models.load import load_base
from medbench.harness.progress import silent
from medbench.harness.suite import ModelSpec

BASE = ModelSpec(pretrained="embedded:clinic")


def short(path: Path, **change: object) -> Recipe:
    return load_recipe(str(path)).model_copy(update=change)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_an_adapter_is_saved_with_its_recipe_losses_and_data(
    tmp_path: Path, short_recipe: Path, quantization: str
) -> None:
    heard: list[tuple[int, int, str]] = []
    data = load_recipe(str(short_recipe)).data.model_copy(update={"rows": 8})
    recipe = short(short_recipe, quantization=quantization, data=data, steps=12, warmup_steps=0)
    out = tmp_path / "adapter"
    detail = tune(
        Job(BASE, recipe, out, tmp_path / "steps", "cpu"),
        lambda done, total, note: heard.append((done, total, note)),
    )
    assert [item[:2] for item in heard] == [(step, 12) for step in range(1, 13)]
    assert heard[-1][2].startswith("loss ")
    assert detail["rows"] == 8
    assert detail["loss_last"] < 0.8 * detail["loss_first"]
    weights = load_file(out / "adapter_model.safetensors")
    assert any(tensor.abs().max() > 0 for name, tensor in weights.items() if "lora_B" in name)
    assert not list(out.glob("*.bin"))
    assert load_recipe(str(out / "recipe.yaml")) == recipe
    assert json.loads((out / "data.json").read_text())["sha256"] == detail["data_sha256"]
    assert (out / "losses.csv").read_text().startswith("step,epoch,loss,")


def test_a_seed_is_a_seed(tmp_path: Path, short_recipe: Path) -> None:
    saved = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        tune(
            Job(BASE, short(short_recipe, seed=seed), tmp_path / name, tmp_path / "steps", "cpu"),
            silent,
        )
        saved.append(load_file(tmp_path / name / "adapter_model.safetensors"))
    same, other = saved[1], saved[2]
    assert all(torch.equal(saved[0][key], same[key]) for key in same)
    assert not all(torch.equal(saved[0][key], other[key]) for key in other)


def test_gradients_over_nf4_survive_an_evaluation() -> None:
    """bitsandbytes repacks 4-bit weights in eval mode on some processors; gradients must hold."""
    model, tokenizer = load_base(BASE.model_copy(update={"quantization": "nf4"}), "cpu")
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    tuned = get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )
    ids = tokenizer("Question: which drug?\nAnswer: none", return_tensors="pt")["input_ids"]

    def gradient() -> torch.Tensor:
        tuned.train()
        tuned.zero_grad()
        tuned(input_ids=ids, labels=ids).loss.backward()
        return torch.cat([p.grad.flatten() for p in tuned.parameters() if p.grad is not None])

    before = gradient()
    tuned.eval()
    with torch.no_grad():
        tuned(input_ids=ids)
    assert torch.nn.functional.cosine_similarity(before, gradient(), dim=0) > 0.999


def test_the_prompt_carries_no_loss(tmp_path: Path, short_recipe: Path) -> None:
    """Rows whose completions are alike give the same loss whatever their long prompts say."""
    losses = []
    for word in ("fever", "cough"):
        data = tmp_path / f"{word}.jsonl"
        row = {"Question": "", "Complex_CoT": "same", "Response": "same"}
        data.write_text(json.dumps(row) + "\n")
        recipe = short(short_recipe, steps=1, logging_steps=1, quantization="none")
        mine = recipe.model_copy(
            update={
                "data": recipe.data.model_copy(update={"source": str(data)}),
                "prompt": f"{word} " * 3,
                "completion": "x",
            }
        )
        out = tmp_path / word
        losses.append(tune(Job(BASE, mine, out, tmp_path / "steps", "cpu"), silent)["loss_first"])
    model, tokenizer = load_base(BASE, "cpu")
    for word, loss in zip(("fever", "cough"), losses, strict=True):
        prompt = tokenizer(f"{word} " * 3)["input_ids"]
        whole = tokenizer(f"{word} " * 3 + "x" + tokenizer.eos_token)["input_ids"]
        ids = torch.tensor([whole])
        labels = ids.clone()
        labels[:, : len(prompt)] = -100
        with torch.no_grad():
            assert loss == pytest.approx(model(input_ids=ids, labels=labels).loss.item(), rel=1e-3)


def test_a_loss_that_is_no_number_stops_the_stage(tmp_path: Path, short_recipe: Path) -> None:
    recipe = short(short_recipe, learning_rate=1e30, steps=8, logging_steps=1, quantization="none")
    with pytest.raises(StageError, match="lower the recipe's learning_rate"):
        tune(Job(BASE, recipe, tmp_path / "adapter", tmp_path / "steps", "cpu"), silent)
    assert not (tmp_path / "adapter").exists()


def test_target_modules_that_match_nothing(tmp_path: Path, short_recipe: Path) -> None:
    recipe = short(short_recipe)
    wrong = recipe.adapter.model_copy(update={"target_modules": ["nowhere"]})
    changed = recipe.model_copy(update={"adapter": wrong})
    with pytest.raises(StageError, match=r"adapter\.target_modules"):
        tune(Job(BASE, changed, tmp_path / "a", tmp_path / "steps", "cpu"), silent)


def test_the_saved_adapter_is_the_trained_one(tmp_path: Path, short_recipe: Path) -> None:
    tune(Job(BASE, short(short_recipe), tmp_path / "adapter", tmp_path / "steps", "cpu"), silent)
    model, tokenizer = load_base(BASE, "cpu")
    ids = tokenizer("Question: which drug?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        before = model(input_ids=ids).logits
        tuned = PeftModel.from_pretrained(model, tmp_path / "adapter")
        assert not torch.allclose(before, tuned(input_ids=ids).logits)
        with tuned.disable_adapter():
            assert torch.equal(before, tuned(input_ids=ids).logits)


def test_validation_loss_is_of_all_tokens_however_rows_are_laid_out(
    tmp_path: Path, short_recipe: Path
) -> None:
    data = load_recipe(str(short_recipe)).data.model_copy(update={"rows": 17, "validation_rows": 5})
    found = []
    for rows in (1, 4):
        recipe = short(
            short_recipe, data=data, quantization="none", batch_size=4, micro_batch_size=rows,
            steps=2, logging_steps=2,
        )  # fmt: skip
        out = tmp_path / str(rows)
        tune(Job(BASE, recipe, out, tmp_path / "steps", "cpu"), silent)
        found.append(pd.read_csv(out / "losses.csv")["validation_loss"].iloc[-1])
    model, tokenizer = load_base(BASE, "cpu")
    tuned = PeftModel.from_pretrained(model, tmp_path / "1").eval()
    nats, tokens = 0.0, 0
    for row in prepare(recipe, tokenizer).validation:
        labels = torch.tensor([row["labels"]])
        count = int((labels != -100).sum())
        with torch.no_grad():
            loss = tuned(input_ids=torch.tensor([row["input_ids"]]), labels=labels).loss
        nats, tokens = nats + count * loss.item(), tokens + count
    assert found == pytest.approx([nats / tokens] * 2, rel=1e-5)


def test_a_step_is_validated_once(
    tmp_path: Path, short_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = load_recipe(str(short_recipe)).data.model_copy(update={"rows": 21, "validation_rows": 5})
    recipe = short(short_recipe, data=data, quantization="none", batch_size=8, steps=4)
    steps, evaluate = [], Trainer.evaluate

    def counted(self: Trainer) -> dict[str, float]:
        steps.append(self.state.global_step)
        return evaluate(self)

    monkeypatch.setattr(Trainer, "evaluate", lambda self, *_, **__: counted(self))
    tune(Job(BASE, recipe, tmp_path / "a", tmp_path / "steps", "cpu"), silent)
    assert steps == [2, 4], "though an epoch ends with each of these steps"


def test_the_log_says_how_fast_it_went(tmp_path: Path, short_recipe: Path) -> None:
    recipe = short(short_recipe, quantization="none")
    tune(Job(BASE, recipe, tmp_path / "a", tmp_path / "steps", "cpu"), silent)
    table = pd.read_csv(tmp_path / "a" / "losses.csv")
    _, tokenizer = load_base(BASE, "cpu")
    lengths = [len(row["input_ids"]) for row in prepare(recipe, tokenizer).train]
    tokens = table["tokens_per_second"] * table["seconds_per_step"]
    assert tokens.between(8 * min(lengths), 8 * max(lengths)).all(), "of 8 rows, without padding"


def test_one_process_trains_on_one_gpu_though_it_sees_two(
    tmp_path: Path, short_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    recipe = short(short_recipe, precision="float32", gradient_checkpointing=False)
    fit = Fit(rows=2, accumulation=4, processes=1, end_to_end=False)
    settings = _settings(Work(recipe, [], [], fit, "cuda", tmp_path, "tuned", silent))
    assert settings.train_batch_size == 2
    assert settings.n_gpu == 1
