"""Scores one model on one task. The only file that speaks to lm-eval.

lm-eval builds the prompts, runs the model and grades; what comes back is the samples table, in
medbench's own columns (docs/reference/run-folder.md).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd
from lm_eval import simple_evaluate
from lm_eval.models import huggingface
from lm_eval.tasks import TaskManager

from ..errors import StageError
from ..tasks.answers import read
from ..tasks.catalog import SPECS, Task
from ..tasks.datasets import Orders
from .calibration import probabilities
from .progress import Tick, silent
from .scorer import PackedLM

COLUMNS = [
    "model", "task", "doc_id", "cluster", "order", "doc_hash", "prompt_hash", "target_hash",
    "protocol", "metric", "score", "weight", "prompt", "question", "options", "target",
    "prediction", "option_scores", "confidence", "output", "output_tokens", "truncated", "unparsed",
]  # fmt: skip


@dataclass(frozen=True)
class Asking:
    """How a task is put.

    Attributes:
        limit: The first so many questions; all when None.
        orders: Under how many cyclic shifts of its options a question is asked, or ``all``; for
            tasks that show the options to the model, others are asked once.
        batch_size: Prompts per forward pass while generating.
    """

    limit: int | None = None
    orders: Orders = 1
    batch_size: int = 16


def score(
    name: str, model: Any, tokenizer: Any, task: Task, asking: Asking, tick: Tick = silent
) -> pd.DataFrame:
    """The samples of model *name* on *task*, one row per question and order, in the task's order.

    Under ``accelerate launch`` each process scores its share; the first gets all samples, the
    others an empty table.

    Args:
        name: The model's name in the suite, for the table.
        model: A transformers (or peft) causal language model.
        tokenizer: Its tokenizer.
        task: What is asked.
        asking: How it is put.
        tick: Hears of each request that is done.

    Raises:
        StageError: lm-eval returned no sample.
    """
    lm = PackedLM(pretrained=model, tokenizer=tokenizer, batch_size=asking.batch_size, tick=tick)
    manager = TaskManager(
        include_path=str(SPECS),
        include_defaults=False,
        metadata={
            "orders": asking.orders if task.shows_options else 1,
            "questions": asking.limit,
        },
    )
    with _progress(tick):
        found = simple_evaluate(
            model=lm,
            tasks=[task.name],
            task_manager=manager,
            bootstrap_iters=0,
            log_samples=True,
        )
    if found is None:
        return pd.DataFrame(columns=COLUMNS)
    samples = found["samples"][task.name]
    if not samples:
        raise StageError(f"task {task.name}: lm-eval returned no sample; is its data empty?")
    rows = [_row(name, task, sample, tokenizer) for sample in samples]
    return pd.DataFrame(rows, columns=COLUMNS).sort_values("doc_id", ignore_index=True)


def _row(model: str, task: Task, sample: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    doc = sample["doc"]
    row = {
        "model": model,
        "task": task.name,
        **{key: sample[key] for key in ("doc_id", "doc_hash", "prompt_hash", "target_hash")},
        "cluster": str(doc.get("cluster", sample["doc_hash"])),
        "order": doc.get("order", 0),
        "protocol": task.protocol,
        "metric": task.metric,
        "weight": 1.0,
        "prompt": sample["arguments"][0][0],
        "question": doc["question"],
        "options": list(doc.get("options", [])),
        "target": doc["target"],
        "prediction": None,
        "option_scores": [],
        "confidence": math.nan,
        "output": None,
        "output_tokens": None,
        "truncated": False,
        "unparsed": False,
    }
    if task.metric == "bits_per_byte":
        log_likelihood, length = sample["bits_per_byte"]
        return row | {"score": -log_likelihood / math.log(2), "weight": float(length)}
    row["score"] = float(sample["acc"])
    if row["options"]:
        scores = [float(score) for score, _ in sample["filtered_resps"]]
        best = max(range(len(scores)), key=scores.__getitem__)
        return row | {
            "option_scores": scores,
            "prediction": row["options"][best],
            "confidence": float(probabilities(scores)[best]),
        }
    output = sample["resps"][0][0]
    length = len(tokenizer(output, add_special_tokens=False)["input_ids"])
    reading = read(output)
    return row | {
        "output": output,
        "output_tokens": length,
        "truncated": length >= sample["arguments"][0][1]["max_gen_toks"],
        "prediction": reading.answer,
        "unparsed": reading.problem is not None,
    }


@contextlib.contextmanager
def _progress(tick: Tick) -> Iterator[None]:
    """Send lm-eval's bar for generation to *tick*: it draws it with tqdm and has no other way."""

    class Bar:
        def __init__(self, items: Any = None, total: int | None = None, **_: Any) -> None:
            self._items = items
            self._total = total if total is not None else len(items)
            self._done = 0

        def __iter__(self) -> Iterator[Any]:
            return iter(self._items)

        def update(self, count: int = 1) -> None:
            self._done += count
            tick(self._done, self._total, "")

        def close(self) -> None:
            pass

    original = huggingface.tqdm
    huggingface.tqdm = Bar
    try:
        yield
    finally:
        huggingface.tqdm = original
