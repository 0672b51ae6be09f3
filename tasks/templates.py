"""Prompts around prompts: system prompt, chat template, how reasoning begins, few-shot examples.

And the question that explains most "fine-tuning made it worse": is the model asked in the words it
was tuned on?
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ..errors import StageError
from ..harness.config import Section
from . import prompts
from .catalog import Task

THINK = {"open": "<think>\n", "closed": "<think>\n\n</think>\n\n"}
_CHAT = re.compile(r"<\|[a-z_]+\|>|\[INST\]|<start_of_turn>|<｜")
_QUESTION = "\ue000"
"""A private-use character that stands for the question in a frame."""


class Prompt(Section):
    """What stands around each task's own words; every key is part of the protocol.

    Attributes:
        system: A system prompt.
        chat_template: Put the prompt into the tokenizer's chat template.
        think: Begin the model's turn inside its reasoning (``open``) or after an empty one
            (``closed``); None leaves it to the template. Needs the chat template.
        shots: Worked examples before each question, of a split that is not the test.
        max_tokens: How long a generated answer may be; each task's own limit when None.
    """

    system: str | None = None
    chat_template: bool = False
    think: Literal["open", "closed"] | None = None
    shots: Annotated[int, Field(ge=0, le=64)] = 0
    max_tokens: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _needs_a_turn(self) -> Prompt:
        if self.think and not self.chat_template:
            raise ValueError(
                "think: expected chat_template: true, since it begins the model's turn"
            )
        return self

    def on(self, task: Task) -> Task:
        """*task* with a protocol that says how it is asked by this prompt."""
        label = task.protocol
        if self.shots and task.takes_shots:
            label = label.replace("0-shot", f"{self.shots}-shot")
        if self.max_tokens and task.generates:
            label = re.sub(r"≤ \d+ tokens", f"≤ {self.max_tokens} tokens", label)
        if self.chat_template:
            label += ", chat template"
        if self.think and not task.assistant:
            label += f", {self.think} reasoning"
        if self.system:
            label += ", system prompt"
        return replace(task, protocol=label)

    def beginning(self, task: Task) -> str:
        """What the model's turn begins with on *task*; empty when the template decides."""
        if not self.chat_template:
            return ""
        return task.assistant or THINK.get(self.think or "", "")


@contextlib.contextmanager
def applied(lm: Any, task: Task, prompt: Prompt) -> Iterator[None]:
    """Let lm-eval's chat prompts to *lm* begin the model's turn as *prompt* wants.

    lm-eval's own ``gen_prefix`` will not do: templates of reasoning models delete ``</think>`` from
    the assistant's turns. And it drops a system prompt that a template refuses, without an error.

    Raises:
        StageError: Inside the block: the tokenizer has no chat template, the template has no place
            for a system prompt, or the back end takes messages and so no beginning.
    """
    beginning = prompt.beginning(task)
    render = lm.apply_chat_template
    tokenizer: Any = getattr(lm, "tokenizer", None)
    if prompt.chat_template and hasattr(tokenizer, "chat_template") and not tokenizer.chat_template:
        raise StageError(
            "prompt.chat_template: the tokenizer has no chat template; set it to false, or use a "
            "model that was made for chat"
        )

    def apply(history: list[dict[str, str]], add_generation_prompt: bool = True) -> Any:
        text = render(history, add_generation_prompt=add_generation_prompt)
        shown = str(getattr(text, "prompt", text))
        if prompt.system and not isinstance(text, tuple) and prompt.system.strip() not in shown:
            raise StageError(
                "prompt.system: the chat template has no place for a system prompt; leave it out"
            )
        if not beginning:
            return text
        if not isinstance(text, str):
            raise StageError(
                f"prompt: {beginning!r} cannot begin the turn of a model behind a chat API; leave "
                "out think, and bits-per-byte tasks"
            )
        return begun(text, beginning)

    lm.apply_chat_template = apply
    try:
        yield
    finally:
        del lm.apply_chat_template


def begun(rendered: str, beginning: str) -> str:
    """*rendered*, a chat prompt up to the model's turn, with *beginning* in place of its own."""
    bare = rendered.rstrip()
    stem = bare.removesuffix("<think>") if bare.endswith("<think>") else rendered
    return stem + beginning


@dataclass(frozen=True)
class Frame:
    """The words around a question.

    Attributes:
        before: In front of it.
        after: Behind it, up to the place where the answer begins; listed options left out.
        chat: They stand in a chat template.
        begins: What a tuning answer begins with, e.g. ``<think>``; empty when it varies.
        known: The words are known, and not only whether there is a chat template.
    """

    before: str
    after: str
    chat: bool = False
    begins: str = ""
    known: bool = True


def tuning_frame(
    prompt: str | None, completion: str | None, question: str, chat: bool = False
) -> Frame | None:
    """The frame that a recipe tunes on; None when the question is not in its prompt.

    Args:
        prompt, completion: Templates with ``{Column}``; None for rows that are conversations.
        question: The column of the question.
        chat: They are put into the tokenizer's chat template.
    """
    if prompt is None or completion is None:
        return Frame("", "", chat=True, known=False)
    before, found, after = prompt.partition("{" + question + "}")
    if not found:
        return None
    written = bool(_CHAT.search(prompt))  # a chat template spelled out, of some model or other
    begins = completion.partition("{")[0].strip()
    return Frame(before, after, chat or written, begins, known=not written)


def asking_frame(task: Task, prompt: Prompt) -> Frame:
    """The frame in which *task* puts its questions."""
    if prompt.chat_template and task.assistant:
        return Frame("", "", chat=True)
    name = task.doc_to_text.rpartition(".")[2]
    if task.doc_to_text.startswith(f"{prompts.__name__}."):
        text = str(getattr(prompts, name)({"question": _QUESTION, "options": ["-", "-"]}))
    else:
        text = task.doc_to_text.replace("{{question}}", _QUESTION)
    before, _, after = text.partition(_QUESTION)
    return Frame(before, re.sub(r"(?m)^[A-Z]\. -\n", "", after), prompt.chat_template)


def difference(tuned: Frame, asked: Frame) -> str | None:
    """How the frame of a question differs from the one tuned on; None when it does not."""
    if tuned.chat != asked.chat:
        return "a chat template" if asked.chat else "no chat template"
    if not tuned.known:
        return None
    before, after = asked.before.strip(), asked.after.strip()
    rest = after.removeprefix(tuned.after.strip()).strip()
    begun_alike = not rest or bool(tuned.begins and rest.startswith(tuned.begins))
    if before == tuned.before.strip() and after.startswith(tuned.after.strip()) and begun_alike:
        return None
    return f"“{_shown(asked.before)}…{_shown(asked.after)}”"


def _shown(text: str) -> str:
    flat = text.replace("\n", "⏎")
    return flat if len(flat) <= 60 else f"{flat[:24]} […] {flat[-24:]}"


def warnings(model: str, tuned: Frame | None, tasks: list[Task], prompt: Prompt) -> list[str]:
    """A note for *model* on the tasks that ask in other words than it was tuned on."""
    if tuned is None:
        return []
    found: dict[str, list[str]] = {}
    for task in tasks:
        if (how := difference(tuned, asking_frame(task, prompt))) is not None:
            found.setdefault(how, []).append(task.name)
    if not found:
        return []
    listed = "; ".join(f"{', '.join(names)} with {how}" for how, names in found.items())
    words = f"“{_shown(tuned.before)}…{_shown(tuned.after)}{_shown(tuned.begins)}”"
    template = words if tuned.known else "conversations"
    where = " in the chat template" if tuned.chat else ""
    return [
        f"{model} was tuned with {template}{where}, but asked otherwise: {listed}. A tuned model "
        "can do worse for that alone, whatever it has learnt."
    ]
