"""Whether a model can take packed rows, and how long they may be: asked of the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .packing import Engine
from .trie import Trie

MASKED, UNMASKED = 0.1, 0.5
"""Errors of packed log-probabilities, as fractions of what ignoring the mask would do.

Below the first a model takes the mask (measured: 1e-5 in float32, 0.03 in bfloat16), above the
second it does not (a recurrent one is off by about 1). Between them its own noise decides.
"""

NOISES = 4
"""Between the two, a model takes the mask if it is off by at most so many times what it differs
from itself when a request is fed beside others.

Large random adapters in bfloat16 were off by 0.11; LLM.int8() rounds a token by what else is in
its batch (Dettmers et al. 2022, arXiv:2208.07339), so that lm-eval itself differs as much between
batch sizes 1 and 16.
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


@dataclass(frozen=True)
class Fit:
    """How a model takes packed rows, both as fractions of what ignoring the mask would do.

    ``error`` is that of packed rows: 0 is exact, 1 as wrong as a model that ignores the mask.
    ``noise`` is how much the model differs from itself between a request alone and beside others.
    """

    error: float
    noise: float

    @property
    def good(self) -> bool:
        """Whether what packed rows give is what the model gives."""
        return self.error <= min(UNMASKED, max(MASKED, NOISES * self.noise))


def probe(engine: Engine) -> Fit:
    """Try three requests of random tokens, two of which share a trunk.

    In packed rows so short that keys and values are carried over; each on its own; beside one
    another, padded at the end, which a causal model does not see; and run on as one sequence.
    """
    model, draw = engine.model, np.random.default_rng(0)
    words = model.get_input_embeddings().weight.shape[0]
    trunk, *tails = (draw.integers(0, words, size).tolist() for size in (24, 16, 16, 32))
    requests = [(trunk + tails[0], 8), (trunk + tails[1], 8), (tails[2], 8)]
    trie = Trie(requests)
    packed, _, _ = engine.answer(trie, 20)

    def plain(rows: list[list[int]]) -> Any:
        precision = engine.precision
        with torch.autocast(model.device.type, precision, enabled=precision is not None):
            logits = model(torch.tensor(rows, device=model.device)).logits
        return logits.log_softmax(-1, torch.float32).cpu().numpy()

    def told(scores: Any, request: tuple[list[int], int]) -> float:
        tokens, asked = request
        end = len(tokens) - 1
        return float(scores[np.arange(end - asked, end), tokens[-asked:]].sum())

    longest = max(len(tokens) for tokens, _ in requests)
    padded = [tokens[:-1] + [0] * (longest - len(tokens)) for tokens, _ in requests]
    with torch.inference_mode():
        alone = [told(plain([tokens[:-1]])[0], (tokens, asked)) for tokens, asked in requests]
        beside = [told(scores, one) for scores, one in zip(plain(padded), requests, strict=True)]
        row = trie.row(0, len(trie), np.empty(0, np.int64))
        run_on = plain([row.tokens.tolist()])[0][row.asked[row.which], row.targets]
    right = np.array(alone)
    wrong = np.bincount(row.requests, run_on, len(requests))
    effect = max(float(np.linalg.norm(wrong - right)), 1e-9)
    error, noise = np.linalg.norm([packed - right, np.array(beside) - right], axis=1) / effect
    return Fit(float(error), float(noise))


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
