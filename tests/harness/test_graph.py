"""The graph of a plan, and the plan as a worker makes it again from plain values."""

import dataclasses
import json
from pathlib import Path

import pytest

from medbench.harness import graph
from medbench.harness.executors import worker
from medbench.harness.planning.plan import Plan, make_plan
from medbench.harness.suite import load_suite


def plan_of(*overrides: str, models: str | None = None, device: str = "cpu") -> Plan:
    suite = load_suite("quickstart", list(overrides))
    return make_plan(suite, models=models, tasks=None, device=device, command="medbench run")


EVERYTHING = (
    "models.second={base: base, adapter: {recipe: clinic}}",
    "tasks=[clinic_open, clinic_text]",
    "latency.models=[base, tuned]",
    "judge={kind: verifier, model: {pretrained: 'embedded:clinic'}}",
)
ALL = "base,tuned,second,tuned@onnx-int4"


@pytest.fixture(scope="module")
def nodes() -> list[graph.Node]:
    return graph.nodes(plan_of(*EVERYTHING, models=ALL))


def test_each_stage_stands_after_what_it_needs_and_no_two_leave_the_same(
    nodes: list[graph.Node],
) -> None:
    known: set[str] = set()
    for node in nodes:
        assert set(node.needs) <= known, node.name
        known.add(node.name)
    assert len(known) == len(nodes)
    outputs = [output for node in nodes for output in node.outputs]
    assert len(set(outputs)) == len(outputs)


def test_what_a_stage_reads_is_what_it_needs(nodes: list[graph.Node]) -> None:
    needs = {node.name: set(node.needs) for node in nodes}
    asked = {"score/tuned/clinic_open", "score/tuned/clinic_text"}
    assert needs["score/base/clinic_text"] == set()
    assert needs["tune/second"] == {"overlap"}
    assert needs["score/second/clinic_text"] == {"tune/second"}
    assert needs["merge/tuned"] == {"tune/tuned"}
    assert needs["export/tuned/int4"] == {"merge/tuned"} | asked
    assert needs["score/tuned@onnx-int4/clinic_text"] == {"export/tuned/int4"}
    assert needs["latency/tuned"] == {"merge/tuned", "export/tuned/fp32"} | asked
    assert "merge/base" not in needs
    assert needs["judge/tuned/clinic_open"] == {"score/tuned/clinic_open"}


def test_one_worker_does_all_questions_of_a_model_and_nothing_runs_beside_latency(
    nodes: list[graph.Node],
) -> None:
    units = {unit.name: unit for unit in graph.units(nodes)}
    assert [node.part for node in units["score/tuned"].nodes] == ["clinic_open", "clinic_text"]
    assert units["score/tuned"].needs == {"tune/tuned"}
    assert units["tune/tuned"].needs == units["tune/second"].needs == {"overlap"}
    assert {name for name, unit in units.items() if unit.alone} == {"latency/base", "latency/tuned"}


@pytest.mark.parametrize(
    ("spec", "gpus"),
    [
        ("{pretrained: 'embedded:clinic'}", 1),
        ("{pretrained: 'embedded:clinic', backend: vllm, args: {tensor_parallel_size: 4}}", 4),
        ("{backend: local-completions, args: {model: m, base_url: 'http://localhost:1/v1'}}", 0),
    ],
)
def test_a_stage_takes_the_gpus_that_its_back_end_spreads_over(
    spec: str, gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medbench.harness.models import backends

    monkeypatch.setattr(backends, "find_spec", lambda name: object())  # as if vLLM were here
    overrides = (f"models.base={spec}", "latency=null", "tasks=[clinic_open]")
    for device, wanted in (("cuda", gpus), ("cpu", 0)):
        found = graph.nodes(plan_of(*overrides, models="base", device=device))
        assert [node.gpus for node in found if node.kind == "score"] == [wanted]


@pytest.mark.parametrize(
    ("overrides", "models"),
    [
        (EVERYTHING, ALL),
        (("seed=3", "limit=7", "orders=all", "prompt.shots=2", "latency=null"), None),
        (("executor=ray", "ray.cpus=2"), "base"),
    ],
)
def test_a_worker_makes_the_same_plan_from_plain_values(
    overrides: tuple[str, ...], models: str | None, tmp_path: Path
) -> None:
    plan = plan_of(*overrides, models=models)
    said = json.dumps(dataclasses.asdict(worker.order(plan, tmp_path)))
    assert "medbench run" not in said, "a command line may hold what is nobody's business"
    again = worker.plan_of(worker.Order(**json.loads(said)))
    assert again == dataclasses.replace(plan, command="")
