from pathlib import Path

import pytest

from medbench.errors import InputError
from medbench.harness.suite import builtin_suites, load_suite, select


@pytest.mark.parametrize("name", builtin_suites())
def test_every_built_in_suite_loads_and_names_what_exists(name: str) -> None:
    from medbench.finetune.recipe import load_recipe
    from medbench.tasks.catalog import task

    suite = load_suite(name)
    assert suite.name == name
    for spec in suite.models.values():
        if spec.adapter and spec.adapter.recipe:
            load_recipe(spec.adapter.recipe)
    for each in suite.tasks:
        task(each)


def test_the_real_suite_pins_its_model() -> None:
    base = load_suite("medical-o1").models["base"]
    assert base.pretrained == "deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
    assert base.revision
    assert len(base.revision) == 40


def test_overrides_reach_any_key_and_are_validated() -> None:
    suite = load_suite("quickstart", ["latency.iterations=3", "tasks=[clinic_text]"])
    assert suite.latency
    assert suite.latency.iterations == 3
    assert suite.tasks == ["clinic_text"]


def test_a_suite_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_suite("quickstart").seed = 3


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("- a list", ["expected a YAML mapping", "list"]),
        ("name: [", ["not readable as YAML"]),
        ("name: x\nmodels: {}\ntasks: [t]", ["models"]),
        ("name: x\nmodels: {b: {pretrained: p}}\ntasks: []", ["tasks"]),
        ("name: x\nmodels: {b: {}}\ntasks: [t]", ["models.b", "pretrained", "adapter"]),
        ("name: x\nmodels: {'a/b': {pretrained: p}}\ntasks: [t]", ["models", "a/b"]),
        ("name: x\nmodels: {b: {pretrained: p, dtype: f8}}\ntasks: [t]", ["models.b.dtype"]),
        (
            "name: x\nmodels: {b: {pretrained: p}, t: {base: b, dtype: auto, adapter: {path: q}}}\n"
            "tasks: [t]",
            ["models.t", "nothing else"],
        ),
        ("name: x\nmodels: {b: {pretrained: p}}\ntasks: [t]\nlatncy: {}", ["latncy", "latency"]),
        ("name: !!python/object/apply:os.system [id]", ["not readable as YAML"]),
    ],
)
def test_wrong_files_name_file_and_key(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_suite(str(path))
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_select_keeps_the_given_order() -> None:
    assert select("tuned, base", ["base", "tuned"], "--models") == ["tuned", "base"]
    assert select(None, ["base", "tuned"], "--models") == ["base", "tuned"]
