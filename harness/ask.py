"""One question to several models: one base in memory, adapters switched, answers as they come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from string import Formatter
from typing import Any

from ..errors import InputError, StageError
from ..finetune.recipe import Recipe, load_recipe
from .folder.store import RunFolder
from .models import backends
from .suite import Suite
from .tuned import adapter_of

Hear = Callable[[str, str], None]
"""Gets the name of a model and what it has said since the last call."""
OPEN = "<think>"


def ask(
    question: str,
    names: list[str],
    suite: Suite,
    run: RunFolder,
    hear: Hear,
    *,
    device: str = "cpu",
    max_tokens: int = 512,
) -> dict[str, str]:
    """What each of the models *names* of *suite* says to *question*, greedily decoded.

    A tuned model is asked in the words of the recipe that it was tuned by, a base in those of
    the first tuned model that stands on it. Where the prompt ends with ``<think>``, so does the
    answer begin.

    Args:
        run: Where adapters that were tuned lie.
        max_tokens: Of an answer, reasoning included.

    Raises:
        InputError: A model runs on an engine that gives no single tokens, or has no adapter.
        StageError: A model cannot be loaded.
    """
    from .models.load import ScoringPool

    specs = suite.models
    for name in names:
        engine = backends.find(specs[specs[name].base or name].backend)
        if not engine.torch:
            raise InputError(
                f"--models {name}: runs on back end {engine.name}; what can be asked here are "
                "models of backend medbench or hf"
            )
    adapters = {n: adapter_of(run, suite, n) for n in names if specs[n].base}
    # Models of one base after each other: a base is loaded once.
    order = sorted(
        names, key=lambda n: [specs[m].base or m for m in names].index(specs[n].base or n)
    )
    pool = ScoringPool(specs, adapters, device)
    said = {}
    try:
        for name in order:
            base = specs[name].base or name
            mine = [name] if specs[name].base else []
            mine += [n for n in names if specs[n].base == base]
            recipe = recipe_of(suite, mine[0], adapters[mine[0]]) if mine else None
            with pool.use(name) as lm:
                prompt, plain = worded(question, recipe, lm.tokenizer)
                begun = OPEN if prompt.rstrip().endswith(OPEN) else ""
                hear(name, begun)
                said[name] = begun + _generated(lm, prompt, plain, max_tokens, name, hear)
    finally:
        pool.close()
    return {name: said[name] for name in names}


def recipe_of(suite: Suite, name: str, adapter: Path) -> Recipe | None:
    """The recipe by which model *name* was tuned, where it is known."""
    kept = adapter / "recipe.yaml"
    if kept.is_file():
        return load_recipe(str(kept))
    spec = suite.models[name].adapter
    return load_recipe(spec.recipe) if spec and spec.recipe else None


def worded(question: str, recipe: Recipe | None, tokenizer: Any) -> tuple[str, bool]:
    """(*question* in the recipe's words, whether the tokenizer adds its special tokens).

    Other columns that the recipe's prompt names are left empty. Without a recipe a model with a
    chat template is asked through it, and any other in the question's own words.
    """
    text = question
    if recipe is not None and recipe.prompt is not None:
        columns = {name for _, name, _, _ in Formatter().parse(recipe.prompt) if name}
        values = dict.fromkeys(columns, "") | {recipe.data.question: question}
        text = recipe.prompt.format_map(values)
    if (recipe is not None and recipe.format == "text") or not tokenizer.chat_template:
        return text, True
    turns = [{"role": "user", "content": text}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True), False


def _generated(lm: Any, prompt: str, plain: bool, limit: int, name: str, hear: Hear) -> str:
    import torch
    from transformers import TextStreamer

    tokenizer = lm.tokenizer
    parts: list[str] = []

    class Told(TextStreamer):  # type: ignore[misc]
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            parts.append(text)
            hear(name, text)

    given = tokenizer(prompt, return_tensors="pt", add_special_tokens=plain)
    ids = given["input_ids"]
    if plain and ids.shape[1] > 1 and ids[0, -1] == tokenizer.eos_token_id:
        ids = ids[:, :-1]  # some tokenizers end every text
    ids = ids.to(lm.device)
    room = getattr(lm.model.config, "max_position_embeddings", None)
    if room and ids.shape[1] >= room:
        raise InputError(f"the question has {ids.shape[1]} tokens; {name} takes fewer than {room}")
    try:
        with torch.inference_mode():
            lm.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=min(limit, room - ids.shape[1]) if room else limit,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=tokenizer.pad_token_id,
                streamer=Told(tokenizer, skip_prompt=True, skip_special_tokens=True),
            )
    except (RuntimeError, ValueError) as error:
        raise StageError(f"{name} could not answer: {str(error).splitlines()[0]}") from error
    return "".join(parts)
