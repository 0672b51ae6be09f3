"""Scores one model on one task. The only file that speaks to lm-eval.

lm-eval builds the prompts, runs the model and grades; what comes back is the samples table, in
medbench's own columns (docs/reference/run-folder.md).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from lm_eval import evaluator, simple_evaluate
from lm_eval.tasks import TaskManager

from ..errors import StageError
from ..tasks import templates
from ..tasks.answers import opens_reasoning, read
from ..tasks.catalog import Task, include_paths
from ..tasks.datasets import Orders
from .models.endpoint import Reply
from .progress import Tick, bars_of, silent
from .statistics.calibration import probabilities

COLUMNS = [
    "model", "task", "doc_id", "cluster", "order", "doc_hash", "prompt_hash", "target_hash",
    "protocol", "metric", "score", "weight", "prompt", "subject", "question", "options", "target",
    "prediction", "option_scores", "confidence", "output", "output_tokens", "truncated", "unparsed",
    "problem", "cut",
]  # fmt: skip


@dataclass(frozen=True)
class Asking:
    """How a task is put.

    Attributes:
        limit: The first so many questions; all when None.
        orders: Under how many cyclic shifts of its options a question is asked, or ``all``; for
            tasks that show the options to the model, others are asked once.
        prompt: What stands around the task's own words.
        messages: The model takes messages; its server alone knows how many tokens fit.
    """

    limit: int | None = None
    orders: Orders = 1
    prompt: templates.Prompt = field(default_factory=templates.Prompt)
    messages: bool = False


def score(
    name: str, lm: Any, task: Task, asking: Asking = Asking(), tick: Tick = silent
) -> pd.DataFrame:
    """The samples of model *name* on *task*, one row per question and order, in the task's order.

    Under ``accelerate launch`` each process scores its share; the first gets all samples, the
    others an empty table.

    Args:
        name: The model's name in the suite, for the table.
        lm: The model, as lm-eval asks it (``models.load.ScoringPool``, or any LM of lm-eval's).
        task: What is asked.
        asking: How it is put.
        tick: Hears of each request that is done.

    Raises:
        StageError: lm-eval returned no sample, or an answer may be as long as the model's context.
    """
    prompt = asking.prompt
    with (
        include_paths(task) as folders,
        templates.applied(lm, task, prompt),
        bars_of(lm, tick),
        _asking_nothing_of_the_machine(),
    ):
        manager = TaskManager(
            include_defaults=False,
            metadata={
                "orders": asking.orders if task.shows_options else 1,
                "questions": asking.limit,
                "shots": prompt.shots if task.takes_shots else 0,
            },
        )
        # By its path: a search for its name would read every spec of medbench for each task.
        spec = Path(folders[-1], "task.yaml") if task.own else task.spec
        loaded = manager.load([str(spec)])["tasks"][task.name]
        if prompt.chat_template and task.assistant:
            loaded.set_config("doc_to_text", "{{question}}")
        if prompt.max_tokens and task.generates:
            limit = {"max_gen_toks": prompt.max_tokens}
            loaded.set_config("generation_kwargs", limit, update=True)
        if task.generates and not asking.messages:
            _check_room(name, lm, task, loaded.config.generation_kwargs["max_gen_toks"])
        found = simple_evaluate(
            model=lm,
            tasks=[loaded],
            task_manager=manager,
            num_fewshot=prompt.shots if task.takes_shots else None,
            bootstrap_iters=0,
            log_samples=True,
            system_instruction=prompt.system,
            apply_chat_template=prompt.chat_template,
        )
    if found is None:
        return pd.DataFrame(columns=COLUMNS)
    samples = found["samples"][task.name]
    if not samples:
        raise StageError(f"task {task.name}: lm-eval returned no sample; is its data empty?")
    rows = [_row(name, task, sample, lm) for sample in samples]
    return pd.DataFrame(rows, columns=COLUMNS).sort_values("doc_id", ignore_index=True)


@contextlib.contextmanager
def _asking_nothing_of_the_machine() -> Iterator[None]:
    """Stop lm-eval from asking pip, git, compilers and GPUs what they are, two seconds each task.

    Nobody reads it: the manifest tells the environment once.
    """
    names = ("add_env_info", "get_git_commit_hash")
    asked = {name: getattr(evaluator, name) for name in names}
    for name in names:
        setattr(evaluator, name, lambda *_: None)
    try:
        yield
    finally:
        for name, function in asked.items():
            setattr(evaluator, name, function)


def _row(model: str, task: Task, sample: dict[str, Any], lm: Any) -> dict[str, Any]:
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
        "prompt": _text(sample["arguments"][0][0]),
        "subject": doc.get("subject"),
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
        "problem": None,
        "cut": _is_cut(lm, sample["arguments"]),
    }
    if task.metric == "bits_per_byte":
        log_likelihood, length = sample["bits_per_byte"]
        return row | {"score": -log_likelihood / math.log(2), "weight": float(length)}
    row["score"] = float(sample["acc"])
    if not isinstance(sample["arguments"][0][1], dict):  # the options were scored
        scores = [float(score) for score, _ in sample["filtered_resps"]]
        best = max(range(len(scores)), key=scores.__getitem__)
        return row | {
            "option_scores": scores,
            "prediction": row["options"][best],
            "confidence": float(probabilities(scores)[best]),
        }
    output = sample["resps"][0][0]
    length, cut = _length(lm, output, sample["arguments"][0][1]["max_gen_toks"])
    reading = read(doc, output, opened=opens_reasoning(row["prompt"]), cut=cut)
    return row | {
        # The task cannot see that the prompt opened the reasoning; see docs/reference/answers.md.
        "score": 0.0 if reading.problem else row["score"],
        "output": output,
        "output_tokens": length,
        "truncated": cut,
        "prediction": reading.answer,
        "unparsed": reading.problem is not None,
        "problem": reading.problem,
    }


def _text(prompt: Any) -> str:
    """A prompt as text; messages to a chat back end are JSON, which lm-eval puts into a tuple."""
    return str(prompt[0] if isinstance(prompt, tuple) else prompt)


def _length(lm: Any, output: str, limit: int) -> tuple[int | None, bool]:
    """(tokens of *output*, whether it stopped at *limit*): by the server's word, or counted.

    None where neither the server nor a tokenizer says.
    """
    if isinstance(output, Reply) and (output.tokens is not None or output.truncated):
        return output.tokens, output.truncated
    tokenizer = getattr(lm, "tokenizer", None)
    if not callable(tokenizer):
        return None, False
    tokens = len(tokenizer(str(output), add_special_tokens=False)["input_ids"])
    return tokens, tokens >= limit


def _check_room(model: str, lm: Any, task: Task, limit: int) -> None:
    context = getattr(lm, "max_length", None)
    if isinstance(context, int) and limit >= context:
        raise StageError(
            f"task {task.name}, model {model}: its answers may have {limit} tokens, which leaves "
            f"no room for the question in the model's {context}; set prompt.max_tokens to less, "
            f"e.g. {context // 4}"
        )


def _is_cut(lm: Any, arguments: list[tuple[Any, Any]]) -> bool:
    """Whether prompt and answer did not fit the model's context.

    lm-eval then takes away the prompt's beginning. False where tokenizer or limit is not known.
    """
    prompt, rest = arguments[0]
    context, tokenizer = getattr(lm, "max_length", None), getattr(lm, "tokenizer", None)
    if not (isinstance(context, int) and isinstance(prompt, str) and callable(tokenizer)):
        return False
    generated = isinstance(rest, dict)
    answers = [] if generated else [str(answer) for _, answer in arguments]
    room = context - rest["max_gen_toks"] if generated else context + 1  # the last is not fed
    if len(prompt.encode()) + max((len(text.encode()) for text in answers), default=0) < room:
        return False  # a token has at least one byte
    tokens = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in answers]
    return len(tokenizer(prompt)["input_ids"]) + max(tokens, default=0) > room
