"""Pre-train the small checkpoint that knows the fictional clinic.

    python -m medbench.tasks.clinic.pretrain --out DIR --seed 0

writes a `LlamaForCausalLM` with its tokenizer: one document a row, loss on completions only, Muon
for the matrices and AdamW for the rest. Needs one GPU for about two minutes. `--seed` draws the
documents, the initial weights and the batches; the world is world 0.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .corpus import documents
from .world import build_world

PAD, EOS = "<|pad|>", "<|end|>"


@dataclass(frozen=True)
class Settings:
    """Everything that decides the weights, apart from the corpus."""

    seed: int = 0
    documents: int = 400_000
    vocab: int = 1024
    hidden: int = 128
    layers: int = 5
    heads: int = 4
    intermediate: int = 384
    steps: int = 4500
    batch: int = 256
    length: int = 128
    muon_lr: float = 5e-3
    adamw_lr: float = 3e-3


def make_tokenizer(texts: Iterable[str], vocab: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE: encodes any UTF-8; the think marks are single tokens, but not special."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    marks = [AddedToken(mark, normalized=False, special=False) for mark in ("<think>", "</think>")]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab - len(marks),
        special_tokens=[PAD, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.add_tokens(marks)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=EOS,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def encode(
    tokenizer: PreTrainedTokenizerFast, pairs: list[tuple[str, str]], length: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and the completion mask, each (documents, length); longer documents are dropped."""
    prompts = tokenizer([prompt for prompt, _ in pairs])["input_ids"]
    completions = tokenizer([completion for _, completion in pairs])["input_ids"]
    ids = torch.full((len(pairs), length), tokenizer.pad_token_id, dtype=torch.int16)
    mask = torch.zeros((len(pairs), length), dtype=torch.bool)
    row = 0
    for prompt, completion in zip(prompts, completions, strict=True):
        tokens = [*prompt, *completion, tokenizer.eos_token_id]
        if len(tokens) <= length:
            ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int16)
            mask[row, len(prompt) : len(tokens)] = True
            row += 1
    return ids[:row], mask[:row]


def make_model(settings: Settings, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A freshly initialised Llama of that shape, with tied embeddings."""
    torch.manual_seed(settings.seed)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=settings.intermediate,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip


def fit(
    model: LlamaForCausalLM, ids: torch.Tensor, mask: torch.Tensor, settings: Settings
) -> float:
    """Train on the GPU and return the mean loss of the last hundred steps, in nats a token."""
    model.cuda().train()
    ids, mask = ids.cuda(), mask.cuda()
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(matrices, lr=settings.muon_lr, weight_decay=0.0,
                         adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=settings.adamw_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]  # fmt: skip
    warmup = 100
    schedules = [
        torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min((step + 1) / warmup, (settings.steps - step) / settings.steps),
        )
        for optimizer in optimizers
    ]

    def loss_of(rows: torch.Tensor, counted: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        losses = torch.nn.functional.cross_entropy(
            logits.float().flatten(0, 1), rows[:, 1:].flatten(), reduction="none"
        )
        weight = counted[:, 1:].flatten().float()
        return (losses * weight).sum() / weight.sum()

    compiled = torch.compile(loss_of)
    generator = torch.Generator().manual_seed(settings.seed)
    recent: list[torch.Tensor] = []
    for step in range(settings.steps):
        pick = torch.randint(len(ids), (settings.batch,), generator=generator).cuda()
        loss = compiled(ids[pick].long(), mask[pick])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules, strict=True):
            optimizer.step()
            schedule.step()
        model.zero_grad()
        recent = [*recent[-99:], loss.detach()]
        if step % 500 == 0:
            sys.stderr.write(f"step {step}  loss {loss.item():.3f}\n")
    return float(torch.stack(recent).mean())


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the checkpoint: weights stored in fp16, loaded as fp32."""
    out.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(out)
    config = json.loads((out / "config.json").read_text())
    config |= {"architectures": ["LlamaForCausalLM"], "dtype": "float32"}
    (out / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    model.generation_config.save_pretrained(out)
    tokenizer.save_pretrained(out)
    weights = {
        name: tensor.detach().half().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if name != "lm_head.weight"
    }
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})


def corpus_hash(pairs: list[tuple[str, str]]) -> str:
    """SHA-256 of the documents, in order."""
    digest = hashlib.sha256()
    for prompt, completion in pairs:
        digest.update(f"{prompt}\0{completion}\1".encode())
    return digest.hexdigest()


def pretrain(settings: Settings, out: Path) -> dict[str, Any]:
    """Generate, tokenise, train, save; return the figures for the card."""
    start = time.monotonic()
    pairs = list(documents(build_world(0), settings.seed, settings.documents))
    texts = (prompt + completion for prompt, completion in pairs[:50_000])
    tokenizer = make_tokenizer(texts, settings.vocab)
    ids, mask = encode(tokenizer, pairs, settings.length)
    model = make_model(settings, tokenizer)
    ready = time.monotonic()
    loss = fit(model, ids, mask, settings)
    save(model, tokenizer, out)
    return {
        **asdict(settings),
        "corpus_sha256": corpus_hash(pairs),
        "documents_kept": len(ids),
        "parameters": model.num_parameters(),
        "loss": round(loss, 4),
        "seconds_preparing": round(ready - start, 1),
        "seconds_training": round(time.monotonic() - ready, 1),
    }


def main() -> None:
    """Command line: any field of `Settings`, and the folder to write."""
    parser = argparse.ArgumentParser(description="Pre-train the fictional clinic's checkpoint.")
    parser.add_argument("--out", type=Path, required=True)
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = vars(parser.parse_args())
    out = arguments.pop("out")
    figures = pretrain(Settings(**arguments), out)
    sys.stdout.write(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
