"""Before scoring: is this adapter made for this base, and does it change anything at all?

An adapter that silently does nothing makes a tuned model that scores exactly as its base does, and
every comparison after it is about nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from ...errors import StageError

PROMPTS = (
    "A 54-year-old man comes to the emergency department because of crushing chest pain.",
    "Question: Which of the following is the most appropriate next step in management?\nAnswer:",
    "The drug of choice is",
    "### Question:\nWhat is the mechanism of this disease?\n\n### Response:\n",
)
"""What base and adapter are compared on."""


def sentinel(
    model: Any, tokenizer: Any, adapters: Sequence[str], prompts: Sequence[str] = PROMPTS
) -> dict[str, float]:
    """How much each of *adapters* changes: the largest |Δ log-probability| (nats) from the base.

    Over all positions of *prompts* and the whole vocabulary, in float32.

    Args:
        model: A ``PeftModel`` that holds all *adapters*; the one that is active stays so.
        tokenizer: Its tokenizer.
        adapters: Names of adapters.
        prompts: Texts to compare on.

    Raises:
        StageError: An adapter changes nothing, or answers with numbers that are none.
    """
    active = model.active_adapter
    with model.disable_adapter():
        base = _log_probabilities(model, tokenizer, prompts)
    changes = {}
    try:
        for name in adapters:
            model.set_adapter(name)
            found = _log_probabilities(model, tokenizer, prompts)
            changes[name] = max(
                (a - b).abs().max().item() for a, b in zip(found, base, strict=True)
            )
    finally:
        model.set_adapter(active)
    for name, change in changes.items():
        if not change > 0:
            what = "changes nothing" if change == 0 else "answers with NaN"
            raise StageError(
                f"adapter {name!r} {what}: compared with its base over {len(prompts)} prompts. "
                "Expected a trained adapter; was it saved before training, or damaged?"
            )
    return changes


def check_adapter(base: Any, path: Path) -> None:
    """Refuse the adapter in folder *path* if it was made for another model than *base*.

    Compares the base's name where both names are the Hub's, and every saved matrix with the module
    it belongs to.

    Raises:
        StageError: The folder is no adapter, or what differs: name, modules, hidden size or
            vocabulary.
    """
    model = base.get_base_model() if hasattr(base, "get_base_model") else base
    try:
        made_for = json.loads((path / "adapter_config.json").read_text("utf-8")).get(
            "base_model_name_or_path"
        )
    except (OSError, ValueError) as error:
        raise StageError(f"adapter {path}: adapter_config.json cannot be read: {error}") from error
    complaint = _other_name(made_for, model.config._name_or_path)
    weights = path / "adapter_model.safetensors"
    if complaint is None and weights.is_file():
        with safe_open(weights, "pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        complaint = _other_shapes(shapes, model)
    if complaint is not None:
        raise StageError(
            f"adapter {path} was made for another base than {model.config._name_or_path!r}: "
            f"{complaint}. Expected an adapter trained on this base"
        )


def _other_name(made_for: str | None, name: str | None) -> str | None:
    def core(hub: str) -> str:
        """The model's name without its owner and the marks of repackaged copies."""
        return re.sub(r"^meta-|(-unsloth)?(-bnb-4bit)?$", "", hub.split("/")[-1].lower())

    ids = [x for x in (made_for, name) if x and re.fullmatch(r"[\w.-]+/[\w.-]+", x)]
    if len(ids) < 2 or any(Path(x).exists() for x in ids) or core(ids[0]) == core(ids[1]):
        return None
    return f"its adapter_config.json names {made_for!r}"


def _other_shapes(shapes: dict[str, tuple[int, ...]], model: Any) -> str | None:
    """What about the saved matrices does not fit *model*, or None."""
    modules = dict(model.named_modules())
    words, width = model.get_input_embeddings().weight.shape
    known = 0
    for key, shape in shapes.items():
        name, _, kind = key.removeprefix("base_model.model.").partition(".lora_")
        module = modules.get(name if kind else name.rpartition(".")[0])
        if module is None:
            continue
        known += 1
        if kind.startswith("A."):
            wanted, saved = getattr(module, "in_features", None), shape[-1]
        elif kind.startswith("B."):
            wanted, saved = getattr(module, "out_features", None), shape[0]
        elif not kind and module in (model.get_input_embeddings(), model.get_output_embeddings()):
            if shape[0] != words:
                return f"vocabulary {shape[0]}, where the base has {words}"
            wanted, saved = width, shape[-1]
        else:
            continue
        if wanted is not None and wanted != saved:
            return f"{name} is {saved} wide, where the base has {wanted} (hidden size {width})"
    if shapes and known < len(shapes):
        missing = len(shapes) - known
        return (
            f"{missing} of its {len(shapes)} matrices are for modules that the base does not have"
        )
    return None


def _log_probabilities(model: Any, tokenizer: Any, prompts: Sequence[str]) -> list[Any]:
    """[tokens, vocabulary] of each prompt, float32."""
    with torch.inference_mode():
        return [
            model(tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device))
            .logits[0]
            .log_softmax(-1, torch.float32)
            for prompt in prompts
        ]
