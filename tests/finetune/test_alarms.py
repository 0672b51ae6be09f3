"""What training logs say has gone wrong: on published curves, and on made ones."""

import json
import math
import random
from contextlib import nullcontext
from pathlib import Path
from statistics import mean
from types import SimpleNamespace
from typing import Any

import pytest

from medbench.errors import StageError
from medbench.finetune import alarms, checkpoint
from medbench.finetune.alarms import raised
from medbench.finetune.recipe import load_recipe
from medbench.finetune.train import Job, tune
from medbench.finetune.trainer import Watcher
from medbench.harness.progress import silent
from medbench.harness.suite import ModelSpec

BASE = ModelSpec(pretrained="embedded:clinic")
Log = list[dict[str, Any]]


def curve(*losses: float, norm: float = 1.0) -> Log:
    return [
        {"step": 10 * place, "loss": loss, "grad_norm": norm}
        for place, loss in enumerate(losses, start=1)
    ]


def held(*losses: float) -> Log:
    return [{"step": 10 * place, "eval_loss": loss} for place, loss in enumerate(losses, start=1)]


def kinds(log: Log) -> list[str]:
    return [alarm.kind for alarm in raised(log)]


def published(real_data: Path) -> list[Log]:
    """Training logs that people published, as transformers would have logged them."""
    logs = []
    for table in json.loads((real_data / "loss_curves" / "curves.json").read_text("utf-8")):
        log: Log = []
        for point in table["points"]:
            step = int(point["Step"])
            log.append({"step": step, "loss": float(point["Training Loss"]), "grad_norm": 1.0})
            if "Validation Loss" in point:
                log.append({"step": step, "eval_loss": float(point["Validation Loss"])})
        logs.append(log)
    return logs


def test_published_runs(real_data: Path) -> None:
    tutorial, learning, overfitting = published(real_data)
    assert kinds(tutorial) == []
    assert kinds(learning) == []
    (alarm,) = raised(overfitting)
    assert (alarm.kind, alarm.step, alarm.stop) == ("turned", 1300, False)
    assert "after step 1000 (1.272 to 1.294)" in alarm.sentence


def test_an_alarm_stays_once_it_was_raised(real_data: Path) -> None:
    _, _, log = published(real_data)
    first = next(n for n in range(len(log)) if kinds(log[: n + 1]))
    assert log[first] == {"step": 1300, "eval_loss": 1.293687}
    assert all(raised(log[:n]) == raised(log) for n in range(first + 1, len(log)))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", ["loss", "grad_norm"])
def test_not_finite_stops(bad: float, key: str) -> None:
    log = curve(2.0, 1.9, 1.8)
    log[1][key] = bad
    (alarm,) = [one for one in raised(log) if one.kind == "not_finite"]
    assert (alarm.step, alarm.stop) == (20, True)
    assert "learning_rate" in alarm.sentence


def test_no_gradient_stops_only_when_there_is_none_from_the_start() -> None:
    (alarm,) = raised(curve(2.0, 2.0, norm=0.0))
    assert (alarm.kind, alarm.stop) == ("no_gradient", True)
    log = curve(2.0, 1.5, 1.2)
    log[2]["grad_norm"] = 0.0
    assert kinds(log) == []


def test_flat_is_a_loss_that_never_fell() -> None:
    assert kinds(curve(*[2.0] * 5)) == [], "too early to say"
    (alarm,) = raised(curve(2.01, 1.99, 2.02, 2.0, 1.98, 2.01))
    assert (alarm.kind, alarm.stop) == ("flat", False)
    assert kinds(curve(1.9, 1.6, 1.4, 1.35, 1.35, 1.35)) == [], "it fell, then settled"
    assert kinds(curve(2.0, 2.3, 2.6, 2.9, 3.1, 3.5)) == ["flat"], "it rose"


def test_memorised_is_a_loss_that_no_text_has() -> None:
    (alarm,) = raised(curve(2.0, 0.6, 0.2, 0.03, 0.01, 0.005))
    assert (alarm.kind, alarm.step, alarm.stop) == ("memorised", 40, False)
    assert "validation_rows would tell" in alarm.sentence
    assert kinds(curve(2.0, 0.6, 0.2, 0.06)) == []


def test_rows_kept_out_tell_memorised_from_learned() -> None:
    train = curve(2.0, 0.6, 0.2, 0.03, 0.01)
    (alarm,) = raised(train + held(2.0, 1.1, 1.05, 1.0, 1.0))
    assert (alarm.kind, alarm.step) == ("memorised", 40)
    assert "validation rows is 1.000" in alarm.sentence
    assert kinds(train + held(2.0, 0.6, 0.2, 0.05, 0.02)) == [], "an easy text, and learned"


@pytest.mark.parametrize(
    ("validation", "train", "expected"),
    [
        ([2.0, 1.5, 1.52, 1.55, 1.6], [2.0, 1.6, 1.4, 1.2, 1.1], ["turned"]),
        ([2.0, 1.5, 1.52, 1.55, 1.4], [2.0, 1.6, 1.4, 1.2, 1.1], []),  # came down again
        ([2.0, 1.5, 1.505, 1.501, 1.503], [2.0, 1.6, 1.4, 1.2, 1.1], []),  # noise
        ([2.0, 1.5, 1.52, 1.55, 1.6], [2.0, 1.4, 1.5, 1.6, 1.7], []),  # training rose as well
        ([1.5, 1.52, 1.55], [1.6, 1.4, 1.2], []),  # too early
    ],
)
def test_turned(validation: list[float], train: list[float], expected: list[str]) -> None:
    assert kinds(curve(*train) + held(*validation)) == expected


def test_an_empty_log() -> None:
    assert raised([]) == []


def test_a_loss_that_is_no_number_stops_and_keeps_what_was_good(
    tmp_path: Path, short_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last good checkpoint stays, and so does the adapter of an earlier tuning."""
    recipe = load_recipe(str(short_recipe)).model_copy(
        update={"quantization": "none", "logging_steps": 1, "checkpoint_steps": 1, "steps": 6}
    )
    out = tmp_path / "tuned"
    tune(Job(BASE, recipe.model_copy(update={"steps": 1}), out, tmp_path / "a", "cpu"), silent)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    steep = recipe.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(
        StageError, match=r"is nan.*learning_rate.*adapter as it was before.*step-\d"
    ) as e:
        tune(Job(BASE, steep, out, tmp_path / "b", "cpu"), silent)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    good, damaged = checkpoint.newest(tmp_path / "b")
    assert good is not None
    assert str(good) in str(e.value)
    assert damaged == []
    assert (good / "adapter_config.json").is_file()
    logged = [line for line in checkpoint.log_of(good) if "loss" in line]
    assert all(math.isfinite(line["loss"]) for line in logged)


@pytest.mark.parametrize(("fp16", "stops"), [(True, False), (False, True)])
def test_a_step_that_the_scaler_of_float16_skips_is_no_alarm(fp16: bool, stops: bool) -> None:
    logs = {"loss": 1.5, "grad_norm": math.inf}
    state = SimpleNamespace(global_step=1, log_history=[{"step": 1, **logs}])
    args = SimpleNamespace(fp16=fp16, output_dir="nowhere")
    with pytest.raises(StageError) if stops else nullcontext():
        Watcher(silent).on_log(args, state, None, logs)
    assert ("grad_norm" in state.log_history[0]) == stops


def test_alarms_that_do_not_stop_are_kept(
    tmp_path: Path, short_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarms, "MEMORISED", 100.0)
    recipe = load_recipe(str(short_recipe))
    detail = tune(Job(BASE, recipe, tmp_path / "tuned", tmp_path / "steps", "cpu"), silent)
    (alarm,) = detail["alarms"]
    assert (alarm["kind"], alarm["step"], alarm["stop"]) == ("memorised", 2, False)


def rescanned(log: Log) -> list[tuple[str, int]]:
    """Kind and step of the alarms by their rules as they are told, over the whole of *log*."""
    found: list[tuple[str, int]] = []
    train = [line for line in log if "loss" in line]
    held = [line for line in log if "eval_loss" in line]
    loss_at = {line["step"]: line["loss"] for line in train}
    found += [
        ("not_finite", line["step"])
        for line in train
        if not (math.isfinite(line["loss"]) and math.isfinite(line.get("grad_norm", 0.0)))
    ][:1]
    if len(train) > 1 and all(line.get("grad_norm") == 0 for line in train[:2]):
        found.append(("no_gradient", train[1]["step"]))
    third = len(train) // 3
    if len(train) >= alarms.FLAT_LINES:
        first, last = (
            mean(one["loss"] for one in part) for part in (train[:third], train[-third:])
        )
        if math.isfinite(first) and last > first * (1 - alarms.FLAT):
            found.append(("flat", train[-1]["step"]))
    for line in train:
        beside = next((one["eval_loss"] for one in held if one["step"] >= line["step"]), None)
        known = beside is not None and beside >= alarms.LEARNED
        if 0 <= line["loss"] < alarms.MEMORISED and (known or not held):
            found.append(("memorised", line["step"]))
            break
    for place, line in enumerate(held):
        lowest = min(range(place + 1), key=lambda at: held[at]["eval_loss"])
        best = held[lowest]
        risen = line["eval_loss"] > best["eval_loss"] * (1 + alarms.TURNED)
        falling = loss_at.get(line["step"], math.inf) < loss_at.get(best["step"], math.inf)
        if place - lowest >= alarms.PATIENCE and risen and falling:
            found.append(("turned", line["step"]))
            break
    return sorted(found, key=lambda one: one[1])


def made(rng: random.Random) -> Log:
    """A log of every shape: with and without validation, falling, flat, low, broken."""
    log: Log = []
    start, slope, noise = rng.choice([0.2, 2.0]), rng.choice([0.0, 0.01, 0.05]), rng.random() / 5
    turn, validated = rng.choice([0.0, 0.02]), rng.choice([0, 1, 3])
    norm = rng.choice([0.0, 1.0])
    for step in range(1, rng.randrange(2, 60)):
        loss = max(0.0, start * (1 - slope * step) + noise * rng.gauss(0, 1))
        if rng.random() < 0.01:
            loss = rng.choice([math.nan, math.inf])
        if rng.random() < 0.9:
            log.append({"step": step, "loss": loss, "grad_norm": norm if step < 5 else 1.0})
        if validated and step % validated == 0:
            log.append({"step": step, "eval_loss": abs(start + turn * (step - 20))})
    return log


def test_an_alarm_heard_line_by_line_is_that_of_the_whole_log() -> None:
    rng, met = random.Random(0), set()
    for _ in range(300):
        log, watch = made(rng), alarms.Watch()
        for count, line in enumerate(log, start=1):
            watch.hear(line)
            heard = [(alarm.kind, alarm.step) for alarm in watch.raised()]
            assert sorted(heard) == sorted(rescanned(log[:count])), log[:count]
            met |= {kind for kind, _ in heard}
    assert met == {"not_finite", "no_gradient", "flat", "memorised", "turned"}


def test_a_line_costs_the_same_however_many_were_before() -> None:
    watch, looked = alarms.Watch(), 0

    class Counted(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            nonlocal looked
            looked += 1
            return super().__getitem__(key)

    costs = []
    for step in range(2000):
        before = looked
        watch.hear(Counted(step=step, loss=2.0 - step / 1000, grad_norm=1.0))
        watch.raised()
        costs.append(looked - before)
    assert max(costs[1000:]) <= max(costs[:20])
