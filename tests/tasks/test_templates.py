"""What stands around a question: chat template, reasoning, examples; and the words tuned on."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from medbench.errors import StageError
from medbench.tasks.catalog import task
from medbench.tasks.templates import (
    Prompt,
    applied,
    asking_frame,
    begun,
    difference,
    tuning_frame,
    warnings,
)

RECIPE = ("### Question:\n{Question}\n\n### Response:\n", "<think>\n{Complex_CoT}\n</think>\n{R}")


@pytest.mark.parametrize(
    ("rendered", "beginning", "whole"),
    [
        ("<a>\n", "<think>\n", "<a>\n<think>\n"),
        ("<a><think>\n", "<think>\n", "<a><think>\n"),
        ("<a><think>\n", "<think>\n\n</think>", "<a><think>\n\n</think>"),
    ],
)
def test_the_models_turn_begins_once(rendered: str, beginning: str, whole: str) -> None:
    assert begun(rendered, beginning) == whole


def test_the_protocol_says_all_of_it() -> None:
    full = Prompt(system="Be brief.", chat_template=True, think="closed", shots=3)
    assert full.on(task("medqa")).protocol == (
        "letters, log-likelihood, 3-shot, chat template, closed reasoning, system prompt"
    )
    assert Prompt().on(task("medqa")) == task("medqa")
    short = Prompt(max_tokens=64)
    assert "≤ 64 tokens, 0-shot" in short.on(task("medqa_cot")).protocol
    assert short.on(task("medqa")) == task("medqa")
    assert "0-shot" in full.on(task("medical_o1_heldout")).protocol
    with pytest.raises(ValidationError, match="chat_template: true"):
        Prompt(think="open")


class Chat:
    """A back end with a template of the kind that deletes a system prompt when *quiet*."""

    def __init__(self, quiet: bool = False, messages: bool = False) -> None:
        self._quiet, self._messages = quiet, messages

    def apply_chat_template(self, history: Any, add_generation_prompt: bool = True) -> Any:
        if self._messages:
            return (json.dumps(history),)
        kept = [m for m in history if not (self._quiet and m["role"] == "system")]
        return "".join(f"<{m['role']}>{m['content']}" for m in kept) + "<assistant>"


HISTORY = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "q"}]


def test_a_system_prompt_is_never_dropped_quietly() -> None:
    prompt = Prompt(system="Be brief.", chat_template=True, think="open")
    lm = Chat()
    with applied(lm, task("medqa"), prompt):
        text = lm.apply_chat_template(HISTORY)
    assert text == "<system>Be brief.<user>q<assistant><think>\n"
    assert lm.apply_chat_template(HISTORY).endswith("<assistant>")
    lm = Chat(quiet=True)
    with applied(lm, task("medqa"), prompt), pytest.raises(StageError, match="no place"):
        lm.apply_chat_template(HISTORY)
    lm = Chat(messages=True)
    with applied(lm, task("medqa"), prompt), pytest.raises(StageError, match="chat API"):
        lm.apply_chat_template(HISTORY)


def test_a_tokenizer_without_a_template_is_refused() -> None:
    lm: Any = Chat()
    lm.tokenizer = type("Tokenizer", (), {"chat_template": None})()
    with (
        pytest.raises(StageError, match="no chat template"),
        applied(lm, task("medqa"), Prompt(chat_template=True)),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "prompt", "same"),
    [
        ("medical_o1_heldout", Prompt(), True),
        ("medical_o1_heldout_reasoning", Prompt(), True),
        ("medqa", Prompt(), False),
        ("medqa_cot", Prompt(), False),
        ("medical_o1_heldout", Prompt(chat_template=True), False),
    ],
)
def test_other_words_than_those_tuned_on_are_noticed(name: str, prompt: Prompt, same: bool) -> None:
    tuned = tuning_frame(*RECIPE, "Question")
    assert tuned is not None
    assert (difference(tuned, asking_frame(task(name), prompt)) is None) is same


def test_listed_options_are_no_difference() -> None:
    tuned = tuning_frame("Question: {q}\nAnswer:", "{a}", "q")
    assert tuned is not None
    assert difference(tuned, asking_frame(task("medqa"), Prompt())) is None
    assert difference(tuned, asking_frame(task("medqa_text"), Prompt())) is None
    assert difference(tuned, asking_frame(task("medmcqa_letters"), Prompt())) is not None


def test_one_note_a_model() -> None:
    names = ["medqa", "medqa_5options_letters", "medical_o1_heldout"]
    tasks = [task(name) for name in names]
    (note,) = warnings("tuned", tuning_frame(*RECIPE, "Question"), tasks, Prompt())
    assert "medqa, medqa_5options_letters with “Question: …⏎Answer:”." in note
    assert "medical_o1_heldout" not in note
    assert warnings("tuned", None, tasks, Prompt()) == []
    chat = tuning_frame("<|im_start|>user\n{Question}<|im_end|>", "{a}", "Question")
    assert warnings("tuned", chat, tasks, Prompt(chat_template=True)) == []
    talks = tuning_frame(None, None, "Question")
    assert warnings("tuned", talks, tasks, Prompt(chat_template=True)) == []
    (note,) = warnings("tuned", talks, tasks, Prompt())
    assert "conversations in the chat template" in note
    assert "medical_o1_heldout with no chat template" in note


def test_words_inside_the_users_turn_are_compared_too() -> None:
    tuned = tuning_frame("{Question}", "<think>{C}</think>{R}", "Question", chat=True)
    assert tuned is not None
    chat = Prompt(chat_template=True)
    assert difference(tuned, asking_frame(task("medical_o1_heldout"), chat)) is None
    assert difference(tuned, asking_frame(task("medqa_cot"), chat)) is not None


def test_examples_chat_and_system_prompt_reach_the_model(
    clinic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from medbench.harness.evaluate import Asking, score
    from medbench.harness.scorer.lm import PackedLM
    from medbench.tasks import sources

    options = {"A": "w", "B": "x", "C": "y", "D": "z"}
    row = {"question": "Q", "options": options, "answer_idx": "B", "answer": "x"}
    (tmp_path / "medqa_us_4options").mkdir()
    for split, stem in (("test", "Asked?"), ("train", "Shown?")):
        file = tmp_path / "medqa_us_4options" / f"{split}.jsonl"
        file.write_text(json.dumps(row | {"question": stem}))
    monkeypatch.setenv(sources.DATA_DIR, str(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(clinic)
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    lm = PackedLM(pretrained=AutoModelForCausalLM.from_pretrained(clinic), tokenizer=tokenizer)

    def asked(prompt: Prompt) -> str:
        samples = score("base", lm, prompt.on(task("medqa")), Asking(prompt=prompt))
        assert len(samples) == 1
        return str(samples["prompt"][0])

    plain = asked(Prompt())
    shown = asked(Prompt(shots=1))
    assert shown == plain.replace("Asked?", "Shown?") + " B\n\n" + plain
    chat = asked(Prompt(chat_template=True, system="Be brief.", think="closed", shots=1))
    middle = plain.replace("Asked?", "Shown?")
    assert chat == (
        f"[system]Be brief.[user]{middle}[assistant]B[user]{plain}[assistant]"
        "<think>\n\n</think>\n\n"
    )
