"""A made-up run folder: seeded, invented from end to end, shaped as a real run leaves it."""

from __future__ import annotations

import hashlib
import math
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medbench.finetune.recipe import RECIPES
from medbench.harness import latency
from medbench.harness.comparing.join import join
from medbench.harness.folder.store import RunFolder
from medbench.harness.judge import COLUMNS, agreement
from medbench.harness.results import adjusted, task_score
from medbench.harness.statistics import stats
from medbench.harness.statistics.calibration import probabilities
from medbench.harness.statistics.groups import comparison, pooled
from medbench.harness.statistics.pooling import pool

TASKS: dict[str, dict[str, Any]] = {
    "made_up_text": {
        "protocol": "option text, log-likelihood, 0-shot",
        "metric": "acc", "higher_is_better": True, "chance": 0.25, "n": 240,
        "right": {"base": 0.26, "tuned": 0.88}, "both": 0.5, "sure": {"base": 0.1, "tuned": 0.8},
    },
    "made_up_open": {
        "protocol": "generated answer after reasoning, greedy, 0-shot",
        "metric": "acc", "higher_is_better": True, "chance": None, "n": 120,
        "right": {"base": 0.35, "tuned": 0.86}, "both": 0.5,
    },
    "made_up_letters": {
        "protocol": "letters, log-likelihood, 0-shot",
        "metric": "acc", "higher_is_better": True, "chance": 0.25, "n": 240,
        "right": {"base": 0.27, "tuned": 0.28}, "both": 0.9, "sure": {"base": 0.1, "tuned": 0.5},
        "orders": 4, "keeps": {"base": 0.4, "tuned": 0.9},
    },
    "made_up_response": {
        "protocol": "bits per byte of the response, 0-shot",
        "metric": "bits_per_byte", "higher_is_better": False, "chance": None, "n": 120,
        "right": {"base": 3.8, "tuned": 2.9}, "both": 0.0,
    },
}  # fmt: skip
SOUNDS = ["mor", "tel", "vix", "dan", "quo", "fer", "lup", "zan", "hel", "bri"]
LETTERS = "ABCD"
HOSTILE = "\n".join([
    "<script>document.title = 'script ran'</script>",
    "</pre></details></style></script><img src=x onerror=\"document.title='image ran'\">",
    "<svg onload=\"document.title='svg ran'\"><a href='javascript:document.title=1'>a</a></svg>",
    "[click](javascript:alert(1)) ![picture](https://example.invalid/pixel.png)",
    "<https://example.invalid> https://example.invalid www.example.invalid me@example.invalid",
    "# heading", "## heading", "===", "---", "- list", "1. list", "> quote", "* * *",
    "```", "fence", "```", "~~~", "| a | b |", "| --- | --- |", "`code` **bold** _em_ ~~del~~",
    "[bold red]rich markup[/bold red] [/] [link=https://example.invalid]x[/link]",
    "\x1b[31mred\x1b[0m \x1b]8;;https://example.invalid\x07link\x1b]8;;\x07 \x00 \x07 \x9b31m",
    "\u202egnp.exe \u2066isolated\u2069 \u200f &lt;b&gt; &#60;b&#62; {{ 7 * 7 }} {% raw %} $x$",
    "", "", "    indented", "w" * 300,
])  # fmt: skip


def word(rng: random.Random, ending: str) -> str:
    return "".join(rng.sample(SOUNDS, 2)) + ending


def digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def sample_rows(task: str, models: list[str], rng: random.Random) -> list[dict[str, Any]]:
    plan = TASKS[task]
    rows = []
    for doc_id in range(plan["n"]):
        disease, options = word(rng, "itis").title(), [word(rng, "ine") for _ in LETTERS]
        question = f"A patient with {disease} asks which medicine is tried first. Which is it?"
        target, luck = rng.choice(options), rng.random()
        for model in models:
            share = plan["right"].get(model, 0.5)
            draw = luck if rng.random() < plan["both"] else rng.random()
            row = {
                "model": model, "task": task, "doc_id": doc_id, "cluster": str(doc_id), "order": 0,
                "doc_hash": digest(task, doc_id), "confidence": float("nan"),
                "prompt_hash": digest(question), "target_hash": digest(target),
                "protocol": plan["protocol"], "metric": plan["metric"],
                "score": float(draw < share), "weight": 1.0,
                "prompt": f"Question: {question}\nAnswer:", "question": question,
                "options": options, "target": target, "prediction": None, "option_scores": [],
                "output": None, "output_tokens": None, "truncated": False, "unparsed": False,
                "subject": None, "problem": None,
            }  # fmt: skip
            fill = {"bits_per_byte": bits, "acc": generated if "open" in task else chosen}
            row |= fill[plan["metric"]](rng, row, share)
            rows += in_orders(row, share) if "orders" in plan else [row]
    return rows


def in_orders(row: dict[str, Any], share: float) -> list[dict[str, Any]]:
    """One question with its options as published and shifted, as tasks/datasets.py does it."""
    plan, task, number = TASKS[row["task"]], row["task"], row["doc_id"]
    rng, rows = random.Random(f"{row['model']} {number}"), []
    for order in range(plan["orders"]):
        shifted = row | {
            "doc_id": plan["orders"] * number + order, "order": order,
            "doc_hash": digest(task, number, order) if order else row["doc_hash"],
            "options": row["options"][order:] + row["options"][:order],
        }  # fmt: skip
        if order and rng.random() > plan["keeps"].get(row["model"], 0.5):
            shifted["score"] = float(rng.random() < share)
            shifted |= chosen(rng, shifted, share)
        elif order:
            scores = row["option_scores"]
            shifted["option_scores"] = scores[order:] + scores[:order]
        rows.append(shifted)
    return rows


def bits(rng: random.Random, row: dict[str, Any], share: float) -> dict[str, Any]:
    target = f"In this disease {row['target']} is tried first."
    size = len(target)
    return {
        "score": size * rng.gauss(share, 0.5), "weight": float(size), "target": target,
        "options": [],
    }  # fmt: skip


def chosen(rng: random.Random, row: dict[str, Any], share: float) -> dict[str, Any]:
    wrong = [option for option in row["options"] if option != row["target"]]
    prediction = row["target"] if row["score"] else rng.choice(wrong)
    sure = TASKS[row["task"]]["sure"].get(row["model"], 0.3) + 0.1 * row["score"]
    drawn = [rng.random() for _ in row["options"]]
    confidence = 0.32 + 0.67 * drawn[0] ** (1 / sure - 1)
    rest = iter(-0.5 * draw for draw in drawn[1:])
    raw = [0.0 if option == prediction else next(rest) for option in row["options"]]
    others = sum(math.exp(score) for score in raw) - 1
    scores = [
        (math.log(confidence) if option == prediction
         else score + math.log((1 - confidence) / others)) - 2.5
        for option, score in zip(row["options"], raw, strict=True)
    ]  # fmt: skip
    return {
        "prediction": prediction, "option_scores": scores,
        "confidence": float(probabilities(scores).max()),
    }  # fmt: skip


def generated(rng: random.Random, row: dict[str, Any], share: float) -> dict[str, Any]:
    wrong = rng.choice([option for option in row["options"] if option != row["target"]])
    answer = row["target"] if row["score"] else wrong
    lost = not row["score"] and rng.random() < 0.08
    thought = f"First choice means first-line.\nThe first-line drug here is {answer}."
    closed = "" if lost else f"\n</think>\nThe answer is {answer}."
    return {
        "options": [], "prediction": None if lost else answer,
        "output": f"<think>\n{thought}{closed}",
        "output_tokens": 128 if lost else rng.randint(20, 40), "truncated": lost, "unparsed": lost,
        "problem": "unclosed" if lost else None,
    }  # fmt: skip


def timing_rows(rng: random.Random) -> list[dict[str, Any]]:
    series = [
        ("onnxruntime", "fp32", "CPUExecutionProvider", 0.0062, 0.00115),
        ("torch", "fp32", "cpu", 0.0141, 0.0049),
    ]
    rows = []
    for engine, form, provider, first, gap in series:
        for iteration in range(-5, 30):
            gaps = [gap * rng.lognormvariate(0, 0.08) for _ in range(31)]
            ttft = first * rng.lognormvariate(0, 0.1)
            rows.append({
                "model": "tuned", "engine": engine, "format": form, "provider": provider,
                "batch": 1, "prompt_tokens": 64, "output_tokens": 32, "iteration": iteration + 5,
                "warmup": iteration < 0, "ttft_s": ttft, "token_s": gaps,
                "e2e_s": ttft + sum(gaps), "threads": 1, "load_1m": 0.4,
            })  # fmt: skip
    return rows


def make_results(samples: pd.DataFrame, timings: pd.DataFrame, models: list[str]) -> dict[str, Any]:
    tasks: dict[str, Any] = {}
    comparisons, pairs = [], {}
    for name in dict.fromkeys(samples["task"]):
        plan = TASKS[name]
        tables = {
            model: samples[(samples["task"] == name) & (samples["model"] == model)]
            for model in models
        }
        tasks[name] = {
            **{key: plan[key] for key in ("protocol", "metric", "higher_is_better", "chance")},
            "source": "invented for these tests", "licence": "Apache-2.0",
            "scores": {model: task_score(table) for model, table in tables.items()},
        }  # fmt: skip
        if set(models) >= {"base", "tuned"}:
            pairs[name] = join(tables["base"], tables["tuned"]).pairs
            names = {"task": name, "metric": plan["metric"], "base": "base", "tuned": "tuned"}
            comparisons.append(names | comparison(pairs[name]))
    return {
        "format": 1, "suite": "made-up", "models": models, "notes": [], "tasks": tasks,
        "groups": {"made_up": make_group(samples, pairs, models)},
        "judge": agreement(samples, make_judgements(samples)),
        "comparisons": adjusted(comparisons),
        "latency": latency.summarise(timings) if len(timings) else [],
    }  # fmt: skip


GROUP = ["made_up_text", "made_up_letters"]


def make_group(
    samples: pd.DataFrame, pairs: dict[str, pd.DataFrame], models: list[str]
) -> dict[str, Any]:
    """The two multiple-choice tasks, pooled as harness/statistics/groups.py does it."""
    scores = {
        model: asdict(stats.summarise(pooled([
            samples[(samples["task"] == task) & (samples["model"] == model)] for task in GROUP
        ])))
        for model in models
    }  # fmt: skip
    compared = []
    if pairs:
        names = {"task": "made_up", "metric": "acc", "base": "base", "tuned": "tuned"}
        compared = [names | comparison(pool([pairs[task] for task in GROUP]))]
    return {
        "members": GROUP, "metric": "acc", "scores": scores, "comparisons": adjusted(compared),
    }  # fmt: skip


def make_judgements(samples: pd.DataFrame) -> pd.DataFrame:
    """Of the generated answers; a judge that is kinder than exact match, and at times unclear."""
    rows = []
    for number, row in enumerate(samples[samples["task"] == "made_up_open"].to_dict("records")):
        said = "correct" if row["score"] or number % 7 == 0 else "incorrect"
        verdict = "unreadable" if number % 40 == 0 else "unanswered" if row["unparsed"] else said
        names = {key: row[key] for key in ("model", "task", "doc_id", "order")}
        rows.append(names | {"judge": "made-up-judge", "prompt": "", "raw": said,
                             "verdict": verdict})  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS)


SUBJECTS = ["Cardiology", "Neurology", "Cardiology", "Paediatrics", "Neurology", "Cardiology",
            "Cardiology", "Eye diseases"]  # fmt: skip


def as_asked_in_text(samples: pd.DataFrame) -> pd.DataFrame:
    """made_up_letters asks the questions of made_up_text, and both know their subjects."""
    first = samples[samples["task"] == "made_up_text"].drop_duplicates("cluster")
    asked = first.set_index("cluster")
    rows = samples.to_dict("records")
    for row in rows:
        if row["task"] in GROUP:
            row["subject"] = SUBJECTS[int(row["cluster"]) % len(SUBJECTS)]
            if int(row["cluster"]) in (7, 15):
                row["subject"] = "Dermatology"
        if row["task"] == "made_up_letters":
            source = asked.loc[row["cluster"]]
            if min(len(set(one["options"])) for one in (row, source)) < len(LETTERS):
                continue  # an option drawn twice
            others = [option for option in source["options"] if option != source["target"]]
            wrong = sorted(option for option in row["options"] if option != row["target"])
            new = dict(zip(wrong, others, strict=True)) | {row["target"]: source["target"]}
            row |= {"question": source["question"], "target": source["target"],
                    "options": [new[option] for option in row["options"]],
                    "prediction": new[row["prediction"]]}  # fmt: skip
    return pd.DataFrame(rows)


def make_forecast() -> dict[str, Any]:
    """As harness/planning/forecast.py writes it."""
    weights = {"fp32": 5.0, "bf16": 2.5, "int8": 1.4, "nf4": 0.8}
    table = {}
    for place, (name, size) in enumerate(weights.items()):
        parts = {
            "weights": int(1e6 * size), "adapter": 426_000, "gradients": 426_000,
            "optimizer": 852_000, "activations": 25_000_000 - 3_000_000 * place,
        }  # fmt: skip
        table[name] = parts | {
            "peak": sum(parts.values()), "needed": sum(parts.values()) + 700_000_000,
            "fits": {"24": 8, "80": 8, "141": 8}, "step_seconds": 0.02 - 0.001 * place,
            "seconds": 2.4 - 0.12 * place,
        }  # fmt: skip
    return {
        "recipe": "made-up", "precision": "bf16", "parameters": 1_261_696, "rows_at_once": 8,
        "end_to_end": True, "tokens_at_once": 455, "batch_size": 8, "steps": 120,
        "lengths": {"rows": 768, "mean": 51.2, "median": 51, "longest": 64, "source": "the rows"},
        "gpu": {"name": "H200", "memory": 141e9, "source": "data sheet"},
        "efficiency": {"none": 0.42, "nf4": 0.45, "int8": 0.24},
        "precisions": table, "later": {"scoring_bytes": 1_700_000_000},
    }  # fmt: skip


def make_manifest(models: list[str]) -> dict[str, Any]:
    details: dict[str, dict[str, Any]] = {
        "tune/tuned": {
            "rows": 768, "data_sha256": digest("rows"), "steps": 120, "seconds": 31.4,
            "loss_first": 3.912, "loss_last": 0.184, "trainable_parameters": 106496,
            "parameters": 1261696, "quantization": "none", "peak_bytes": 30_100_000,
            "predicted": make_forecast(),
        },
        **{f"score/{model}/{task}": {} for model in models for task in TASKS},
        "merge/tuned": {},
        "export/tuned/fp32": {
            "seconds": 4.2, "bytes": 5_231_000, "precision": "fp32",
            "provider": "CPUExecutionProvider",
            "parity": {"prompts": 8, "max_abs": 3.1e-6, "max_rel": 0.0002,
                       "greedy_matched": 256, "greedy_total": 256},
        },
        "latency/tuned": {},
    }  # fmt: skip
    stages = {
        name: {"status": "done", "fingerprint": digest(name)[:16], "error": None, "detail": detail,
               "started": "2026-03-04T05:06:07+00:00", "seconds": 1.5 + len(name) / 4}
        for name, detail in details.items()
        if "tuned" in models or "tuned" not in name
    }  # fmt: skip
    return {
        "format": 1, "status": "done", "command": "medbench run --models " + ",".join(models),
        "created": "2026-03-04T05:06:07+00:00", "updated": "2026-03-04T05:08:00+00:00",
        "seconds": 113.0, "models": models,
        "suite": {
            "name": "made-up", "description": "A run invented for tests; no model was involved.",
            "models": {
                model: {"base": "base", "adapter": {"recipe": "made-up", "path": None}}
                if model == "tuned"
                else {"pretrained": "made-up/model", "revision": "0123abc", "base": None}
                for model in models
            },
            "tasks": list(TASKS), "seed": 0, "limit": None,
            "report": {"title": None, "samples": 3},
        },
        "notes": [], "stages": stages,
        "environment": {
            "device": "cpu", "python": "3.11.9", "platform": "Linux x86_64",
            "processor": "Made-up 9000", "cores": 4, "memory_bytes": 16_000_000_000, "gpus": [],
            "packages": {"medbench": "0.1.0", "torch": "2.11.0"}, "git_revision": "0" * 40,
        },
    }  # fmt: skip


def build(path: Path, models: tuple[str, ...] = ("base", "tuned")) -> RunFolder:
    """Write the run folder and return it; a one-model run has no comparison, loss or latency."""
    rng, names = random.Random(7), list(models)
    run = RunFolder(path)
    rows = [row for task in TASKS for row in sample_rows(task, names, rng)]
    samples = as_asked_in_text(pd.DataFrame(rows))
    timings = pd.DataFrame(timing_rows(rng) if "tuned" in names else [])
    run.write_table("samples.parquet", samples)
    if len(timings):
        run.write_table("timings.parquet", timings)
    if "tuned" in names:
        steps = range(1, 121)
        losses = [0.17 + 3.7 * 2.718 ** (-step / 22) + rng.gauss(0, 0.05) for step in steps]
        table = pd.DataFrame({"step": steps, "loss": losses})
        run.write_text("adapters/tuned/losses.csv", table.to_csv(index=False))
    run.write_json("results.json", make_results(samples, timings, names))
    run.write_json("manifest.json", make_manifest(names))
    return run


MARKUP = "<script>x</script>|`x`$x$[/]"


def poison(run: RunFolder) -> RunFolder:
    """The same run with hostile text wherever text comes from outside."""
    table: pd.DataFrame = run.samples()
    for column in ("question", "prompt", "output", "target", "prediction"):
        table[column] = table[column].map(
            lambda old: f"{old}\n{HOSTILE}" if isinstance(old, str) else old
        )
    table["options"] = table["options"].map(lambda old: [f"{one}\n{HOSTILE}" for one in old])
    table["subject"] = table["subject"].replace("Cardiology", HOSTILE)
    run.write_table("samples.parquet", table)
    manifest, results = run.manifest(), run.results()
    manifest["notes"] = [HOSTILE]
    manifest["command"] = f"medbench run {HOSTILE}"
    manifest["suite"] |= {"description": HOSTILE, "name": HOSTILE}
    manifest["suite"]["report"]["title"] = HOSTILE
    manifest["suite"]["models"]["base"]["pretrained"] = HOSTILE
    manifest["environment"] = {HOSTILE: HOSTILE, "packages": {HOSTILE: HOSTILE}}
    manifest["stages"]["latency/tuned"] |= {"status": "failed", "error": HOSTILE}
    for task in results["tasks"].values():
        task |= {"protocol": HOSTILE, "source": HOSTILE, "licence": HOSTILE}
    run.write_table("timings.parquet", run.timings().assign(format=MARKUP))
    for row in results["latency"]:
        row["format"] = MARKUP
    for one in results["judge"]:
        one["judge"] = HOSTILE
    run.write_json("manifest.json", manifest)
    run.write_json("results.json", results)
    return run


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunFolder]:
    """Builds a made-up run: ``make_run()``, or ``make_run(("base",))`` for a single model."""
    return lambda *models: build(tmp_path / "run", *models)


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The base-and-tuned run, for tests that only read it."""
    return build(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="session")
def hostile_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The same run, poisoned with text that tries to be more than text."""
    return poison(build(tmp_path_factory.mktemp("hostile") / "run"))


@pytest.fixture(scope="session")
def hostile_text() -> str:
    return HOSTILE


@pytest.fixture(scope="session")
def embedded_run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """What `medbench run` leaves of the embedded model, four steps and few questions."""
    folder = tmp_path_factory.mktemp("embedded")
    recipe = (RECIPES / "clinic.yaml").read_text("utf-8")
    for key, value in {"steps": 4, "logging_steps": 2, "  validation_rows": 8}.items():
        recipe = re.sub(rf"(?m)^{key}: .*$", f"{key}: {value}", recipe)
    (folder / "short.yaml").write_text(recipe, "utf-8")
    settings = [
        f"models.tuned.adapter.recipe={folder / 'short.yaml'}", "limit=12", "orders=2",
        "latency.prompt_tokens=[8]", "latency.output_tokens=4", "latency.iterations=5",
        "latency.warmup=1",
    ]  # fmt: skip
    words = [part for one in settings for part in ("--set", one)]
    done = subprocess.run(
        [sys.executable, "-m", "medbench", "run", "--models", "base,tuned,tuned@onnx-fp32",
         "--device", "cpu", "--out", str(folder / "run"), *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return RunFolder(folder / "run")
