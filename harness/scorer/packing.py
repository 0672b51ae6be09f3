"""Runs the rows of a trie through a transformers model and reads the answers off.

A row is one sequence to the model: token ids, the depths as position ids, the trie's mask, and as
its key-value cache the path that is open where the row begins. CUDA uses FlexAttention, whose block
mask skips the blocks that no query may look at and whose kernel is compiled once; elsewhere, and
for models without FlexAttention, the mask is a dense [queries, keys] matrix, so rows are short.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention.flex_attention import BlockMask
from transformers import Cache

from .speed import compiled_parts, lean_lora
from .trie import Row, Trie

BLOCK = 128
"""FlexAttention's block of queries and of keys; rows on CUDA are padded to a multiple of it."""

PAST_STEP = 1024
"""On CUDA the past is padded to a multiple of this, so that few shapes of it occur."""

HEAD_CHUNK = 512
"""Positions whose log-softmax, [positions, vocabulary] in float32, is held at a time."""

SHORTEST = BLOCK
"""The shortest row that running out of memory leads to, in tokens."""

COMPILE_FROM = 3e15
"""Operations from which compiling norms and MLPs, 1.2 s, pays off over a base and an adapter."""

Both = tuple[torch.Tensor, torch.Tensor]
"""Keys and values, each [1, heads, tokens, size]."""


@dataclass(frozen=True)
class Engine:
    """Scores tries with one model.

    Attributes:
        model: A causal language model of transformers (or peft around one), in eval mode.
        precision: Autocast to this dtype; None computes as the model is.
    """

    model: Any
    precision: torch.dtype | None = None

    def answer(
        self, trie: Trie, budget: int, done: Callable[[int], None] = lambda answered: None
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
        """Score all requests of *trie* in rows of at most *budget* tokens.

        Running out of memory halves the budget and goes on from the row that failed: what was
        scored before it, and the path it starts from, are kept.

        Args:
            trie: The requests.
            budget: Tokens a row.
            done: Hears, after each row, how many requests are answered.

        Returns:
            For each request the sum of the log-probabilities (nats) of its asked tokens, and
            whether each of them was the most probable one; and the budget that was left.
        """
        totals, misses = np.zeros(trie.count), np.zeros(trie.count)
        waiting: list[tuple[Row, torch.Tensor]] = []

        def read() -> None:
            """Add up the oldest row's answers, while the device works on the next row."""
            row, found = waiting.pop(0)
            values, hits = found.double().cpu().numpy()
            totals[:] += np.bincount(row.requests, values, trie.count)
            misses[:] += np.bincount(row.requests, 1 - hits, trie.count)
            done(trie.finished(row.stop))

        with self._ready(len(trie)) as attention:
            past = _OpenPath(PAST_STEP if attention == "flex_attention" else 1)
            path, start = np.empty(0, np.int64), 0
            while start < len(trie):
                row = trie.row(start, budget, path)
                found = None
                try:
                    found = self._forward(row, past, attention)
                except (RuntimeError, MemoryError) as error:
                    if budget <= SHORTEST or not out_of_memory(error):
                        raise
                if found is None:
                    budget = max(SHORTEST, budget // 2)
                    past.retreat()
                    if torch.cuda.is_available():
                        torch.cuda.empty_cache()
                    continue
                past.advance()
                waiting.append((row, found))
                path, start = trie.path_after(row, path), row.stop
                if len(waiting) > 1:
                    read()
            while waiting:
                read()
        return totals, misses == 0, budget

    @property
    def base(self) -> Any:
        """The transformers model, without what peft put around it."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def flex(self) -> bool:
        """Whether rows go through FlexAttention; a dense mask otherwise."""
        on_gpu = self.model.device.type == "cuda"
        return on_gpu and bool(self.base._supports_flex_attn) and not self.split

    @property
    def split(self) -> bool:
        """Whether layers lie on several devices; a dense mask can follow them, a block mask not."""
        return len(set(getattr(self.base, "hf_device_map", {}).values())) > 1

    @contextlib.contextmanager
    def _ready(self, tokens: int) -> Iterator[str]:
        """The model set up for rows, its attention's name yielded, and set back afterwards."""
        model, base = self.model, self.base
        before = base.config._attn_implementation
        dense = "eager" if before == "eager" else "sdpa"
        base.set_attn_implementation("flex_attention" if self.flex else dense)
        size = sum(p.numel() for p in model.parameters())
        worth_compiling = self.flex and 2 * size * tokens >= COMPILE_FROM
        with contextlib.ExitStack() as stack:
            stack.callback(base.set_attn_implementation, before)
            stack.enter_context(torch.inference_mode())
            stack.enter_context(
                torch.autocast(
                    model.device.type, self.precision, enabled=self.precision is not None
                )
            )
            adapted = stack.enter_context(lean_lora(base))
            if worth_compiling:
                names = ("RMSNorm",) if adapted else ("RMSNorm", "MLP")
                stack.enter_context(compiled_parts(base, names))
            yield base.config._attn_implementation

    def _forward(self, row: Row, past: _OpenPath, attention: str) -> torch.Tensor:
        """[2, answers], float32: log-probability, and 1 where the target is the most probable."""
        device = self.model.device
        past.prepare(row, device)
        tokens, positions = row.tokens, row.positions
        if attention == "flex_attention":
            padding = (0, -len(tokens) % BLOCK)
            tokens, positions = np.pad(tokens, padding), np.pad(positions, padding)
            mask = _block_mask(row, past.length, len(tokens), device)
        else:
            mask = _dense_mask(row, device)
            if attention == "eager":  # adds its mask to the scores
                lowest = torch.finfo(self.model.dtype).min
                mask = torch.where(mask, 0.0, lowest).to(self.model.dtype)
        asked = row.asked if len(row.asked) else np.zeros(1, np.int64)
        logits = self.model(
            input_ids=torch.from_numpy(tokens)[None].to(device),
            attention_mask=mask,
            position_ids=torch.from_numpy(positions)[None].to(device),
            past_key_values=past,
            use_cache=True,
            # accelerate moves tensors to the first device, where the last layer need not lie.
            logits_to_keep=asked.tolist() if self.split else torch.from_numpy(asked).to(device),
        ).logits[0]
        which, targets = (torch.tensor(a, device=logits.device) for a in (row.which, row.targets))
        found = [torch.empty(2, 0, device=logits.device)]
        for first in range(0, len(row.asked), HEAD_CHUNK):
            low, high = np.searchsorted(row.which, [first, first + HEAD_CHUNK])
            chances = logits[first : first + HEAD_CHUNK].log_softmax(-1, torch.float32)
            at, goal = which[low:high] - first, targets[low:high]
            found.append(torch.stack([chances[at, goal], (chances.argmax(-1)[at] == goal).float()]))
        return torch.cat(found, 1)


def out_of_memory(error: Exception) -> bool:
    """Whether *error* is an allocation that failed, on a GPU or in main memory."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "alloc" in str(error).lower()


class _OpenPath(Cache):  # type: ignore[misc]
    """Keys and values of the open path, which is all that later rows need of earlier ones.

    A row's forward pass stores the keys it leaves behind beside those it reads; they take over with
    :meth:`advance`, so a row that fails can be tried again.

    Args:
        step: Pad the number of keys to a positive multiple of this; padding is masked.
    """

    def __init__(self, step: int) -> None:
        super().__init__(layers=[])
        self.length = self._padded(0, step)
        self._step = step
        self._next_length = 0
        self._held: dict[int, Both] = {}
        self._next: dict[int, Both] = {}
        self._keep: torch.Tensor = torch.empty(0)

    @staticmethod
    def _padded(length: int, step: int) -> int:
        return length if step == 1 else max(step, -(-length // step) * step)

    def prepare(self, row: Row, device: Any) -> None:
        """Get ready for the forward pass of *row*."""
        self._next_length = self._padded(len(row.keep), self._step)
        keep = np.where(row.keep < row.past, row.keep, row.keep + self.length - row.past)
        keep = np.pad(keep, (0, self._next_length - len(keep)))
        self._keep = torch.from_numpy(keep).to(device)

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> Both:
        """All keys and values that the row may attend to, each [1, heads, past + row, size]."""
        if self.length:
            shape = (*key_states.shape[:2], self.length, key_states.shape[3])
            past = self._held.get(layer_idx) or (
                key_states.new_zeros(shape),
                value_states.new_zeros(*shape[:3], value_states.shape[3]),
            )
            key_states = torch.cat([past[0], key_states], 2)
            value_states = torch.cat([past[1], value_states], 2)
        keep = self._keep.to(key_states.device)
        self._next[layer_idx] = key_states[:, :, keep], value_states[:, :, keep]
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def advance(self) -> None:
        """The next row begins where this one ended."""
        self._held, self._next, self.length = self._next, {}, self._next_length

    def retreat(self) -> None:
        """The row failed: stay where it began."""
        self._next = {}


def _dense_mask(row: Row, device: Any) -> torch.Tensor:
    """[1, 1, queries, keys], true where the query may attend to the key."""
    query = torch.arange(row.stop - row.start, device=device)[:, None]
    key = torch.arange(-row.past, row.stop - row.start, device=device)
    return ((key <= query) & (query < torch.from_numpy(row.ends).to(device)))[None, None]


def _block_mask(row: Row, past: int, length: int, device: Any) -> Any:
    """The mask for *past* keys and then *length* queries, both padded to whole blocks.

    Which blocks are empty, full or mixed follows from the largest and smallest end in each block
    of keys, so no [queries, keys] matrix is ever made.
    """
    ends = np.zeros(past + length, np.int64)  # padding of the past: no query may attend
    ends[: row.past] = row.ends[: row.past]
    ends[past:] = length  # padding of the row attends to itself: a softmax needs a key
    ends[past : past + row.stop - row.start] = row.ends[row.past :]
    blocks = ends.reshape(-1, BLOCK)
    query = np.arange(0, length, BLOCK)[:, None]
    key = np.arange(-past, length, BLOCK)
    before = (key < query) & (blocks.max(1) > query)
    full = before & (blocks.min(1) >= query + BLOCK)
    mixed = (before & ~full) | (key == query)
    bound = torch.from_numpy(ends).to(device, torch.int32)

    def allowed(_batch: Any, _head: Any, query: Any, key: Any) -> Any:
        return (key - past <= query) & (query < bound[key])

    lists = []
    for kind in (mixed, full):
        lists += [kind.sum(1), np.argsort(~kind, axis=1, kind="stable")]
    return BlockMask.from_kv_blocks(
        *(torch.from_numpy(a.astype(np.int32))[None, None].to(device) for a in lists),
        BLOCK_SIZE=BLOCK,
        mask_mod=allowed,
        seq_lengths=(length, past + length),
        compute_q_blocks=False,
    )
