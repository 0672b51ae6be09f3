"""``MODEL@onnx-FORMAT`` in a run: exported, scored, compared, resumed; and what is refused."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from medbench.errors import InputError, StageError
from medbench.harness.folder.store import RunFolder
from medbench.harness.models.load import ScoringPool
from medbench.harness.planning.plan import Plan, make_plan
from medbench.harness.progress import Tick, silent
from medbench.harness.run import execute, open_folder
from medbench.harness.suite import SUITES, ModelSpec, load_suite
from medbench.harness.tuned import find_tuned, suite_of
from medbench.reports import Report

QUICK = ["tasks=[clinic_open, clinic_text, clinic_response]", "limit=5", "latency=null"]


class Heard:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.ran: list[str] = []

    def begin(self, stage: str) -> Tick:
        self.ran.append(stage)
        return silent

    def end(self, stage: str, seconds: float | None, detail: dict[str, Any]) -> None:
        pass


Planner = Callable[..., Plan]


@pytest.fixture
def plan(short_recipe: Path) -> Planner:
    def make(models: str | None, *overrides: str, suite: str = "quickstart") -> Plan:
        recipe = f"models.tuned.adapter.recipe={short_recipe}"
        loaded = load_suite(suite, [recipe, *QUICK, *overrides])
        return make_plan(loaded, models=models, tasks=None, device="cpu", command="test")

    return make


def go(plan: Plan, path: Path) -> list[str]:
    heard = Heard()
    execute(plan, open_folder(path, plan, fresh=False), heard)
    return heard.ran


def test_an_export_is_scored_and_compared_with_the_model_it_was_made_from(
    tmp_path: Path, plan: Planner
) -> None:
    out = tmp_path / "R"
    chosen = plan("base,tuned,tuned@onnx-fp32")

    ran = go(chosen, out)

    assert ran[-5:] == [
        "merge/tuned",
        "export/tuned/fp32",
        *(f"score/tuned@onnx-fp32/{task.name}" for task in chosen.tasks),
    ]
    run = RunFolder.open(out)
    results, samples = run.results(), run.samples()
    pairs = [(one["base"], one["tuned"]) for one in results["comparisons"]]
    assert pairs == [("base", "tuned"), ("tuned", "tuned@onnx-fp32")] * 3
    sides = {name: samples[samples["model"] == name] for name in ("tuned", "tuned@onnx-fp32")}
    for column in ("prompt_hash", "output", "prediction"):
        assert sides["tuned"][column].tolist() == sides["tuned@onnx-fp32"][column].tolist()
    for one, other in zip(*(side["option_scores"] for side in sides.values()), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
    detail = run.manifest()["stages"]["export/tuned/fp32"]["detail"]["parity"]
    assert detail["max_rel"] < 1e-5
    assert 0 <= detail["kl_mean"] < 1e-9
    assert detail["greedy_matched"] == detail["greedy_total"] == 64 * detail["prompts"]

    report = Report.read(run)
    assert [model.base for model in report.models] == [None, "base", "tuned"]
    assert report.models[2].origin == "tuned exported to ONNX, fp32, run by ONNX Runtime"
    assert "the export minus the torch model" in report.method
    facts = dict(report.exports[0].facts)
    assert facts["same most probable token"].startswith("100")
    assert "nats" in facts["KL divergence a token, mean"]

    assert go(chosen, out) == []
    shutil.rmtree(out / "exports/tuned-fp32")
    assert go(chosen, out) == ["export/tuned/fp32"]
    (out / "parts/samples/tuned@onnx-fp32/clinic_text.parquet").unlink()
    assert go(chosen, out) == ["score/tuned@onnx-fp32/clinic_text"]

    assert find_tuned(str(out)).name == "tuned"
    assert suite_of(run).models["tuned@onnx-fp32"] == ModelSpec(of="tuned", onnx="fp32")


def test_an_export_of_a_base_needs_no_merging(tmp_path: Path, plan: Planner) -> None:
    ran = go(plan("base,base@onnx-int4", "tasks=[clinic_text]"), tmp_path / "R")
    assert ran == [
        "score/base/clinic_text",
        "export/base/int4",
        "score/base@onnx-int4/clinic_text",
    ]
    scores = RunFolder.open(tmp_path / "R").samples().groupby("model")["option_scores"].sum()
    assert not np.allclose(scores["base"], scores["base@onnx-int4"], atol=1e-3)


def test_a_suite_names_exports_by_their_key_alone(tmp_path: Path, plan: Planner) -> None:
    raw = yaml.safe_load((SUITES / "quickstart.yaml").read_text("utf-8"))
    raw["models"] |= {"tuned@onnx-int8": None, "base@onnx-fp32": {}}
    suite = tmp_path / "suite.yaml"
    suite.write_text(yaml.safe_dump(raw, sort_keys=False), "utf-8")

    chosen = plan(None, suite=str(suite))

    assert chosen.models == ["base", "tuned", "tuned@onnx-int8", "base@onnx-fp32"]
    assert chosen.exports() == {"tuned": ["int8"], "base": ["fp32"]}
    assert chosen.base_of("tuned@onnx-int8") == "base"
    assert chosen.reference("tuned@onnx-int8") == "tuned"


def test_formats_that_are_timed_and_scored_are_exported_once(plan: Planner) -> None:
    latency = "latency={models: [tuned], formats: [fp32, int4]}"
    chosen = plan("base,tuned,tuned@onnx-int4,tuned@onnx-int8", latency)
    assert chosen.exports() == {"tuned": ["fp32", "int4", "int8"]}
    assert chosen.formats() == ["fp32", "int4"]


@pytest.mark.parametrize(
    ("models", "overrides", "message"),
    [
        ("base,tuned,tuned@onnx-int3", [], r"--models .*'int3' is no format; expected tuned@onnx-"),
        ("base,tuned,tuned@onnx-fp16", [], r"tuned@onnx-fp16 does not run on cpu; .*fp32, int8"),
        ("base,tuned@onnx-fp32", [], r"compared with tuned.*--models tuned,tuned@onnx-fp32"),
        ("base,other@onnx-fp32", [], r"'other@onnx-fp32' is not in the suite"),
        ("base,tuned", ["latency={models: [base@onnx-fp32]}"], r"latency\.models: .*formats"),
        ("base", ["models.tuned@onnx-int3={}"], r"models\.tuned@onnx-int3\.onnx: Input should be"),
        ("base", ["models.other@onnx-int4={}"], r"models\.other@onnx-int4: 'other' is not in this"),
        ("base", ["models.base@onnx-int4={dtype: float16}"], r"has no other keys"),
        ("base", ["models.edge={of: base, onnx: int4}"], r"models\.edge: only an export is named"),
    ],
)
def test_what_cannot_be_exported_or_compared_is_refused_before_anything_is_written(
    plan: Planner, models: str, overrides: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        plan(models, *overrides)


def test_a_model_behind_a_url_has_no_export(plan: Planner) -> None:
    served = (
        "models.served={backend: local-completions, args: "
        "{model: m, base_url: 'http://localhost:1/v1/completions'}}"
    )
    with pytest.raises(InputError, match=r"models: served runs on back end local-completions"):
        plan("served,served@onnx-fp32", served, "tasks=[clinic_text]")


def test_a_pool_without_the_export_says_so() -> None:
    specs = {
        "base": ModelSpec(pretrained="embedded:clinic"),
        "base@onnx-int4": ModelSpec(of="base", onnx="int4"),
    }
    with (
        pytest.raises(StageError, match=r"base@onnx-int4: not exported here"),
        ScoringPool(specs, {}, "cpu").use("base@onnx-int4"),
    ):
        pass
    exports = {"base@onnx-int4": Path("nowhere")}
    with (
        pytest.raises(InputError, match=r"nowhere/tokenizer_config\.json: missing"),
        ScoringPool(specs, {}, "cpu", exports).use("base@onnx-int4"),
    ):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_asked_without_a_gpu_runs_nothing_on_the_cpu(
    clinic_onnx: Callable[[str], Path],
) -> None:
    specs = {
        "base": ModelSpec(pretrained="embedded:clinic"),
        "base@onnx-fp32": ModelSpec(of="base", onnx="fp32"),
    }
    pool = ScoringPool(specs, {}, "cuda", {"base@onnx-fp32": clinic_onnx("fp32")})
    with pytest.raises(InputError, match="device 'cuda': "), pool.use("base@onnx-fp32"):
        pass
