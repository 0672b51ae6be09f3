"""Fold an adapter into its base: one plain checkpoint, to be scored, exported and shipped."""

from __future__ import annotations

import json
import shutil
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..harness.folder.store import atomic_path
from ..harness.planning.weights import check_adapter
from ..harness.suite import ModelSpec
from ..harness.tuned import public_name

RECORD = "medbench-merge.json"
PROMPTS = (
    "### Question:\nWhich finding points to iron deficiency?\n\n### Response:\n",
    "Question: A child has a fever and a rash. What comes next?\nAnswer:",
    "The first sign of shock in a young adult is",
)
"""On which merged and unmerged are compared."""
STEPS = 8


@dataclass(frozen=True)
class Parity:
    """How the merged model differs from base and adapter on fixed prompts.

    Attributes:
        max_rel: Largest difference of a logit, as a share of the largest logit.
        greedy_matched, greedy_total: Tokens after all prompts that greedy decoding chooses alike.
    """

    prompts: int
    max_rel: float
    greedy_matched: int
    greedy_total: int


def merge_adapter(
    base: ModelSpec,
    adapter: Path,
    out: Path,
    *,
    dtype: str = "auto",
    from_quantized: bool = False,
) -> Parity:
    """Write *base* with *adapter* merged into its weights to *out*: safetensors and a tokenizer.

    The base is loaded on the CPU in full precision. An adapter trained over 4-bit weights is merged
    into the original ones all the same: rounding the sum back to NF4 would change every score
    (QLoRA, arXiv:2305.14314, dequantises for the same reason).

    Args:
        base: The full-precision checkpoint that the adapter was trained on.
        adapter: Folder of a PEFT adapter.
        out: Folder to make; replaced when it exists. It appears complete or not at all.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto`` for the base's own.
        from_quantized: Take a quantised *base* and merge into what its weights dequantise to.

    Returns:
        How merged and unmerged agree; it stands in *out*/medbench-merge.json as well.

    Raises:
        InputError: *base* is missing or quantised, *adapter* is no adapter, is pickled, cannot be
            merged or does not fit *base*, or the disk is too full.
    """
    _check_adapter(adapter)
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    plain, dequantized = _load_base(base, dtype, from_quantized=from_quantized)
    _check_disk(out, sum(p.numel() * p.element_size() for p in plain.parameters()))
    # Tuning may have added tokens or a chat template; then the tokenizer lies with the adapter.
    own = (adapter / "tokenizer_config.json").is_file()
    tokenizer = (
        AutoTokenizer.from_pretrained(adapter)
        if own
        else AutoTokenizer.from_pretrained(base.source, **_hub(base))
    )
    model = _attach(plain, base, adapter).eval()
    prompts = [ids for text in PROMPTS if (ids := tokenizer(text)["input_ids"])]
    before = _answers(model, prompts)
    try:
        model = model.merge_and_unload(safe_merge=True)
    except ValueError as error:  # weights that are no numbers, or a kind that PEFT does not merge
        raise InputError(f"adapter {adapter}: {str(error).splitlines()[0]}") from error
    parity = _parity(before, _answers(model, prompts))
    record = {
        "base": public_name(base),
        "revision": base.revision,
        "adapter": adapter.name,
        "dtype": str(model.dtype).removeprefix("torch."),
        "dequantized": dequantized,
        "parity": asdict(parity),
    }
    with atomic_path(out) as draft:
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
        (draft / RECORD).write_text(json.dumps(record, indent=2) + "\n", "utf-8")
    return parity


def _check_adapter(adapter: Path) -> None:
    check_adapter("adapter", adapter)
    kind = json.loads((adapter / "adapter_config.json").read_text("utf-8"))["peft_type"]
    if kind in ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING"):
        raise InputError(
            f"adapter {adapter}: {kind} puts learned keys and values before the text and changes "
            "no weight, so there is nothing to merge into; ship the adapter beside its base"
        )


def _hub(base: ModelSpec) -> dict[str, Any]:
    return {"revision": base.revision, "trust_remote_code": base.trust_remote_code}


def _load_base(base: ModelSpec, dtype: str, *, from_quantized: bool) -> tuple[Any, bool]:
    """(the base, whether its weights were dequantised)."""
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(base.source, **_hub(base))
    except (OSError, ValueError) as error:
        raise InputError(
            f"base {base.pretrained}: cannot be read ({str(error).splitlines()[0]}); "
            "give a checkpoint folder, or a Hub id while the Hub can be reached"
        ) from error
    quantized = bool(getattr(config, "quantization_config", None))
    if quantized and not from_quantized:
        raise InputError(
            f"base {base.pretrained}: its weights are quantised, and merging into them would "
            "change every score; give the full-precision checkpoint that it was made from, or "
            "--from-quantized to merge into what they dequantise to"
        )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base.source, dtype=dtype, use_safetensors=True, **_hub(base)
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"base {base.pretrained}: its weights cannot be loaded "
            f"({str(error).splitlines()[0]}); expected *.safetensors"
        ) from error
    if quantized:
        model = model.dequantize()
        # transformers would write the weights as it read them, which it cannot for these.
        model._weight_conversions = None
    return model, quantized


def _check_disk(out: Path, size: int) -> None:
    """Raise where the disk of *out* has no room for so many bytes and a little more."""
    there = next(folder for folder in (out, *out.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < 1.05 * size:
        raise InputError(
            f"--out {out}: the merged checkpoint needs {1.05 * size / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free there; make room or choose another disk"
        )


def _attach(model: Any, base: ModelSpec, adapter: Path) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        # PEFT only warns of absent weights, and the merged model would then equal its base there.
        warnings.filterwarnings("error", message=".*missing adapter keys")
        try:
            return PeftModel.from_pretrained(model, adapter)
        except (RuntimeError, ValueError, UserWarning) as error:
            raise InputError(
                f"adapter {adapter}: does not fit base {base.pretrained}; merge it into the "
                f"checkpoint it was trained on. PEFT said: {str(error).splitlines()[0]}"
            ) from error


def _answers(model: Any, prompts: list[list[int]]) -> list[tuple[Any, list[int]]]:
    """For each prompt its logits [tokens, vocabulary] and the tokens that greedy decoding adds."""
    import torch

    found = []
    for ids in prompts:
        with torch.inference_mode():
            given = torch.tensor([ids])
            logits = model(input_ids=given).logits[0].float()
            written = model.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=STEPS,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
                pad_token_id=0,
            )
        found.append((logits, written[0, len(ids) :].tolist()))
    return found


def _parity(before: list[tuple[Any, list[int]]], after: list[tuple[Any, list[int]]]) -> Parity:
    worst, matched, total = 0.0, 0, 0
    for (old, said), (new, says) in zip(before, after, strict=True):
        worst = max(worst, float((new - old).abs().max() / old.abs().max()))
        matched += sum(a == b for a, b in zip(said, says, strict=False))
        total += max(len(said), len(says))
    return Parity(len(before), worst, matched, total)
