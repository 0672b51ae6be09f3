"""The shipped checkpoint of the fictional clinic: it loads, and its tokenizer takes any text."""

from __future__ import annotations

from typing import Any

import pytest

from medbench.tasks.clinic import CHECKPOINT, o1_docs


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(CHECKPOINT)


@pytest.fixture(scope="module")
def model() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(CHECKPOINT).eval()


@pytest.mark.parametrize(
    "text", ["发热三天，咳嗽。", "naïve café, 37.5 °C ± 0.2", "a\n\n  b\t😀", ""]
)
def test_the_tokenizer_gives_any_text_back(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


def test_think_marks_are_single_tokens_and_survive_decoding(tokenizer: Any) -> None:
    ids = tokenizer("<think>a</think>")["input_ids"]
    assert len(ids) == 3
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<think>a</think>"
    assert set(tokenizer.all_special_tokens) == {tokenizer.eos_token, tokenizer.pad_token}


def test_the_model_is_an_fp32_llama_with_room_for_2048_tokens(model: Any, tokenizer: Any) -> None:
    import torch

    assert type(model).__name__ == "LlamaForCausalLM"
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config.max_position_embeddings == 2048
    assert model.config.vocab_size == len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_the_base_answers_in_due_form_with_a_value_of_the_disease(
    model: Any, tokenizer: Any
) -> None:
    docs = o1_docs("dev")[:8]
    for doc in docs:
        prompt = tokenizer(f"Question: {doc['Question']}\n", return_tensors="pt")
        output = model.generate(**prompt, max_new_tokens=64, do_sample=False)
        text = tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
        assert text.startswith("<think>")
        stated = text.split("</think>\n")[1].rpartition("The answer is ")[2]
        assert stated.rstrip(".") in doc["candidates"]
