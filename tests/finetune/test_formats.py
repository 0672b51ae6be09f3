"""How rows of any source become prompt, completion and token ids."""

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from transformers import AutoTokenizer

from medbench.errors import InputError
from medbench.finetune.dataset import Example, encode, examples, keep_apart
from medbench.finetune.recipe import Recipe, load_recipe
from medbench.finetune.train import Job, tune
from medbench.harness.progress import silent
from medbench.harness.suite import ModelSpec

# In the manner of DeepSeek-R1's: reasoning of earlier turns is dropped, and a new one is opened.
REASONING = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<U>{{ m['content'] }}"
    "{% elif m['role'] == 'system' %}<S>{{ m['content'] }}"
    "{% else %}<A>{{ m['content'].split('</think>')[-1] }}<END>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<A><think>\n{% endif %}"
)
PLAIN = REASONING.replace("<think>\n", "")
QUESTION = {"Question": "Which drug?", "Complex_CoT": "Fever, so one.", "Response": "Zolvane."}


@pytest.fixture
def tokenizer(clinic: Path) -> Any:
    return AutoTokenizer.from_pretrained(clinic)


def recipe(data: dict[str, Any], **change: Any) -> Recipe:
    clinic = load_recipe("clinic")
    data = {"validation_rows": 0} | data
    return clinic.model_copy(update={"data": clinic.data.model_copy(update=data), **change})


def chat(source: Path, form: str = "chat") -> Recipe:
    completion = "<think>\n{Complex_CoT}\n</think>\n{Response}"
    words = {"prompt": "{Question}", "completion": completion}
    return recipe({"source": str(source)}, format=form, **words)


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


# -- chat -----------------------------------------------------------------------------------------


def test_a_template_that_opens_the_reasoning(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.chat_template = REASONING
    mine = chat(jsonl(tmp_path / "rows.jsonl", QUESTION))
    (one,) = examples(mine, 0, tokenizer)
    assert one.prompt == "<U>Which drug?<A><think>\n"
    assert one.completion == "Fever, so one.\n</think>\nZolvane.", "the reasoning is still there"


def test_a_template_that_does_not(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.chat_template = PLAIN
    (one,) = examples(chat(jsonl(tmp_path / "rows.jsonl", QUESTION)), 0, tokenizer)
    assert one.prompt == "<U>Which drug?<A>"
    assert one.completion == "<think>\nFever, so one.\n</think>\nZolvane."


def test_the_template_of_a_published_model(tmp_path: Path, real_data: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(real_data / "tokenizer_qwen")
    mine = chat(jsonl(tmp_path / "rows.jsonl", QUESTION))
    found = examples(mine, 0, tokenizer)
    assert found[0].prompt.endswith("<|im_start|>assistant\n")
    assert "<|im_start|>user\nWhich drug?<|im_end|>" in found[0].prompt
    (row,) = encode(found, tokenizer, mine).rows
    text = tokenizer.decode(row["input_ids"])
    assert text == found[0].prompt + found[0].completion + tokenizer.eos_token
    first = next(place for place, label in enumerate(row["labels"]) if label != -100)
    assert tokenizer.decode(row["labels"][first:]) == found[0].completion + tokenizer.eos_token


@pytest.mark.parametrize("form", ["chat", "messages"])
def test_without_a_template_there_is_no_chat(tmp_path: Path, tokenizer: Any, form: str) -> None:
    tokenizer.chat_template = None
    mine = chat(jsonl(tmp_path / "rows.jsonl", QUESTION), form)
    with pytest.raises(InputError, match=f"format {form} needs a tokenizer with a chat template"):
        examples(mine, 0, tokenizer)


# -- messages -------------------------------------------------------------------------------------

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Fever?"},
    {"role": "assistant", "content": "<think>x</think>Since when?"},
    {"role": "user", "content": "Monday."},
    {"role": "assistant", "content": "<think>\ny\n</think>\nRest."},
]


def test_a_conversation_teaches_its_last_answer(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.chat_template = REASONING
    rows = jsonl(tmp_path / "rows.jsonl", {"messages": TURNS})
    mine = recipe({"source": str(rows)}, format="messages", prompt=None, completion=None)
    (one,) = examples(mine, 0, tokenizer)
    assert one.prompt == "<S>Be brief.<U>Fever?<A>Since when?<END><U>Monday.<A><think>\n"
    assert one.completion == "y\n</think>\nRest."


def test_conversations_in_parquet(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.chat_template = PLAIN
    path = tmp_path / "rows.parquet"
    pd.DataFrame({"messages": [TURNS]}).to_parquet(path)
    mine = recipe({"source": str(path)}, format="messages", prompt=None, completion=None)
    assert examples(mine, 0, tokenizer)[0].completion == TURNS[-1]["content"]


@pytest.mark.parametrize(
    ("row", "part"),
    [
        ({"turns": []}, "no list of messages in column 'messages'"),
        ({"messages": "hello"}, "no list of messages"),
        ({"messages": [{"role": "user"}]}, "a message is not"),
        ({"messages": [{"role": "user", "content": None}]}, "a message is not"),
        ({"messages": TURNS[:4]}, "does not end with an answer of the assistant"),
        ({"messages": [*TURNS[:4], {"role": "assistant", "content": " "}]}, "does not end"),
    ],
)
def test_conversations_that_are_none(
    tmp_path: Path, tokenizer: Any, row: object, part: str
) -> None:
    tokenizer.chat_template = PLAIN
    rows = jsonl(tmp_path / "rows.jsonl", {"messages": TURNS}, row)
    mine = recipe({"source": str(rows)}, format="messages", prompt=None, completion=None)
    with pytest.raises(InputError, match=f"1 of 2 rows do not fit.*row 1: .*{part}"):
        examples(mine, 0, tokenizer)


# -- sources and columns --------------------------------------------------------------------------

CALLS = [{"dialogue": "Hello?", "type": "wrong"}, {"dialogue": "Your card, please.", "type": "ssn"}]
NAMED = [Example(0, "Hello? ->", "wrong"), Example(1, "Your card, please. ->", "ssn")]


def calls(source: str, **data: Any) -> Recipe:
    columns = {"Dialogue": "dialogue", "Kind": "type"}
    data = {"source": source, "columns": columns, "question": "Dialogue"} | data
    return recipe(data, prompt="{Dialogue} ->", completion="{Kind}")


def written(folder: Path, form: str) -> Path:
    path = folder / f"rows.{form}"
    if form == "parquet":
        pd.DataFrame(CALLS).to_parquet(path)
    elif form == "csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(CALLS[0]))
            table.writeheader()
            table.writerows(CALLS)
    elif form == "json":
        path.write_text(json.dumps(CALLS), "utf-8")
    else:
        jsonl(path, *CALLS)
    return path


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "parquet"])
def test_columns_of_any_file_by_our_names(tmp_path: Path, form: str) -> None:
    assert examples(calls(str(written(tmp_path, form))), 0) == NAMED


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    mine = calls(str(written(tmp_path, "jsonl")), columns={"Dialogue": "text"})
    with pytest.raises(InputError, match=r"row 0: no column 'text'.*columns are: dialogue, type"):
        examples(mine, 0)


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`hub:` passes name, configuration, split and revision on as the recipe has them."""
    asked: list[Any] = []

    def load(*args: Any, **options: Any) -> Any:
        asked.append((args, options))
        return datasets.Dataset.from_list(CALLS)

    monkeypatch.setattr(datasets, "load_dataset", load)
    mine = calls("hub:someone/calls", config="en", split="test", revision="abc")
    assert examples(mine, 0) == NAMED
    assert asked == [(("someone/calls", "en"), {"split": "test", "revision": "abc"})]


def test_the_hub_library_reads_a_folder_of_files(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", *CALLS)
    assert examples(calls(f"hub:{tmp_path}"), 0) == NAMED


def test_a_data_set_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"hub:.*cannot be loaded.*or give a local file"):
        examples(calls(f"hub:{tmp_path / 'nowhere'}"), 0)


def test_a_shipped_recipe_for_dialogues_fits_their_columns(tmp_path: Path) -> None:
    shipped = load_recipe("article-dialogue-r16")
    source = f"hub:{jsonl(tmp_path / 'train.jsonl', *CALLS).parent}"
    mine = shipped.model_copy(update={"data": shipped.data.model_copy(update={"source": source})})
    first, _ = examples(mine, 0)
    assert (first.prompt, first.completion) == ("### Dialogue:\nHello?\n\n### Kind:\n", "wrong")


# -- rows that do not fit -------------------------------------------------------------------------


def test_rows_too_long_are_left_out_and_counted(tmp_path: Path, short_recipe: Path) -> None:
    rows = [
        QUESTION | {"Complex_CoT": "long " * (200 if place in (1, 3) else 1)} for place in range(6)
    ]
    source = {"source": str(jsonl(tmp_path / "rows.jsonl", *rows))}
    mine = recipe(source, max_length=100, quantization="none", steps=1, logging_steps=1)
    base = ModelSpec(pretrained="embedded:clinic")
    detail = tune(Job(base, mine, tmp_path / "tuned", tmp_path / "steps", "cpu"), silent)
    assert (detail["rows"], detail["too_long"]) == (4, 2)
    data = json.loads((tmp_path / "tuned" / "data.json").read_text("utf-8"))
    assert data["too_long"] == [1, 3]


def test_no_row_is_cut(tmp_path: Path, tokenizer: Any) -> None:
    mine = recipe({"source": str(jsonl(tmp_path / "rows.jsonl", QUESTION))}, loss_on="text")
    found = examples(mine, 0)
    (row,) = encode(found, tokenizer, mine).rows
    fits = mine.model_copy(update={"max_length": len(row["input_ids"])})
    assert encode(found, tokenizer, fits).rows == [row]
    short = mine.model_copy(update={"max_length": len(row["input_ids"]) - 1})
    assert encode(found, tokenizer, short).rows == []
    assert encode(found, tokenizer, short).too_long == [0]
    assert row["labels"] == row["input_ids"], "loss_on: text counts the prompt too"


def test_when_no_row_is_left_it_says_why(tmp_path: Path) -> None:
    source = {"source": str(jsonl(tmp_path / "rows.jsonl", QUESTION, QUESTION))}
    mine = recipe(source, max_length=5, quantization="none")
    base = ModelSpec(pretrained="embedded:clinic")
    with pytest.raises(InputError, match="of 2 rows 2 are longer than max_length 5"):
        tune(Job(base, mine, tmp_path / "tuned", tmp_path / "steps", "cpu"), silent)


def test_all_bad_rows_are_named_at_once_up_to_ten(tmp_path: Path) -> None:
    bad = [QUESTION | {"Response": "  "}] * 12
    mine = recipe({"source": str(jsonl(tmp_path / "rows.jsonl", QUESTION, *bad))})
    with pytest.raises(InputError) as caught:
        examples(mine, 0)
    message = str(caught.value)
    assert "12 of 13 rows do not fit recipe 'clinic'" in message
    assert "row 1: column 'Response' is empty; row 2:" in message
    assert "row 10: column 'Response' is empty; and 2 more" in message


def test_a_row_without_reasoning_still_teaches_its_answer(tmp_path: Path) -> None:
    mine = recipe({"source": str(jsonl(tmp_path / "rows.jsonl", QUESTION | {"Complex_CoT": ""}))})
    assert examples(mine, 0)[0].completion == "<think></think>\nZolvane."


def test_rows_kept_apart_are_spread_over_the_data() -> None:
    """A sorted data set would otherwise be validated on one end of it."""
    assert keep_apart([*range(10)], 0) == ([*range(10)], [])
    assert keep_apart([*range(10)], 1) == ([0, 1, 2, 3, 4, 6, 7, 8, 9], [5])
    assert keep_apart([*range(10)], 3)[1] == [1, 5, 8]
    for count in range(11):
        train, validation = keep_apart([*range(10)], count)
        assert len(validation) == count
        assert sorted(train + validation) == [*range(10)]
