"""Fold an adapter into its base: one plain checkpoint, to be scored, exported and shipped."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..harness.store import atomic_path


def merge_adapter(
    base: Path | str,
    adapter: Path,
    out: Path,
    *,
    dtype: str = "auto",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Path:
    """Write *base* with *adapter* merged into its weights to *out*: safetensors and a tokenizer.

    The base is loaded on the CPU in full precision. An adapter trained over 4-bit weights is merged
    into the original ones all the same: rounding the sum back to NF4 would change every score
    (QLoRA, arXiv:2305.14314, dequantises for the same reason).

    Args:
        base: Folder or Hub id of the full-precision checkpoint that the adapter was trained on.
        adapter: Folder of a PEFT adapter.
        out: Folder to make; replaced when it exists. It appears complete or not at all.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto`` for the base's own.
        revision: Git revision of a Hub *base*.
        trust_remote_code: Run model code that *base* ships.

    Returns:
        *out*.

    Raises:
        InputError: *base* is missing or quantised, *adapter* is no adapter or does not fit *base*.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise InputError(
            f"{adapter}: no adapter_config.json there, so it is no PEFT adapter; "
            "give the folder that the fine-tune stage wrote"
        )
    # On import bitsandbytes, which peft loads, logs that an optional kernel package is missing.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from transformers import AutoTokenizer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    hub = {"revision": revision, "trust_remote_code": trust_remote_code}
    model = _attach(_load_base(base, dtype, hub), base, adapter).merge_and_unload(safe_merge=True)
    # Tuning may have added tokens or a chat template; then the tokenizer lies with the adapter.
    own = (adapter / "tokenizer_config.json").is_file()
    tokenizer = (
        AutoTokenizer.from_pretrained(adapter)
        if own
        else AutoTokenizer.from_pretrained(base, **hub)
    )
    with atomic_path(out) as draft:
        model.save_pretrained(draft)
        tokenizer.save_pretrained(draft)
    return out


def _load_base(base: Path | str, dtype: str, hub: dict[str, Any]) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(base, **hub)
    except (OSError, ValueError) as error:
        raise InputError(
            f"base {base}: cannot be read ({str(error).splitlines()[0]}); "
            "give a checkpoint folder, or a Hub id while the Hub can be reached"
        ) from error
    if getattr(config, "quantization_config", None):
        raise InputError(
            f"base {base}: its weights are quantised, and merging into them would change every "
            "score; give the full-precision checkpoint that it was made from"
        )
    return AutoModelForCausalLM.from_pretrained(base, dtype=dtype, **hub)


def _attach(model: Any, base: Path | str, adapter: Path) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        # PEFT only warns of absent weights, and the merged model would then equal its base there.
        warnings.filterwarnings("error", message=".*missing adapter keys")
        try:
            return PeftModel.from_pretrained(model, adapter)
        except (RuntimeError, ValueError, UserWarning) as error:
            raise InputError(
                f"adapter {adapter}: does not fit base {base}; merge it into the checkpoint it was "
                f"trained on. PEFT said: {str(error).splitlines()[0]}"
            ) from error
