"""The model card of a tuned model: a README.md for the Hub, written from a run's report.

It holds aggregates and hashes alone: no question, no answer, no path of the machine that ran it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePath

from .formatting import DASH
from .markdown import block, escape
from .report import Report
from .sections.scores import Score, Task
from .text import clean

ADAPTER, MERGED = "adapter", "merged"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Subject:
    """What a card is of.

    Attributes:
        model: Its name in the run.
        repo: ``OWNER/NAME`` on the Hub.
        base: Hub id of the base, or what else it is called.
        kind: Of the adapter, as PEFT names it: ``lora``, ``ia3``, ``prefix-tuning``.
        recipe: The recipe as YAML.
        what: ``adapter``, ``merged`` or ``both``.
    """

    model: str
    repo: str
    base: str
    kind: str
    recipe: str
    what: str


def card(report: Report, subject: Subject) -> str:
    """Metadata and text of the card; metadata is what ``huggingface_hub.ModelCard`` reads."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        model_name=subject.repo.rpartition("/")[2],
        base_model=subject.base if _HUB_ID.fullmatch(subject.base) else None,
        library_name="peft" if subject.what == ADAPTER else "transformers",
        pipeline_tag="text-generation",
        tags=["medbench", "medical", *([subject.kind] if subject.what == ADAPTER else [])],
        eval_results=_evaluations(report, subject) or None,
    )
    return f"---\n{data.to_yaml()}\n---\n\n{_text(report, subject)}"


def public(text: str) -> str:
    """*text* with every path of a local folder cut to its last name."""
    return re.sub(
        r"(?<![\w:/.<])(?:[A-Za-z]:)?(?:~|\.{1,2})?[/\\][^\s'\"]+",
        lambda found: PurePath(found[0].replace("\\", "/")).name,
        text,
    )


def _scores(report: Report, model: str) -> list[tuple[Task, Score]]:
    return [(task, score) for task in report.tasks for score in task.scores if score.model == model]


def _evaluations(report: Report, subject: Subject) -> list[object]:
    from huggingface_hub import EvalResult

    names = {"acc": ("accuracy", "Accuracy"), "bits_per_byte": ("bits_per_byte", "Bits per byte")}
    found: list[object] = []
    for task, score in _scores(report, subject.model):
        kind, name = names.get(task.metric, (task.metric, task.metric))
        if score.value is not None:
            found.append(
                EvalResult(
                    task_type="question-answering",
                    dataset_type=task.name,
                    dataset_name=task.name,
                    metric_type=kind,
                    metric_name=f"{name}, {score.n} questions, {clean(task.protocol)}",
                    metric_value=round(score.value, 6),
                    verified=False,
                )
            )
    return found


def _text(report: Report, subject: Subject) -> str:
    named = next((model for model in report.models if model.name == subject.model), None)
    base = (named.base if named else None) or "base"
    parts = [
        f"# {escape(subject.repo.rpartition('/')[2])}",
        f"{_opening(subject)} It was tuned and tested by medbench, suite {escape(report.suite)}, "
        f"{escape(report.created)}.",
        escape(report.disclaimer),
        *(f"> {escape(note)}" for note in (*report.notes, *report.problems)),
        "## Results",
        *(escape(line) for line in report.headlines if subject.model in line),
        _results(report, subject, base),
        escape(report.method),
        "## Limits of use",
        "Test questions are not patients. The figures hold for these questions, asked in this way; "
        "another prompt can move the same model by several points. A model of this kind states "
        "wrong things fluently. Have a clinician check whatever it says, and do not use it for "
        "diagnosis or treatment. The licences of the base and of the tuning data hold for it, too.",
        "## Training",
        _training(report, subject),
        _fold("Recipe", public(subject.recipe)),
        "## Reproduce",
        f"<pre>\n{block(public(report.command))}\n</pre>",
        _environment(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _opening(subject: Subject) -> str:
    base = escape(subject.base)
    if subject.what == ADAPTER:
        return f"An adapter (PEFT) over {base}."
    if subject.what == MERGED:
        return f"{base} with an adapter merged into its weights."
    return f"{base} with an adapter merged into its weights; the adapter lies in adapter/."


def _results(report: Report, subject: Subject, base: str) -> str:
    others = {task.name: score for task, score in _scores(report, base)}
    lines = [
        f"| Task | Protocol | Questions | {escape(base)} | {escape(subject.model)} | Difference |",
        "| :-- | :-- | --: | :-- | :-- | :-- |",
    ]
    for task, score in _scores(report, subject.model):
        other = others.get(task.name)
        one = score.comparison
        cells = [
            f"{task.name}, {task.metric_shown}",
            task.protocol,
            str(score.n),
            f"{other.shown} ({other.interval})" if other else DASH,
            f"{score.shown} ({score.interval})",
            f"{one.shown} ({one.interval})" if one else DASH,
        ]
        lines.append(f"| {' | '.join(escape(cell) for cell in cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _training(report: Report, subject: Subject) -> str:
    facts = [fact for one in report.trainings if one.model == subject.model for fact in one.facts]
    if not facts:
        return "The adapter was trained elsewhere."
    rows = [f"| {escape(name)} | {escape(public(value))} |" for name, value in facts]
    return "\n".join(["| | |", "| :-- | :-- |", *rows])


def _environment(report: Report) -> str:
    rows = [f"| {escape(name)} | {escape(public(value))} |" for name, value in report.environment]
    return "\n".join(["| Environment | |", "| :-- | :-- |", *rows]) if rows else ""


def _fold(name: str, text: str) -> str:
    if not text:
        return ""
    return f"<details>\n<summary>{name}</summary>\n\n<pre>\n{block(text)}\n</pre>\n\n</details>"
