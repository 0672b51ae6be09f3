"""The gate: which verdict on which evidence, and that its false alarms stay below its level."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medbench.errors import InputError
from medbench.harness.folder.store import FORMAT, RunFolder
from medbench.harness.gate.judging import judge
from medbench.harness.gate.measured import Measured, of_run
from medbench.harness.gate.result import GateResult, Verdict
from medbench.harness.gate.rules import GateRules, load_rules
from medbench.harness.gate.sides import Gated
from medbench.harness.predictions.load import Side, load_side
from medbench.harness.suite import load_suite

COLUMNS = {
    "task": "=medqa",
    "doc_id": "question",
    "target": "ground_truth",
    "correct": "is_correct",
}


def samples(scores: dict[str, list[float]], metric: str = "acc", **more: Any) -> pd.DataFrame:
    rows = [
        {"task": task, "doc_id": i, "cluster": f"{i}", "order": 0, "doc_hash": f"{task} {i}",
         "target_hash": "x", "prompt_hash": "y", "protocol": "letters", "metric": metric,
         "score": float(score), "weight": 1.0, "unparsed": False, "truncated": False, **more}
        for task, values in scores.items() for i, score in enumerate(values)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def gated(table: pd.DataFrame, name: str = "tuned", **measured: Any) -> Gated:
    return Gated(Side(name, table, f"made up {name}"), Measured(name, **measured))


def rules_of(**keys: Any) -> GateRules:
    return GateRules.model_validate(keys)


def run(
    before: list[float], after: list[float], rules: GateRules | None = None, **kinds: Any
) -> Verdict:
    a, b = samples({"t": before}, **kinds), samples({"t": after}, **kinds)
    [verdict] = judge(gated(b), gated(a, "base"), rules or GateRules()).verdicts
    return verdict


def plain(text: str) -> str:
    return text.replace("\u00a0", " ")


def answers(right: int, n: int) -> list[float]:
    return [1.0] * right + [0.0] * (n - right)


def test_a_planted_regression_is_found_and_its_mirror_passes() -> None:
    before, after = answers(800, 1000), answers(700, 1000)
    worse = run(before, after)
    assert (worse.status, worse.needed) == ("regression", None)
    assert worse.observed == pytest.approx(-0.1)
    assert worse.high is not None
    assert worse.high < worse.limit == -0.01
    assert plain(worse.sentence) == (
        "t: −10.0 points (70.0 % right, baseline 80.0 %; 100 lost, 0 gained) over 1000 questions; "
        "with 95 % confidence below −8.5 points, so it is beyond the tolerance of 1 point "
        "(p < 0.001)."
    )
    better = run(after, before)
    assert better.status == "pass"
    assert better.low is not None
    assert better.low > 0


def test_equal_answers_pass_only_where_the_tolerance_exceeds_what_may_be_unseen() -> None:
    same = answers(50, 100)
    wide = run(same, same, rules_of(tolerance=5))
    assert wide.status == "pass"
    narrow = run(same, same, rules_of(tolerance=1))
    assert narrow.status == "inconclusive"
    assert narrow.needed is not None
    assert narrow.needed > 100
    assert f"about {narrow.needed:,} questions would decide it" in narrow.sentence
    more = answers(narrow.needed // 2, narrow.needed)
    assert run(more, more, rules_of(tolerance=1)).status == "pass", "so many do decide it"
    exact = run(same, same, rules_of(tolerance=0))
    assert (exact.status, exact.needed) == ("inconclusive", None)
    assert "no number of questions decides it" in exact.sentence


@pytest.mark.parametrize("n", [1, 5, 200])
@pytest.mark.parametrize("before", [0, 1])
def test_every_answer_right_never_fails(n: int, before: int) -> None:
    rules = rules_of(tolerance=0, rules=[{"tasks": ["t"], "tolerance": 0, "floor": 0.99}])
    a, b = samples({"t": [float(before)] * n}), samples({"t": [1.0] * n})
    assert {v.status for v in judge(gated(b), gated(a, "base"), rules).verdicts} == {"pass"}


@pytest.mark.parametrize("after", [0.0, 1.0])
def test_one_question_shows_no_regression(after: float) -> None:
    assert run([1.0 - after], [after]).status != "regression"


def test_an_improvement_is_never_a_regression() -> None:
    for gain in range(0, 40, 5):
        assert run(answers(40, 100), answers(40 + gain, 100)).status != "regression"


def test_bits_per_byte_are_tolerated_in_percent_and_less_is_better() -> None:
    rng = np.random.default_rng(0)
    before = list(2 + rng.normal(0, 0.1, 400))
    more = [one * 1.05 for one in before]
    assert run(before, more, rules_of(tolerance=2), metric="bits_per_byte").status == "regression"
    assert run(before, more, rules_of(tolerance=8), metric="bits_per_byte").status == "pass"
    assert run(more, before, rules_of(tolerance=0), metric="bits_per_byte").status == "pass"
    assert run(before, more, rules_of(tolerance=2), metric="bits_per_byte").observed < 0
    lone = run([2.0], [2.5], metric="bits_per_byte")
    assert (lone.status, lone.low, lone.high) == ("inconclusive", None, None)


def test_false_alarms_over_several_tasks_stay_below_the_level() -> None:
    """Five equally good pairs a gate: without the adjustment some task would fail in 20 %."""
    rng, alarms, gates = np.random.default_rng(3), 0, 60
    rules, table = rules_of(tolerance=0), samples({f"t{k}": [0.0] * 60 for k in range(5)})
    for _ in range(gates):
        a, b = (table.assign(score=(rng.random(300) < 0.5).astype(float)) for _ in range(2))
        alarms += judge(gated(b), gated(a, "base"), rules).status == "regression"
    assert alarms / gates <= 0.05 + 1.65 * (0.05 * 0.95 / gates) ** 0.5


def test_evidence_that_may_be_chance_among_many_tasks_is_no_regression() -> None:
    before = {f"t{k}": [1.0, 0.0] * 100 for k in range(4)}
    after = before | {"t0": [0.0] * 12 + [1.0, 0.0] * 94}
    rules = rules_of(tolerance=0)
    alone = judge(gated(samples(after)), gated(samples(before), "base"), rules, ["t0"])
    assert alone.status == "regression"
    one = judge(gated(samples(after)), gated(samples(before), "base"), rules).verdicts[0]
    assert (one.status, alone.verdicts[0].high) == ("inconclusive", one.high)
    assert "but that may be chance among so many (p" in plain(one.sentence)
    assert one.needed is not None
    assert one.needed > 200


def test_rules_are_the_first_that_fits_and_pooled_ones_stand_beside_them() -> None:
    rules = rules_of(
        tolerance=None,
        rules=[
            {"tasks": ["mmlu_*"], "tolerance": 30},
            {"tasks": ["*"], "pooled": True, "tolerance": 20},
        ],
    )
    scores = {"mmlu_a": answers(50, 90), "mmlu_b": answers(60, 90), "other": answers(9, 90)}
    result = judge(gated(samples(scores)), gated(samples(scores), "base"), rules)
    assert [(v.task, v.limit, v.n) for v in result.verdicts] == [
        ("mmlu_a", -0.3, 90), ("mmlu_b", -0.3, 90), ("* (pooled)", -0.2, 270),
    ]  # fmt: skip


def test_a_floor_has_three_answers_and_needs_no_baseline() -> None:
    rules = rules_of(tolerance=None, rules=[{"tasks": ["t"], "floor": 0.6}])
    assert not rules.compares
    found = [
        judge(gated(samples({"t": answers(right, 200)})), None, rules).verdicts[0]
        for right in (100, 122, 150)
    ]
    assert [v.status for v in found] == ["regression", "inconclusive", "pass"]
    assert found[1].needed is not None
    assert found[1].needed > 200


def test_a_floor_counts_questions_not_option_orders() -> None:
    rules = rules_of(tolerance=None, rules=[{"tasks": ["t"], "floor": 0.6}])
    once = samples({"t": answers(140, 200)})
    four = pd.concat([once.assign(order=k) for k in range(4)], ignore_index=True)
    [one], [all_orders] = (judge(gated(t), None, rules).verdicts for t in (once, four))
    assert all_orders.n == one.n == 200
    assert all_orders.low == pytest.approx(one.low, abs=0.01)


def test_rates_are_judged_as_observed() -> None:
    rules = rules_of(tolerance=None, rules=[{"tasks": ["t"], "unparsed": 0.02, "truncated": 0.0}])
    table = samples({"t": answers(50, 100)})
    table.loc[:2, "unparsed"] = True
    unparsed, truncated = judge(gated(table), None, rules).verdicts
    assert (unparsed.status, unparsed.observed) == ("regression", 0.03)
    assert (truncated.status, truncated.observed) == ("pass", 0.0)
    table["truncated"] = np.nan
    with pytest.raises(InputError, match="does not say which answers were truncated"):
        judge(gated(table), None, rules)


PARITY = {"fp32": {"max_abs": 1e-4, "max_rel": 1e-5, "greedy_matched": 63, "greedy_total": 64}}
HARDWARE = {"device": "cpu", "processor": "Made-up 9000", "cores": 4, "gpus": []}
SERIES = {
    "model": "tuned", "engine": "onnxruntime", "format": "fp32", "provider": "CPU", "batch": 1,
    "prompt_tokens": 64, "output_tokens": 32, "n": 30, "ttft_ms_p50": 20.0, "tpot_ms_p50": 5.0,
    "unstable": False,
}  # fmt: skip


def measured(rules: dict[str, Any], new: dict[str, Any], old: dict[str, Any]) -> GateResult:
    table = samples({"t": [1.0]})
    keys = {"hardware": HARDWARE, "latency": [SERIES]}
    one, other = gated(table, **(keys | new)), gated(table, "base", **(keys | old))
    return judge(one, other, rules_of(tolerance=None, **rules))


def test_parity_is_held_to_its_limits() -> None:
    result = measured({"parity": {"max_rel": 1e-4, "greedy": 1}}, {"parity": PARITY}, {})
    assert [v.status for v in result.verdicts] == ["pass", "regression"]
    assert "63 of 64" in result.verdicts[1].sentence
    with pytest.raises(InputError, match="no export"):
        measured({"parity": {"greedy": 1}}, {}, {})


def test_latency_is_a_ratio_on_the_same_hardware_or_refused() -> None:
    rules = {"latency": {"ratio": 1.1}}
    slower = [SERIES | {"ttft_ms_p50": 25.0}]
    first, following = measured(rules, {"latency": slower}, {}).verdicts
    assert (first.status, first.observed, following.status) == ("regression", 1.25, "pass")
    shaky = measured(rules, {"latency": [SERIES | {"unstable": True}]}, {})
    assert {v.status for v in shaky.verdicts} == {"inconclusive"}
    with pytest.raises(InputError, match="other hardware \\(processor: 'Other', now 'Made-up"):
        measured(rules, {}, {"hardware": HARDWARE | {"processor": "Other"}})
    with pytest.raises(InputError, match="is unknown"):
        measured(rules, {}, {"hardware": {}})
    with pytest.raises(InputError, match="no timings of base"):
        measured(rules, {}, {"latency": []})
    with pytest.raises(InputError, match="no request of the same"):
        measured(rules, {}, {"latency": [SERIES | {"batch": 8}]})


def test_memory_is_a_ratio_or_a_size() -> None:
    keys = {"new": {"memory": {"score/t": 3e9}}, "old": {"memory": {"score/t": 2e9}}}
    result = measured({"memory": {"ratio": 1.2, "gigabytes": 4}}, **keys)
    assert [(v.status, v.observed) for v in result.verdicts] == [("pass", 3.0), ("regression", 1.5)]
    with pytest.raises(InputError, match="no peak memory of tuned"):
        measured({"memory": {"gigabytes": 4}}, {}, {})


def test_memory_is_what_tuning_on_a_gpu_measured(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    stages: dict[str, Any] = {
        "tune/tuned": {"status": "done", "detail": {"peak_bytes": 24_000_000_000, "steps": 60}},
        "tune/other": {"status": "done", "detail": {"peak_bytes": 9}},
        "score/tuned/t": {"status": "done", "detail": {"n": 1}},
        "merge/tuned": {"status": "failed"},
    }
    run.write_json("manifest.json", {"format": FORMAT, "stages": stages})
    run.write_json("results.json", {"format": FORMAT})
    assert of_run(run, "tuned").memory == {"tune": 24e9}
    stages["tune/tuned"]["detail"] = {"peak_bytes": None}
    run.write_json("manifest.json", {"format": FORMAT, "stages": stages})
    assert of_run(run, "tuned").memory == {}


def test_what_the_baseline_has_must_be_there() -> None:
    a, b = samples({"t": [1.0], "u": [1.0]}), samples({"t": [1.0], "new": [0.0]})
    with pytest.raises(InputError, match="tuned has no answers to u, which base has"):
        judge(gated(b), gated(a, "base"), GateRules())
    result = judge(gated(b), gated(a, "base"), GateRules(), ["t"])
    assert [v.task for v in result.verdicts] == ["t"]
    [warning] = judge(gated(b), gated(samples({"t": [1.0]}), "base"), GateRules()).warnings
    assert warning == "only tuned answered task new"


def test_leaving_out_questions_is_no_way_to_pass() -> None:
    before = samples({"t": [1.0] * 100})
    hard = np.arange(100) >= 92
    easy = before[~hard].reset_index(drop=True)
    with pytest.raises(InputError) as error:
        judge(gated(easy), gated(before, "base"), GateRules())
    assert "task t: tuned lacks 8 of the 100 answers of base" in str(error.value)
    assert str(error.value).endswith("or allow it by a rule with 'missing: 0.08'")
    allowed = rules_of(rules=[{"tasks": ["t"], "missing": 0.08}])
    result = judge(gated(easy), gated(before, "base"), allowed)
    assert result.status == "pass"
    assert result.warnings == ("task t: only base answered 8 questions: doc_id 92, 93, 94, …",)
    more = judge(gated(before), gated(easy, "base"), GateRules())
    assert more.status == "pass", "the candidate may answer more"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tolerence: 1", "tolerence: unknown key; expected one of: confidence, latency"),
        ("rules: [{tasks: [a], flor: 1}]", "rules.0.flor: unknown key"),
        ("rules: [{tasks: []}]", "rules.0.tasks"),
        ("rules: [{tasks: [a], pooled: true, floor: 0.5}]", "rules.0: a pooled rule has"),
        ("rules: [{tasks: [a], pooled: true, missing: 0.5}]", "rules.0: a pooled rule has"),
        ("tolerance: -1", "tolerance: Input should be greater than or equal to 0"),
        ("confidence: 95", "confidence: Input should be less than 1"),
        ("latency: {ratio: 1.1, figures: [p50]}", "latency.figures.0"),
        ("parity: {}", "parity: expected at least one of"),
        ("- a", "expected a YAML mapping"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_wrong_rules_are_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "gate.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(InputError) as error:
        load_rules(path)
    assert said in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ([{"tasks": ["nope*"]}], "rules.0: nope* matches no task; the tasks are: t"),
        ([{"tasks": ["*"]}, {"tasks": ["t"]}], "rules.1: t: rules above it have all"),
    ],
)
def test_a_rule_of_no_use_is_refused(rules: list[dict[str, Any]], said: str) -> None:
    table = samples({"t": [1.0]})
    with pytest.raises(InputError) as error:
        judge(gated(table), gated(table, "base"), rules_of(rules=rules))
    assert said in str(error.value)


def test_the_worst_verdict_is_the_gates_and_decides_the_exit_code() -> None:
    def result(*found: str) -> GateResult:
        blank: tuple[Any, ...] = (0.0, 0.0, None, None, None, None, "")
        return GateResult(tuple(Verdict("floor", "t", one, *blank) for one in found))  # type: ignore[arg-type]

    assert result("pass", "inconclusive", "regression").exit_code("pass") == 1
    open_ = result("pass", "inconclusive")
    assert [open_.exit_code(), open_.exit_code("pass"), open_.exit_code("fail")] == [3, 0, 1]
    assert result("pass").exit_code("fail") == 0


def test_real_predictions_reversed_are_a_regression_at_0_only(real_data: Path) -> None:
    """628 → 665 of 1,273 right, read backwards; the worked example of docs/reference/gate.md."""
    folder = real_data / "predictions_mistral7b"
    low, high = (
        load_side(folder / f"{name}_results.json", COLUMNS) for name in ("baseline", "finetuned")
    )
    assert len(json.loads((folder / "baseline_results.json").read_text())["predictions"]) == 1273
    one, other = (Gated(side, Measured(side.name)) for side in (low, high))
    found = [judge(one, other, rules_of(tolerance=t)).verdicts[0] for t in (0, 1, 2, 3, 5, 6)]
    assert [v.status for v in found] == [
        "regression", "inconclusive", "inconclusive", "inconclusive", "inconclusive", "pass",
    ]  # fmt: skip
    assert [v.needed for v in found[1:4]] == [4227, 18476, 1719492]
    assert (found[0].low, found[0].high) == pytest.approx((-0.0526, -0.0056), abs=5e-5)


def test_a_suite_holds_the_rules_and_checks_them() -> None:
    assert load_suite("quickstart").gate is None
    held = load_suite("quickstart", ["gate={tolerance: 2}"]).gate
    assert held is not None
    assert held.tolerance == 2
    with pytest.raises(InputError, match="tolerence: unknown key"):
        load_suite("quickstart", ["gate={tolerence: 2}"])
