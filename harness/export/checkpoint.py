"""What a checkpoint is, and which exporters would turn it into a graph that runs and is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...errors import InputError

MAX_POSITIONS = 8192
"""Longest context of an export. The builder stores a table of rotary angles for every position that
the config allows: at 131,072 positions it would outweigh a small model several times."""

# Position encodings exported right. Of the others the builder (0.18) silently drops the scaling for
# Llama (linear and YaRN: logits wrong by more than their own size).
_BUILT_ROPE = ("default", "llama3")
# Of the models whose RoPE differs by the kind of layer it reads Gemma 4 alone.
_BUILT_BY_LAYER = "gemma4"
# With the rest the angles depend on the length of the text, and a trace has one length.
_TRACED_ROPE = (*_BUILT_ROPE, "linear", "yarn")


def read(model_dir: Path, trust_remote_code: bool) -> Any:
    """The config of a complete checkpoint.

    Raises:
        InputError: A file is missing, or the config cannot be read.
    """
    from transformers import AutoConfig

    for name in ("config.json", "tokenizer_config.json"):
        if not (model_dir / name).is_file():
            raise InputError(
                f"{model_dir / name}: missing; the export needs a checkpoint saved with its "
                "tokenizer (tokenizer.save_pretrained on the same folder adds it)"
            )
    try:
        return AutoConfig.from_pretrained(model_dir, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{model_dir / 'config.json'}: cannot be read ({str(error).splitlines()[0]}); save the "
            "checkpoint again, or set trust_remote_code where it ships its own code"
        ) from error


def builder_lacks(config: Any) -> str | None:
    """Why the Model Builder (0.18) cannot export such a model right; None: it may know it."""
    scalings = _ropes(config)
    if len(scalings) == 1 and scalings[0] not in _BUILT_ROPE:
        return f"it would drop RoPE scaling {scalings[0]!r}"
    if len(scalings) > 1 and not config.model_type.startswith(_BUILT_BY_LAYER):
        return "it reads one RoPE for all layers, and this model has one for each kind of them"
    window = getattr(config, "sliding_window", None)
    if (
        window
        and window < context(config)
        and getattr(config, "use_sliding_window", True)
        and "sliding_attention" not in (getattr(config, "layer_types", None) or ())
    ):  # it looks for windows in layer_types alone
        return f"it would drop the sliding window of {window} tokens"
    for width in ("hidden_size", "intermediate_size"):
        if getattr(config, width, None) == config.vocab_size:
            # It takes every linear layer with vocab_size outputs for the language model's head.
            return f"{width} equals vocab_size, which confuses it"
    return None


def trace_lacks(config: Any) -> str | None:
    """Why a graph traced by torch.onnx would be wrong; None: it is compared with torch anyhow."""
    for scaling in _ropes(config):
        if scaling not in _TRACED_ROPE:
            return (
                f"RoPE scaling {scaling!r} depends on the length of the text, a trace has one "
                "length"
            )
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder with a decoder"
    return None


def context(config: Any) -> int:
    """Longest text, prompt and output together, that an export is made for, in tokens."""
    for name in ("max_position_embeddings", "max_seq_len", "seq_length"):
        if isinstance(known := getattr(config, name, None), int):
            return min(known, MAX_POSITIONS)
    return MAX_POSITIONS


def _ropes(config: Any) -> list[str]:
    """How rotary angles are scaled; several where kinds of layers differ, as Gemma 3's do."""
    found = getattr(config, "rope_parameters", None) or {}
    by_layer = [one for one in found.values() if isinstance(one, dict)]
    return [str(one.get("rope_type", "default")) for one in by_layer or [found]]
