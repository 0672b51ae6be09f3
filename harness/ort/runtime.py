"""An exported decoder run by plain ONNX Runtime, on the CPU or on CUDA.

An export (see :mod:`..export`) says in its ``genai_config.json`` which kind of cache it has. The
Model Builder fuses attention and cache into GroupQueryAttention nodes, and the keys and values grow
**in place**; a graph of torch.onnx returns them longer at every step (cache.py).

A graph of the Model Builder has no ``position_ids``: a token's position is its place among the
unmasked ones, so left-padding would be silently wrong. No method here takes a mask: rows begin at
their first token and may differ in length, and mask and positions are made of the lengths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError, StageError
from .cache import ConcatenatedCache, Layout, SharedCache, slots
from .capture import Graphs
from .session import (
    bind,
    device_of,
    element_type,
    free_memory,
    open_session,
    read_config,
    require_device,
    run,
)

if TYPE_CHECKING:
    import torch


class OrtModel:
    """A decoder with its key-value cache, fed with token ids.

    Args:
        folder: An export: ``model.onnx`` and ``genai_config.json``.
        device: ``cpu``, ``cuda`` or ``cuda:N``. Never replaced by another one.
        threads: Threads of a CPU operator. They never spin while idle, so a neighbour on the same
            cores (torch, in a comparison) is not slowed down by them.
        max_len: Positions of the cache, prompt and output together; by default, and at most, the
            context length that was exported.
        cuda_graph: Capture the step of one token as a CUDA graph and replay it, which saves the
            launch of every kernel. CUDA only, and a cache in place only.
        options: ONNX Runtime's session configuration entries by name.

    Attributes:
        provider: Name of the execution provider in use.
        threads: As given.
        lengths: Tokens in the cache, of each row.
        max_len: Positions of the cache.
        row_bytes: Bytes that the cache of one row takes.
        vocab: Width of the logits.

    Raises:
        InputError: *folder* is no such export, *device* cannot be used, *max_len* is too large.
        StageError: ONNX Runtime cannot load the graph, or only on another device.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "cpu",
        threads: int = 1,
        max_len: int | None = None,
        cuda_graph: bool = False,
        options: Mapping[str, str] = {},
    ) -> None:
        require_device(device)

        config = read_config(folder)
        decoder, context = config["model"]["decoder"], int(config["model"]["context_length"])
        self.max_len = context if max_len is None else max_len
        if not 2 <= self.max_len <= context:
            raise InputError(
                f"{folder}: a cache of {self.max_len} tokens was asked for, the export holds 2 to "
                f"{context}; shorten prompt_tokens or output_tokens"
            )
        self._folder = folder
        self._device = device_of(device)
        if cuda_graph and self._device.type != "cuda":
            raise InputError(f"cuda_graph: needs device cuda, got {device}; leave it out")
        shared = bool(config["search"]["past_present_share_buffer"])
        if cuda_graph and not shared:
            raise InputError(
                f"cuda_graph: {folder} hands its cache on, longer at every step, and so cannot be "
                "captured; leave it out"
            )
        self._graphs = Graphs() if cuda_graph else None
        path = folder / decoder["filename"]
        self._session = open_session(
            path,
            self._device,
            threads,
            cuda_graph=cuda_graph,
            entries=options,
            graph=self._rewritten(path),
        )
        self.provider: str = self._session.get_providers()[0]
        self.threads = threads
        self.lengths: tuple[int, ...] = ()

        inputs = {node.name: node for node in self._session.get_inputs()}
        kept = slots(decoder, inputs)
        fed = {"input_ids", "attention_mask", *(slot.past for slot in kept)}
        self._positions = "position_ids" in decoder.get("inputs", ())
        fed |= {"position_ids"} if self._positions else set()
        fed.update(self._more_inputs)
        if fed != set(inputs):
            raise StageError(
                f"{folder}: the graph's inputs are not those of a text decoder with a plain cache; "
                f"unexpected or missing: {', '.join(sorted(fed ^ set(inputs)))}"
            )
        logits = next(node for node in self._session.get_outputs() if node.name == "logits")
        self._dtype = element_type(logits)
        self.vocab = int(logits.shape[-1])
        self._binding = self._session.io_binding()
        self._batch = 0
        dtype = element_type(inputs[kept[0].past])
        binders = (self._binding.bind_input, self._binding.bind_output)
        feed, fetch = (partial(bind, binder) for binder in binders)  # not of self: no ring
        layout = Layout(kept, self.max_len, dtype, self._device, feed, fetch)
        self._kv = SharedCache(layout) if shared else ConcatenatedCache(layout)
        self.row_bytes: int = self._kv.row_bytes

    @property
    def length(self) -> int:
        """Tokens in the cache, of the longest row."""
        return max(self.lengths, default=0)

    _more_inputs: tuple[str, ...] = ()
    """Inputs that a rewritten graph has beside those of every export."""

    def _rewritten(self, path: Path) -> bytes | None:
        """What to run in place of the graph at *path*, over the same weights; None for that one."""
        return None

    def reset(self) -> None:
        """Forget the sequences; the buffers stay."""
        self.lengths = ()

    def rewind(self, length: int) -> None:
        """Forget all but the first *length* tokens of every row.

        So several continuations share the cache of what they have in common. In place nothing is
        copied.

        Raises:
            ValueError: A row holds fewer.
        """
        if not 0 <= length <= min(self.lengths, default=0):
            raise ValueError(f"cannot rewind to {length}: the rows hold {self.lengths} tokens")
        if length:
            self._kv.rewind(length)
        self.lengths = (length,) * len(self.lengths) if length else ()

    def prefill(self, ids: torch.Tensor, lengths: Sequence[int] | None = None) -> torch.Tensor:
        """Append *ids* to the cache and return the logits at every one of their positions.

        Args:
            ids: Token ids [B, T], on any device. Shorter rows are filled up **on the right**, with
                any id.
            lengths: How many of each row's ids count, 1 to T; all of them when None.

        Returns:
            Logits [B, T, vocab] on the model's device, in the graph's element type; those of a
            row at and after its length mean nothing.

        Raises:
            ValueError: The cache has no room, or holds tokens while B > 1 or B differs (the fused
                attention appends several tokens at batch 1 only; call reset() first), or *lengths*
                does not fit *ids*.
            StageError: The memory has no room for the cache.
        """
        import torch

        counts = self._ready(ids, lengths)
        logits = torch.empty((*ids.shape, self.vocab), dtype=self._dtype, device=self._device)
        return self._run(ids, counts, logits)

    def step(self, ids: torch.Tensor) -> torch.Tensor:
        """Append one token to each row, at that row's own end.

        Args:
            ids: Token ids [B, 1], on any device.

        Returns:
            Logits [B, 1, vocab]; **the next step overwrites them**.

        Raises:
            ValueError: The cache has no room, or another number of rows.
        """
        batch = ids.shape[0]
        self._fit(batch, 1)
        return self._run(ids, (1,) * batch, self._step_logits)

    def _ready(self, ids: torch.Tensor, lengths: Sequence[int] | None) -> tuple[int, ...]:
        """How many ids of each row count, once it is sure that they can be appended."""
        batch, new = ids.shape
        counts = (new,) * batch if lengths is None else tuple(map(int, lengths))
        if len(counts) != batch or not all(1 <= count <= new for count in counts):
            raise ValueError(f"lengths {counts}: expected {batch} numbers from 1 to {new}")
        if self.lengths and new > 1 and batch > 1:
            raise ValueError("several tokens can be appended to a filled cache at batch 1 only")
        self._fit(batch, new)
        return counts

    def _fit(self, batch: int, new: int) -> None:
        if self.length + new > self.max_len:
            raise ValueError(f"{self.length} + {new} tokens exceed the cache of {self.max_len}")
        if batch == self._batch:
            return
        if self.lengths:
            raise ValueError(f"the cache holds {self._batch} rows, got {batch}; call reset() first")
        self._allocate(batch)

    def _allocate(self, batch: int) -> None:
        """Buffers for *batch* rows."""
        import torch

        on = {"device": self._device}
        self._kv.free()  # before the new one is made: both together may not fit
        self._check_room(batch)
        self._kv.allocate(batch)
        self._ones = torch.ones(batch * self.max_len, dtype=torch.int64, **on)
        self._places = torch.arange(self.max_len, **on)
        self._step_ids = torch.empty((batch, 1), dtype=torch.int64, **on)
        self._step_mask = torch.empty((batch, self.max_len), dtype=torch.int64, **on)
        self._step_logits = torch.empty((batch, 1, self.vocab), dtype=self._dtype, **on)
        self._batch = batch
        if self._graphs:
            self._graphs.renew()  # a graph replays the addresses it was captured with

    def _check_room(self, batch: int) -> None:
        needed = batch * self.row_bytes
        if needed > (free := free_memory(self._device)):
            raise StageError(
                f"{self._folder}: a cache of {batch} rows and {self.max_len} tokens takes "
                f"{needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free on {self._device}; "
                "lower batch, prompt_tokens or output_tokens"
            )

    def _run(
        self,
        ids: torch.Tensor,
        counts: tuple[int, ...],
        logits: torch.Tensor,
        more: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Append *counts* of *ids* to the rows; *more*: a rewritten graph's inputs, int64."""
        import torch

        before = self.lengths or (0,) * len(counts)
        new = ids.shape[1]
        width = max(before) + new
        options, captured = None, False
        if self._graphs:
            options, captured = self._graphs.options(step=logits is self._step_logits)
            if captured:  # all shapes and addresses stay the same: the mask has its full width
                ids, width = self._step_ids.copy_(ids), self.max_len
        ids = ids.to(self._device, torch.int64).contiguous()
        self._feed("input_ids", ids)
        self._kv.begin(before, new)
        mask = self._mask(before, counts, width, fixed=captured)
        self._feed("attention_mask", mask, (len(before), width))
        if self._positions:
            positions = torch.tensor(before, device=self._device)[:, None] + self._places[:new]
            self._feed("position_ids", positions)
        for name, given in (more or {}).items():
            self._feed(name, given)
        self._fetch("logits", logits)
        run(self._session, self._binding, self._device, options)
        self._kv.end(counts, new)
        self.lengths = tuple(map(sum, zip(before, counts, strict=True)))
        return logits

    def _mask(
        self, before: tuple[int, ...], counts: tuple[int, ...], width: int, *, fixed: bool
    ) -> torch.Tensor:
        """Ones for each row's tokens, zeros elsewhere, [B, width]; always in one buffer if *fixed*.

        A graph without position ids counts the ones of a row: its next token comes after so many.
        """
        import torch

        if min(map(sum, zip(before, counts, strict=True))) == width and not fixed:
            return self._ones
        real = self._kv.real(before, counts, self._places[:width])
        return self._step_mask.copy_(real) if fixed else real.to(torch.int64)

    def _feed(self, name: str, tensor: torch.Tensor, shape: tuple[int, ...] = ()) -> None:
        bind(self._binding.bind_input, name, tensor, shape)

    def _fetch(self, name: str, tensor: torch.Tensor, shape: tuple[int, ...] = ()) -> None:
        bind(self._binding.bind_output, name, tensor, shape)
