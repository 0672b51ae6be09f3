"""The stages export and latency of a run: what the suite says reaches what does the work."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medbench.errors import InputError
from medbench.harness import export, latency
from medbench.harness.folder.store import RunFolder
from medbench.harness.pipeline import Pipeline
from medbench.harness.planning.plan import Plan, make_plan
from medbench.harness.progress import silent
from medbench.harness.results import samples_part
from medbench.harness.suite import load_suite


def plan_of(*overrides: str, device: str = "cpu") -> Plan:
    suite = load_suite("quickstart", ["latency.models=[base]", *overrides])
    return make_plan(suite, models="base", tasks="clinic_text", device=device, command="")


def stage(plan: Plan, run: RunFolder, name: str) -> Any:
    return next(one for one in Pipeline(plan, run).stages() if one.name == name)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    found = RunFolder(tmp_path / "run")
    found.write_table(samples_part("base", "clinic_text"), pd.DataFrame({"prompt": ["a", "b"]}))
    return found


@pytest.mark.parametrize("trusted", ["true", "false"])
def test_trust_reaches_export_and_measurement(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch, trusted: str
) -> None:
    plan = plan_of(f"models.base.trust_remote_code={trusted}")
    seen = []

    def stop(*arguments: Any, **given: Any) -> None:
        seen.append(given.get("trust_remote_code", getattr(arguments[0], "trust_remote_code", 0)))
        raise InputError("stop")

    monkeypatch.setattr(export, "export_onnx", stop)
    monkeypatch.setattr(latency, "measure", stop)
    for name in ("export/base/fp32", "latency/base"):
        with pytest.raises(InputError, match="stop"):
            stage(plan, run, name).work(silent)
    assert seen == [trusted == "true"] * 2


def test_the_suites_protocol_is_what_is_measured(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of("latency.output_tokens=[4, 8]", "latency.engines=[onnxruntime, torch-compiled]")
    jobs: list[latency.LatencyJob] = []

    def measure(job: latency.LatencyJob, tick: Any) -> pd.DataFrame:
        jobs.append(job)
        table = pd.DataFrame({"model": ["base"]})
        table.attrs = {"skipped": {"torch-compiled": "no compiler"}, "peaks": {}}
        return table

    monkeypatch.setattr(latency, "measure", measure)

    detail = stage(plan, run, "latency/base").work(silent)

    assert detail == {"requests": 1, "skipped": {"torch-compiled": "no compiler"}, "peaks": {}}
    (job,) = jobs
    assert job.settings.output_lengths == [4, 8]
    assert job.settings.engines == ["onnxruntime", "torch-compiled"]
    assert job.onnx == {"fp32": run / "exports/base-fp32"}
    assert job.prompts == ["a", "b"]
    assert job.settings.prompt_tokens == [64]


def test_formats_are_resolved() -> None:
    assert plan_of().formats() == ["fp32"]
    assert plan_of("latency.formats=[all]").formats() == ["fp32", "int8", "int4"]
    assert plan_of("latency.formats=[int4, auto]").formats() == ["int4", "fp32"]
    assert plan_of("latency.formats=[all]", device="cuda").formats() == ["fp16", "bf16", "int4"]
    assert plan_of("latency.engines=[torch]").formats() == []
    with pytest.raises(
        InputError, match=r"latency\.formats: fp16 does not run on cpu; .* all, fp32"
    ):
        plan_of("latency.formats=[fp16]")


def test_what_the_machine_has_not_is_refused_in_the_plan() -> None:
    with pytest.raises(InputError, match=r"latency\.cuda_graph: needs device cuda, not cpu"):
        plan_of("latency.cuda_graph=true")
    with pytest.raises(InputError, match=r"latency\.cores \[9999\]: expected at least 1"):
        plan_of("latency.cores=[9999]")


def test_without_onnx_nothing_is_exported(run: RunFolder) -> None:
    names = [one.name for one in Pipeline(plan_of("latency.engines=[torch]"), run).stages()]
    assert "latency/base" in names
    assert not [name for name in names if name.startswith("export/")]
