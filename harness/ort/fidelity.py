"""How far an export is from its torch model: logits, KL divergence, greedy text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InputError, StageError

if TYPE_CHECKING:
    import torch

    from .runtime import OrtModel

    Feed = Callable[[torch.Tensor], torch.Tensor]
    """Appends token ids [1, T] to a cache and returns their logits [1, T, vocabulary]."""

_CHUNK = 128
"""Positions whose distributions, [positions, vocabulary] in float64, are held at a time."""


@dataclass(frozen=True)
class Fidelity:
    """What an export makes of fixed texts, beside torch in float32.

    A text is a prompt and torch's own greedy continuation of it, so that the positions compared
    are those that a user meets.

    Attributes:
        prompts: Number of prompts.
        tokens: Positions compared, over all texts.
        max_abs: Largest absolute difference of a logit.
        max_rel: The same over the largest absolute torch logit of that text; the worst text's.
        kl_mean: Kullback-Leibler divergence D(torch || export) of the next token's distribution,
            nats a position, the mean over all positions.
        kl_p95: Its 95th percentile.
        kl_max: Its largest value.
        same_top: Share of the positions where both find the same token most probable.
        greedy_matched: Greedy tokens equal to torch's before the first that differs, summed.
        greedy_total: Greedy tokens compared.
    """

    prompts: int
    tokens: int
    max_abs: float
    max_rel: float
    kl_mean: float
    kl_p95: float
    kl_max: float
    same_top: float
    greedy_matched: int
    greedy_total: int


def measure(
    model_dir: Path,
    onnx_dir: Path,
    prompts: list[list[int]],
    *,
    greedy_tokens: int = 64,
    device: str = "cpu",
    trust_remote_code: bool = False,
) -> Fidelity:
    """Compare an export with the checkpoint it was made from, the latter in float32.

    Args:
        model_dir: The checkpoint.
        onnx_dir: The export.
        prompts: Token ids, one list a prompt; run one by one.
        greedy_tokens: Tokens that each side generates after a prompt, end tokens ignored.
        device: Where both run.
        trust_remote_code: Run model code that the checkpoint ships.

    Raises:
        InputError: No prompts, no such device, or a prompt too long for the export.
        StageError: The export does not load, or its logits are not finite.
    """
    import numpy as np
    import torch

    from .runtime import OrtModel

    if not prompts or not all(prompts):
        raise InputError("fidelity: no prompts, or an empty one; give at least one token each")
    export = OrtModel(
        onnx_dir,
        device=device,
        threads=torch.get_num_threads(),
        max_len=max(map(len, prompts)) + greedy_tokens,
    )
    reference = _load(model_dir, device, trust_remote_code)
    logits: list[tuple[float, float]] = []
    kl, same = [], []
    matched = 0
    with torch.inference_mode():
        for prompt in prompts:
            theirs = _continued(_torch_feed(reference), prompt, greedy_tokens)
            ours = _continued(_export_feed(export), prompt, greedy_tokens)
            differs = [a != b for a, b in zip(ours, theirs, strict=True)]
            matched += differs.index(True) if any(differs) else greedy_tokens
            text = torch.tensor([prompt + theirs[:-1]])
            expected = reference(input_ids=text.to(device)).logits[0].float()
            export.reset()
            actual = export.prefill(text)[0].float()
            error = float((actual - expected).abs().max())
            if not np.isfinite(error):
                raise StageError(f"{onnx_dir}: logits are not finite; export it in another format")
            logits.append((error, error / float(expected.abs().max())))
            kl.append(_divergence(expected, actual))
            same.append((expected.argmax(-1) == actual.argmax(-1)).cpu().numpy())
    nats = np.concatenate(kl)
    return Fidelity(
        prompts=len(prompts),
        tokens=len(nats),
        max_abs=max(absolute for absolute, _ in logits),
        max_rel=max(relative for _, relative in logits),
        kl_mean=float(nats.mean()),
        kl_p95=float(np.percentile(nats, 95)),
        kl_max=float(nats.max()),
        same_top=float(np.concatenate(same).mean()),
        greedy_matched=matched,
        greedy_total=greedy_tokens * len(prompts),
    )


def _load(folder: Path, device: str, trust_remote_code: bool) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=trust_remote_code
    )
    return model.to(device).eval()


def _torch_feed(model: Any) -> Feed:
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)

    def feed(ids: torch.Tensor) -> torch.Tensor:
        done = model(input_ids=ids.to(model.device), past_key_values=cache, use_cache=True)
        logits: torch.Tensor = done.logits
        return logits

    return feed


def _export_feed(export: OrtModel) -> Feed:
    export.reset()
    return export.prefill


def _continued(feed: Feed, prompt: list[int], count: int) -> list[int]:
    """The *count* tokens that follow *prompt* greedily."""
    import torch

    said: list[int] = []
    ids = prompt
    while len(said) < count:
        said.append(int(feed(torch.tensor([ids]))[0, -1].argmax()))
        ids = said[-1:]
    return said


def _divergence(expected: torch.Tensor, actual: torch.Tensor) -> Any:
    """D(expected || actual), nats a position, from logits [positions, vocabulary]."""
    import torch

    parts = []
    for p, q in zip(expected.split(_CHUNK), actual.split(_CHUNK), strict=True):
        p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
        parts.append((p.exp() * (p - q)).sum(-1).clamp_min(0))  # rounding makes 0 negative
    return torch.cat(parts).cpu().numpy()
