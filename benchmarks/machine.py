"""What the benchmarks share: models of real shape with random weights, and the machine."""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

SIZES: dict[str, dict[str, Any]] = {
    "8b": {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 131072, "rope_theta": 500000.0,
    },
    "1b": {
        "vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "max_position_embeddings": 131072, "rope_theta": 500000.0, "tie_word_embeddings": True,
    },
    "48m": {
        "vocab_size": 24000, "hidden_size": 512, "intermediate_size": 1408,
        "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8,
        "max_position_embeddings": 4096,
    },
}  # fmt: skip
"""Shapes of Llama-3.1-8B, Llama-3.2-1B, and one for a CPU."""


def load(size: str, device: str, texts: list[str]) -> tuple[Any, Any]:
    """(model with random weights, tokenizer trained on *texts*), or those in the folder *size*."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    if size not in SIZES:
        model = AutoModelForCausalLM.from_pretrained(size, dtype=dtype).to(device)
        return model.eval(), AutoTokenizer.from_pretrained(size)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|begin|>", "<|end|>"]
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=24000,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES[size], bos_token_id=0, eos_token_id=1)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with torch.device(device):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(before)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1]
    )
    return model.eval(), fast


def matmul_peak(model: Any) -> float:
    """FLOP/s of a square matrix product of random numbers in the model's dtype, the best of ten."""
    size = 8192 if model.device.type == "cuda" else 2048
    a, b = (torch.randn(size, size, device=model.device, dtype=model.dtype) for _ in range(2))
    times = []
    for _ in range(13):
        wait()
        started = time.perf_counter()
        a @ b
        wait()
        times.append(time.perf_counter() - started)
    return 2 * size**3 / min(times[3:])


def wait() -> None:
    """Until the device has done all that was asked of it."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(": ")[1] for x in lines if x.startswith("model name")), platform.machine())
