"""Memory predicted from a config: against what autograd really keeps, and what was measured."""

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig

from medbench.errors import InputError
from medbench.finetune import gpus
from medbench.finetune.memory import (
    Layout,
    largest,
    of,
    precision_of,
    precisions,
    predict,
    rows_that_fit,
)
from medbench.finetune.recipe import Recipe, load_recipe
from medbench.finetune.skeleton import Skeleton, _Live

LLAMA_8B = LlamaConfig(
    vocab_size=128256,
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=32,
    num_attention_heads=32,
    num_key_value_heads=8,
)
SMALL = LlamaConfig(
    vocab_size=64,  # next to no loss, so that the layers are what is compared
    hidden_size=128,
    intermediate_size=448,
    num_hidden_layers=5,
    num_attention_heads=4,
    num_key_value_heads=2,
)


@pytest.fixture(scope="module")
def qlora() -> Recipe:
    return load_recipe("medical-o1-qlora")


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_activations_are_what_a_real_step_keeps(
    qlora: Recipe, precision: str, checkpointing: bool
) -> None:
    recipe = precisions(qlora)[precision].model_copy(
        update={"gradient_checkpointing": checkpointing}
    )
    tokens = 384
    found = predict(SMALL, recipe, Layout(2, tokens, end_to_end=True))

    dtype = getattr(torch, recipe.precision)
    model = AutoModelForCausalLM.from_config(SMALL, dtype=dtype)
    model.requires_grad_(requires_grad=False)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    tuned = get_peft_model(model, recipe.adapter.config()).train()
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    live = _Live([*tuned.parameters(), *tuned.buffers()])
    with live, torch.autocast("cpu", torch.bfloat16, enabled=dtype is torch.bfloat16):
        hidden = model.model(input_ids=torch.zeros(1, tokens, dtype=torch.long)).last_hidden_state
        hidden.float().sum().backward()
    assert found.activations == pytest.approx(live.peak, rel=0.15)


@pytest.mark.parametrize(("precision", "measured"), [("nf4", 7.2e9), ("bf16", 17.8e9)])
def test_plain_trl_was_measured_so(qlora: Recipe, precision: str, measured: float) -> None:
    """Rows of about 660 tokens, two at once and padded, on one H200."""
    found = predict(LLAMA_8B, precisions(qlora)[precision], Layout(2, 1000, end_to_end=False))
    assert found.peak == pytest.approx(measured, rel=0.15)


@pytest.mark.parametrize(
    ("precision", "measured"), [("nf4", 8.96e9), ("bf16", 19.84e9), ("int8", 27.48e9)]
)
def test_a_whole_batch_end_to_end_was_measured_so(
    qlora: Recipe, precision: str, measured: float
) -> None:
    """Eight rows, 5,800 tokens, on one H200 (docs/reference/plan.md)."""
    found = predict(LLAMA_8B, precisions(qlora)[precision], Layout(8, 5800, end_to_end=True))
    assert found.peak == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(("precision", "measured"), [("nf4", 7.60e9), ("bf16", 12.72e9)])
def test_a_base_held_by_two_gpus_was_measured_so(
    qlora: Recipe, precision: str, measured: float
) -> None:
    """Four rows end to end, about 3,230 tokens at most, on each of two H200 (plan.md)."""
    recipe = precisions(qlora)[precision]
    found = of(Skeleton(LLAMA_8B, recipe), recipe, Layout(4, 3230, end_to_end=True), shards=2)
    assert found.peak == pytest.approx(measured, rel=0.1)


def test_more_gpus_hold_less_each_down_to_what_is_whole_at_once(qlora: Recipe) -> None:
    for recipe in (qlora, precisions(qlora)["bf16"]):
        skeleton, layout = Skeleton(LLAMA_8B, recipe), Layout(1, 512, end_to_end=True)
        held = [of(skeleton, recipe, layout, shards=n).weights for n in (1, 2, 8, 1000)]
        assert held == sorted(held, reverse=True)
        assert len(set(held)) == 4
        head = 128256 * 4096 * 2
        assert held[-1] > 2 * head, "the head arrives beside its own copy"


def test_nf4_has_4_127_bits_a_weight_and_leaves_embeddings_and_head_alone(qlora: Recipe) -> None:
    sizes = {name: Skeleton(LLAMA_8B, one).weights for name, one in precisions(qlora).items()}
    linear = 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    rest = 2 * 128256 * 4096 + 65 * 4096
    assert sizes["fp32"] == 4 * (linear + rest)
    assert sizes["bf16"] == 2 * (linear + rest)
    assert sizes["nf4"] == pytest.approx(linear * 4.127 / 8 + 2 * rest, rel=1e-4)
    assert sizes["int8"] == pytest.approx(linear + 2 * rest, rel=2e-3)


def test_an_adapter_costs_float32_twice_and_its_optimizer(qlora: Recipe) -> None:
    layout = Layout(1, 64, end_to_end=True)
    plain = predict(LLAMA_8B, qlora.model_copy(update={"optimizer": "adamw_torch"}), layout)
    eight = predict(LLAMA_8B, qlora, layout)
    count = 41_943_040  # r = 16 on seven projections
    assert plain.adapter == plain.gradients == 4 * count
    assert plain.optimizer == 8 * count
    assert eight.optimizer == pytest.approx(2 * count, rel=0.02)
    assert plain.peak == sum(
        (plain.weights, plain.adapter, plain.gradients, plain.optimizer, plain.activations)
    )


@pytest.mark.parametrize(
    "name", ["medical-o1-ia3", "medical-o1-dora", "medical-o1-rslora", "medical-o1-prefix"]
)
def test_every_kind_of_adapter_is_predicted(name: str) -> None:
    recipe = load_recipe(name)
    found = predict(SMALL, recipe, Layout(2, 64, end_to_end=False))
    config = recipe.adapter.config()
    model = get_peft_model(AutoModelForCausalLM.from_config(SMALL), config)
    assert found.adapter == 4 * model.get_nb_trainable_parameters()[0]
    assert found.activations > 0


def test_checkpointing_and_fewer_rows_need_less(qlora: Recipe) -> None:
    without = qlora.model_copy(update={"gradient_checkpointing": False})
    layout, half = Layout(8, 2048, end_to_end=True), Layout(4, 1024, end_to_end=True)
    with_it = predict(SMALL, qlora, layout).activations
    assert with_it < predict(SMALL, without, layout).activations
    assert predict(SMALL, qlora, half).activations < with_it


def test_as_many_rows_are_taken_as_fit(qlora: Recipe) -> None:
    longest = 512
    needs = {
        rows: predict(SMALL, qlora, Layout(rows, rows * longest, end_to_end=True)).peak
        for rows in (1, 2, 4, 8)
    }
    for rows, peak in needs.items():
        assert rows_that_fit(SMALL, qlora, peak, longest) == rows
    assert rows_that_fit(SMALL, qlora, needs[4] - 1, longest) == 2
    assert rows_that_fit(SMALL, qlora, 0, longest) == 1


def test_what_cannot_be_predicted_is_tried_with_the_whole_batch(qlora: Recipe) -> None:
    unknown = PretrainedConfig()
    with pytest.raises(InputError, match="memory cannot be predicted"):
        Skeleton(unknown, qlora)
    assert rows_that_fit(unknown, qlora, 10**9, 512) == qlora.batch_size


def test_an_adapter_that_fits_nowhere_is_named(qlora: Recipe) -> None:
    wrong = qlora.adapter.model_copy(update={"target_modules": ["nowhere"]})
    with pytest.raises(InputError, match="nowhere"):
        Skeleton(SMALL, qlora.model_copy(update={"adapter": wrong}))


def test_the_config_given_is_left_as_it_is(qlora: Recipe) -> None:
    before = SMALL.to_dict()
    predict(SMALL, qlora, Layout(1, 16, end_to_end=True))
    assert SMALL.to_dict() == before


def test_names_of_precisions(qlora: Recipe) -> None:
    assert list(precisions(qlora)) == ["fp32", "bf16", "int8", "nf4"]
    assert {name: precision_of(one) for name, one in precisions(qlora).items()} == {
        name: name for name in ("fp32", "bf16", "int8", "nf4")
    }
    half = qlora.model_copy(update={"precision": "float16", "quantization": "none"})
    assert precision_of(half) == "fp16"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 2048), min_size=8, max_size=60), st.sampled_from([1, 2, 4, 8]))
def test_the_largest_batch_lies_between_an_average_and_the_longest_rows(
    lengths: list[int], rows: int
) -> None:
    recipe = load_recipe("medical-o1-qlora")
    found = largest(lengths, rows, recipe, end_to_end=True)
    assert found == largest(lengths, rows, recipe, end_to_end=True)
    longest = sorted(lengths)[-rows:]
    assert found.tokens <= sum(longest)
    assert found.tokens >= min(lengths)
    padded = largest(lengths, rows, recipe, end_to_end=False)
    assert padded.longest <= max(lengths)
    assert padded.tokens == rows * padded.longest


def test_a_run_over_all_rows_meets_its_longest(qlora: Recipe) -> None:
    lengths = [10] * 63 + [2000]
    random.Random(1).shuffle(lengths)
    epoch = qlora.model_copy(update={"steps": None, "epochs": 1.0})
    assert largest(lengths, 8, epoch, end_to_end=True).tokens == 2070
    assert largest(lengths, 8, epoch, end_to_end=False).longest == 2000


def test_time_is_operations_over_the_rate(qlora: Recipe) -> None:
    bf16 = precisions(qlora)["bf16"]
    h200 = gpus.find("NVIDIA H200")
    seconds = gpus.step_seconds(Skeleton(LLAMA_8B, bf16), LLAMA_8B, bf16, [657] * 8, 8, h200)
    by_hand = 6 * 7.5e9 * 8 * 657 / (790e12 * gpus.EFFICIENCY["none"])
    assert seconds == pytest.approx(by_hand, rel=0.1)

    def on(name: str, recipe: Recipe, rows: int = 8) -> float:
        skeleton = Skeleton(LLAMA_8B, recipe)
        return gpus.step_seconds(skeleton, LLAMA_8B, recipe, [657] * 8, rows, gpus.find(name))

    assert on("t4", bf16) > on("l4", bf16) > on("a100", bf16) > on("h200", bf16)
    assert on("h200", precisions(qlora)["fp32"]) > on("h200", bf16)
    assert on("h200", qlora, rows=1) > on("h200", qlora)


@pytest.mark.parametrize(
    ("precision", "measured"), [("nf4", 0.69), ("nf4", 0.74), ("bf16", 0.73), ("int8", 1.26)]
)
def test_steps_were_measured_so(qlora: Recipe, precision: str, measured: float) -> None:
    """Seconds on an H200 (two hosts for nf4): 8 rows of 656 tokens on average, laid end to end."""
    recipe = precisions(qlora)[precision]
    h200 = gpus.find("H200")
    found = gpus.step_seconds(Skeleton(LLAMA_8B, recipe), LLAMA_8B, recipe, [656] * 8, 8, h200)
    assert found == pytest.approx(measured, rel=0.15)


def test_an_unknown_gpu_is_answered_with_those_known() -> None:
    with pytest.raises(InputError, match="H200, H100, A100"):
        gpus.find("Voodoo 2")
