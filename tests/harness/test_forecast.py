"""`medbench plan`: forecasts of a suite, without weights."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from medbench.cli import app
from medbench.errors import InputError
from medbench.finetune import memory
from medbench.finetune.recipe import load_recipe
from medbench.harness.planning import forecast
from medbench.harness.suite import EMBEDDED, ModelSpec
from medbench.reports.sections.memory import read_forecast

CLINIC = ModelSpec(pretrained="embedded:clinic")


@pytest.fixture
def weightless(tmp_path: Path) -> Path:
    """The embedded checkpoint without its weights."""
    for path in EMBEDDED["embedded:clinic"].iterdir():
        if path.suffix == ".json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_a_plan_needs_no_weights(weightless: Path) -> None:
    assert not list(weightless.glob("*.safetensors"))
    command = ["plan", "--gpu", "l4", "--format", "json", "--set"]
    result = CliRunner().invoke(app, [*command, f"models.base.pretrained={weightless}"])
    assert result.exit_code == 0, result.output
    [one] = json.loads(result.output)
    assert one["model"] == "tuned"
    assert list(one["precisions"]) == ["fp32", "bf16", "int8", "nf4"]
    assert one["gpu"]["name"] == "L4"
    for line in one["precisions"].values():
        parts = ("weights", "adapter", "gradients", "optimizer", "activations")
        assert line["peak"] == sum(line[part] for part in parts)
        assert line["fits"] == {"24": 8, "80": 8, "141": 8}
        assert line["seconds"] == pytest.approx(one["steps"] * line["step_seconds"])


def test_lengths_are_those_of_the_rows(weightless: Path) -> None:
    recipe = load_recipe("clinic")
    found = forecast.row_lengths(CLINIC, recipe)
    assert found.rows == len(found.tokens)
    assert max(found.tokens) < recipe.max_length
    tokenizer = AutoTokenizer.from_pretrained(CLINIC.source)
    from medbench.finetune.dataset import examples

    first = examples(recipe, recipe.seed)[0]
    text = tokenizer(first.prompt)["input_ids"]
    text += tokenizer(first.completion, add_special_tokens=False)["input_ids"]
    assert found.tokens[0] in (len(text), len(text) + 1)


def test_rows_that_cannot_be_read_are_taken_as_long_as_may_be() -> None:
    recipe = load_recipe("clinic")
    gone = recipe.model_copy(
        update={"data": recipe.data.model_copy(update={"source": "gone.jsonl", "rows": 40})}
    )
    found = forecast.row_lengths(CLINIC, gone)
    assert set(found.tokens) == {recipe.max_length}
    assert found.rows == 40
    assert "gone.jsonl" in found.source


def test_rows_without_a_tokenizer_say_so(tmp_path: Path) -> None:
    found = forecast.row_lengths(ModelSpec(pretrained=str(tmp_path)), load_recipe("clinic"))
    assert found.source == (f"max_length for every row: no tokenizer could be read from {tmp_path}")


def test_a_named_gpu_is_among_those_tried_and_gets_no_time_where_nothing_fits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = load_recipe("clinic")
    on_t4 = forecast.of_tuning(CLINIC, recipe, gpu="T4")
    assert list(on_t4["precisions"]["nf4"]["fits"]) == ["16", "24", "80", "141"]
    assert on_t4["end_to_end"] is False
    assert on_t4["precisions"]["nf4"]["step_seconds"] > 0
    monkeypatch.setattr(memory, "CONTEXT", 16 * 10**9)
    too_small = forecast.of_tuning(CLINIC, recipe, gpu="T4")["precisions"]["nf4"]
    assert too_small["fits"] == {"16": 0, "24": 8, "80": 8, "141": 8}
    assert too_small["step_seconds"] is too_small["seconds"] is None


def test_processes_share_a_step() -> None:
    recipe = load_recipe("clinic")
    one, two = (
        forecast.of_tuning(
            CLINIC, recipe, gpu="H200", ran={"rows_at_once": 4, "processes": processes}
        )["precisions"]["nf4"]["step_seconds"]
        for processes in (1, 2)
    )
    assert two == one / 2


def test_a_base_held_by_several_gpus_is_forecast_for_each(weightless: Path) -> None:
    spec, recipe = ModelSpec(pretrained=str(weightless)), load_recipe("clinic")
    whole, half = (forecast.of_tuning(spec, recipe, shards=n) for n in (1, 2))
    assert (whole["shards"], half["shards"]) == (1, 2)
    assert half["rows_at_once"] == whole["rows_at_once"] // 2
    assert "int8" in whole["precisions"]
    assert "int8" not in half["precisions"], "it cannot be sharded"
    ran = {"rows_at_once": 4, "processes": 2, "sharded": True}
    assert forecast.of_tuning(spec, recipe, ran=ran)["shards"] == 2
    with pytest.raises(InputError, match="cannot be shared evenly by 3"):
        forecast.of_tuning(spec, recipe, shards=3)
    shown = read_forecast("tuned", half)
    assert any("2 GPUs hold the base between them" in text for text in shown.facts)


def test_a_missing_config_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config\.json cannot be read.*local folder"):
        forecast.base_config(ModelSpec(pretrained=str(tmp_path)))
    with pytest.raises(InputError, match=r"cannot be read \(no such folder\)"):
        forecast.base_config(ModelSpec(pretrained=str(tmp_path / "gone")))


def test_a_batch_that_does_not_fit_whole_fits_in_parts() -> None:
    from transformers import LlamaConfig

    from medbench.finetune.memory import Layout, precisions
    from medbench.finetune.skeleton import Skeleton

    recipe = precisions(load_recipe("medical-o1-qlora"))["bf16"]
    config = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
        num_attention_heads=32, num_key_value_heads=8,
    )  # fmt: skip
    skeleton, layout = Skeleton(config, recipe), Layout(8, 8 * 2048, end_to_end=True)
    fits = [forecast._most_rows(skeleton, recipe, layout, size * 10**9) for size in (16, 24, 80)]
    assert fits[0] == 0
    assert 0 < fits[1] < 8
    assert fits[2] == 8


def test_a_run_keeps_what_was_predicted_for_how_it_ran() -> None:
    recipe = load_recipe("clinic")
    detail = {"rows_at_once": 2, "peak_bytes": None}
    kept = forecast.beside(detail, CLINIC, recipe, ())
    assert kept["rows_at_once"] == kept["predicted"]["rows_at_once"] == 2
    json.dumps(kept, allow_nan=False)


def test_a_fault_of_the_forecast_costs_no_tuning(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object) -> None:
        raise IndexError("no such layer")

    monkeypatch.setattr(memory, "of", fault)
    kept = forecast.beside({"loss_last": 1.0}, CLINIC, load_recipe("clinic"), ())
    assert kept["predicted"] is None
    assert kept["not_predicted"] == "IndexError('no such layer')"


def test_unsloth_is_not_predicted() -> None:
    kept = forecast.beside({"backend": "unsloth"}, CLINIC, load_recipe("clinic"), ())
    assert kept["predicted"] is None
    assert "Unsloth" in kept["not_predicted"]


def test_a_run_goes_on_where_nothing_can_be_predicted(tmp_path: Path) -> None:
    spec = ModelSpec(pretrained=str(tmp_path))
    kept = forecast.beside({"loss_last": 1.0}, spec, load_recipe("clinic"), ())
    assert kept["loss_last"] == 1.0
    assert kept["predicted"] is None
    assert "config.json" in kept["not_predicted"]


@pytest.mark.parametrize("form", ["terminal", "md"])
def test_tables_fit_and_say_their_assumption(form: str) -> None:
    result = CliRunner().invoke(app, ["plan", "--gpu", "h200", "--format", form])
    assert result.exit_code == 0, result.output
    assert "an assumption" in " ".join(result.output.split())
    assert "71\u00a0% less" in result.output.replace("\n", " ")
    if form == "terminal":
        assert max(map(len, result.output.splitlines())) <= 80


def test_a_suite_without_a_recipe_has_nothing_to_plan() -> None:
    result = CliRunner().invoke(app, ["plan", "--models", "base"])
    assert isinstance(result.exception, InputError)
