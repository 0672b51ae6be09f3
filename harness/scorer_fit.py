"""Whether a model can take packed rows, and how long they may be: asked of the model itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .packing import Engine
from .trie import Trie

WORST_ERROR = 0.1
"""Largest error of packed log-probabilities, as a fraction of what ignoring the mask would do.

A model that takes the mask is off by its rounding (measured: below 1e-5 in float32, 0.03 in
bfloat16); one that does not, such as a recurrent one, is off by about 1.
"""

WORST_ERROR_INT8 = 0.4
"""The same for int8 weights.

LLM.int8() rounds a token by what else is in its batch (Dettmers et al. 2022, arXiv:2208.07339), so
that lm-eval itself differs as much between batch sizes 1 and 16.
"""

FLEX_BUDGET = 8192
"""Tokens a row with FlexAttention where memory allows; longer rows were not faster."""

DENSE_BUDGET = 512
"""Tokens a row with a dense mask, whose cost grows with the square of the row."""


def known_misfit(model: Any, longest: int) -> str | None:
    """Why *model* cannot take packed rows, as far as its configuration tells; None otherwise.

    Args:
        model: A transformers or peft model.
        longest: Tokens of the longest request that will be fed.
    """
    for adapter in getattr(model, "peft_config", {}).values():
        if adapter.is_prompt_learning:
            return f"adapter type {adapter.peft_type.value} puts virtual tokens before the prompt"
        if getattr(adapter, "alora_invocation_tokens", None):
            return "an activated LoRA looks for its invocation tokens in each sequence"
    config = model.config.get_text_config(decoder=True)
    for key in ("sliding_window", "attention_chunk_size"):
        window = getattr(config, key, None)
        if window is not None and window < longest:
            return f"{key} {window} is shorter than the longest request, {longest} tokens"
    return None


def mask_error(engine: Engine) -> float:
    """How wrong packed rows are: 0 is exact, 1 as wrong as a model that ignores the mask.

    Three requests of random tokens, two of which share a trunk, in rows so short that keys and
    values are carried over; compared with each request on its own, and with all of them run on as
    one sequence.
    """
    model, draw = engine.model, np.random.default_rng(0)
    words = model.get_input_embeddings().weight.shape[0]
    trunk, *tails = (draw.integers(0, words, size).tolist() for size in (24, 16, 16, 32))
    requests = [(trunk + tails[0], 8), (trunk + tails[1], 8), (tails[2], 8)]
    trie = Trie(requests)
    packed, _, _ = engine.answer(trie, 20)

    def plain(tokens: list[int]) -> Any:
        precision = engine.precision
        with torch.autocast(model.device.type, precision, enabled=precision is not None):
            logits = model(torch.tensor([tokens], device=model.device)).logits[0]
        return logits.log_softmax(-1, torch.float32).cpu().numpy()

    with torch.inference_mode():
        right = [
            plain(tokens[:-1])[np.arange(-asked, 0), tokens[-asked:]].sum()
            for tokens, asked in requests
        ]
        row = trie.row(0, len(trie), np.empty(0, np.int64))
        run_on = plain(row.tokens.tolist())[row.asked[row.which], row.targets]
    wrong = np.bincount(row.requests, run_on, len(requests))
    effect = float(np.linalg.norm(wrong - right))
    return float(np.linalg.norm(packed - right)) / max(effect, 1e-9)


def worst_error(model: Any) -> float:
    """The largest :func:`mask_error` of a model like *model* that takes the mask."""
    int8 = any(type(layer).__name__ == "Linear8bitLt" for layer in model.modules())
    return WORST_ERROR_INT8 if int8 else WORST_ERROR


def find_budget(engine: Engine) -> int:
    """Tokens a row: as many as are useful and as memory holds.

    On a GPU one row of random tokens is run, an eighth of them asked for; running out of memory
    halves it until it fits. On a CPU rows are short, and small beside the weights.
    """
    model = engine.model
    budget = FLEX_BUDGET if engine.flex else DENSE_BUDGET
    if model.device.type != "cuda":
        return budget
    draw = np.random.default_rng(0)
    words = model.get_input_embeddings().weight.shape[0]
    each = min(256, budget)
    texts = draw.integers(0, words, (budget // each, each)).tolist()
    requests = [(text, each // 8) for text in texts]
    return engine.answer(Trie(requests), budget)[2]
