"""The process that traces: its arguments are SOURCE OUT PRECISION PROVIDER TRUST_REMOTE_CODE.

``torch.onnx`` follows transformers' own model through one call, so it needs no knowledge of the
architecture, and has none: whatever the model decides by its inputs' sizes is decided once and for
all. Therefore the graph is compared with the model on other sizes before it is kept.
"""

from __future__ import annotations

import inspect
import json
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import torch

from ..latency.machine import status
from ..models.kept import kept
from ..orphans import end_with_parent
from .checkpoint import context
from .process import PEAK, UNSUPPORTED

_ROWS, _PAST, _NEW = 2, 5, 3
"""Sizes of the traced call. 0 and 1 would be taken for constants, equal ones for the same."""

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference of a logit, as a share of the largest logit, that rounding explains."""

_LONGEST = 512
"""Tokens of a text that is compared, at most; a sliding window within them is crossed."""


class _UntraceableError(Exception):
    """Why this model cannot be traced right."""


class Flat(torch.nn.Module):  # type: ignore[misc]
    """A causal model whose cache goes in and comes out as plain tensors.

    Args:
        model: A causal model of transformers.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.takes_positions = "position_ids" in inspect.signature(model.forward).parameters

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor | None,
        past: list[tuple[torch.Tensor, torch.Tensor]],
    ) -> tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Logits [B, T, vocab], and keys and values [B, heads, P + T, width] of every layer.

        Args:
            input_ids: [B, T].
            attention_mask: [B, P + T], 1 where there is a token.
            position_ids: [B, T]; None where the model counts the mask instead.
            past: Keys and values [B, heads, P, width] of every layer.
        """
        from transformers.cache_utils import DynamicCache, DynamicLayer

        cache = DynamicCache()
        for keys, values in past:
            # The whole past, with a sliding window too: which of it is seen, the mask decides.
            layer = DynamicLayer()
            layer.lazy_initialization(keys, values)
            layer.keys, layer.values = keys, values
            cache.layers.append(layer)
        positions = {"position_ids": position_ids} if self.takes_positions else {}
        done = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
            **positions,
        )
        return done.logits, [(layer.keys, layer.values) for layer in cache.layers]


def main(source: str, out: str, precision: str, provider: str, trust_remote_code: str) -> int:
    """Write the graph to *out*, and the peak memory beside it. Returns the exit code.

    Weights in blocks of a few bits are made of it in another process (nbits.py), whose memory is
    then its own; until then they are float32.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    warnings.simplefilter("ignore")
    folder, trust = Path(out), trust_remote_code == "true"
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust)
    model = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=_DTYPES.get(precision, torch.float32),
        use_safetensors=True,
        trust_remote_code=trust,
    ).eval()
    try:
        layers = _kept(model)
        folder.mkdir(parents=True)
        trace(Flat(model).eval(), layers, folder / "model.onnx")
        tokenizer.save_pretrained(folder)
        _write_config(model, tokenizer, layers, folder)
        compare(model, folder)
    except _UntraceableError as reason:
        sys.stderr.write(f"{reason}\n")
        return UNSUPPORTED
    (folder.parent / PEAK).write_text(json.dumps(status("VmHWM")))
    return 0


def _kept(model: Any) -> list[tuple[torch.Tensor, torch.Tensor]]:
    try:
        return [(keys.clone(), values.clone()) for keys, values in kept(model)]
    except ValueError as error:
        raise _UntraceableError(str(error)) from error


def trace(flat: Flat, layers: list[tuple[torch.Tensor, torch.Tensor]], path: Path) -> None:
    """Write the graph of *flat*, whose cache is like *layers*, to *path*."""
    past = [
        (keys.expand(_ROWS, -1, _PAST, -1).clone(), values.expand(_ROWS, -1, _PAST, -1).clone())
        for keys, values in layers
    ]
    ids = torch.ones((_ROWS, _NEW), dtype=torch.int64)
    mask = torch.ones((_ROWS, _PAST + _NEW), dtype=torch.int64)
    positions = torch.arange(_PAST, _PAST + _NEW).repeat(_ROWS, 1)
    tokens = {0: "batch_size", 1: "sequence_length"}
    cache = {0: "batch_size", 2: "past_sequence_length"}
    slots = [f"{layer}.{part}" for layer in range(len(layers)) for part in ("key", "value")]
    takes = flat.takes_positions
    try:
        program: Any = torch.onnx.export(
            flat,
            (ids, mask, positions if takes else None, past),
            input_names=[
                "input_ids",
                "attention_mask",
                *(["position_ids"] if takes else []),
                *(f"past_key_values.{slot}" for slot in slots),
            ],
            output_names=["logits", *(f"present.{slot}" for slot in slots)],
            dynamic_shapes=(
                tokens,
                {0: "batch_size", 1: "total_sequence_length"},
                tokens if takes else None,
                [(cache, cache)] * len(layers),
            ),
            dynamo=True,
            verbose=False,
        )
    except torch.onnx.OnnxExporterError as error:
        raise _UntraceableError(_said(error)) from error
    program.save(path, external_data=True)


def compare(model: Any, folder: Path) -> None:
    """Compare the graph in *folder* with *model*: rows of unlike length, steps, several tokens.

    Raises:
        _UntraceableError: It cannot be run, or gives other logits.
    """
    from ..ort.runtime import OrtModel

    limit = context(model.config)
    window = getattr(model.config, "sliding_window", None) or 0
    longest = min(limit - 4, _LONGEST, max(24, window + 8))
    draw = torch.Generator().manual_seed(0)
    shape = (2, longest + 4)
    ids = torch.randint(model.config.get_text_config().vocab_size, shape, generator=draw)
    lengths = (longest, max(1, longest // 2))
    try:
        export = OrtModel(folder, max_len=longest + 4)
        prompts = ids[:, :longest].clone()
        prompts[1, lengths[1] :] = 0  # rows are filled up with it while scoring
        found = export.prefill(prompts, lengths)
        rows = [found[row, :length] for row, length in enumerate(lengths)]
        for step in range(2):
            at = torch.tensor([[length + step] for length in lengths])
            logits = export.step(ids.gather(1, at))
            rows = [torch.cat([row, logits[place]]) for place, row in enumerate(rows)]
        export.reset()
        parts = [export.prefill(part) for part in ids[:1].split([longest, 4], 1)]
        texts = [ids[row, : length + 2] for row, length in enumerate(lengths)] + [ids[0]]
        rows.append(torch.cat(parts, 1)[0])
    except Exception as error:  # the runtime's own exceptions share no narrower base
        raise _UntraceableError(f"its graph does not run: {_said(error)}") from error
    with torch.inference_mode():
        for text, logits in zip(texts, rows, strict=True):
            expected = model(input_ids=text[None]).logits[0].float()
            off = float((logits.float() - expected).abs().max() / expected.abs().max())
            if not off <= _TOLERANCE[model.dtype]:
                share = f"{off:.2g} of the largest"
                raise _UntraceableError(f"its graph's logits differ from torch's by {share}")


def _said(error: BaseException) -> str:
    """What went wrong first, in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    return textwrap.shorten(str(error) or repr(error), 300)


def _write_config(
    model: Any, tokenizer: Any, layers: list[tuple[torch.Tensor, torch.Tensor]], folder: Path
) -> None:
    """Write ``genai_config.json`` as the Model Builder does; onnxruntime-genai runs it, too.

    https://onnxruntime.ai/docs/genai/reference/config.html
    """
    config, keys = model.config.get_text_config(decoder=True), layers[0][0]
    known = model.generation_config
    ends = known.eos_token_id if known.eos_token_id is not None else tokenizer.eos_token_id
    ends = [one for one in (ends if isinstance(ends, list) else [ends]) if one is not None]
    first = ends[0] if ends else 0
    inputs = {"input_ids": "input_ids", "attention_mask": "attention_mask"}
    if Flat(model).takes_positions:
        inputs["position_ids"] = "position_ids"
    inputs |= {
        "past_key_names": "past_key_values.%d.key",
        "past_value_names": "past_key_values.%d.value",
    }
    limit = context(config)
    described = {
        "model": {
            "bos_token_id": first if known.bos_token_id is None else known.bos_token_id,
            "context_length": limit,
            "decoder": {
                "session_options": {"log_id": "onnxruntime-genai", "provider_options": []},
                "filename": "model.onnx",
                "head_size": keys.shape[3],
                "hidden_size": config.hidden_size,
                "inputs": inputs,
                "outputs": {
                    "logits": "logits",
                    "present_key_names": "present.%d.key",
                    "present_value_names": "present.%d.value",
                },
                "num_attention_heads": config.num_attention_heads,
                "num_hidden_layers": len(layers),
                "num_key_value_heads": keys.shape[1],
            },
            "eos_token_id": ends,
            "pad_token_id": first if known.pad_token_id is None else known.pad_token_id,
            "type": "decoder",
            "vocab_size": config.vocab_size,
        },
        "search": {
            "do_sample": False,
            "max_length": limit,
            "past_present_share_buffer": False,
        },
    }
    (folder / "genai_config.json").write_text(json.dumps(described, indent=4) + "\n", "utf-8")


if __name__ == "__main__":
    end_with_parent()
    sys.exit(main(*sys.argv[1:]))
