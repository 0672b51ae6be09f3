"""The keys and values under :class:`.runtime.OrtModel`: grown in place, or handed on at every step.

A graph of the Model Builder appends to a buffer where it lies (:class:`SharedCache`); others read
the cache and write a longer one (:class:`ConcatenatedCache`). Both are bound to torch tensors by
their addresses, so that nothing passes through the host.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    Bind = Callable[[str, torch.Tensor, tuple[int, ...]], None]
    """(name, tensor, shape) → None"""

Rows = tuple[int, ...]
"""A number of tokens for each row."""


@dataclass(frozen=True)
class Slot:
    """The keys, or the values, of one layer.

    Attributes:
        past: Name of the graph's input.
        present: Name of the graph's output.
        heads: Number of key-value heads.
        width: Elements of one head.
    """

    past: str
    present: str
    heads: int
    width: int

    def shape(self, batch: int, tokens: int) -> tuple[int, ...]:
        return (batch, self.heads, tokens, self.width)


def slots(decoder: dict[str, Any], inputs: dict[str, Any]) -> list[Slot]:
    """The slots of a graph.

    Args:
        decoder: Its ``genai_config.json``, section ``decoder``.
        inputs: ONNX Runtime's description of its inputs, by name; one that lacks has 0 heads.
    """
    found = []
    for layer in range(int(decoder["num_hidden_layers"])):
        for part in ("key", "value"):
            name = f"{layer}.{part}"
            past = inputs.get(f"past_key_values.{name}")
            _, heads, _, width = past.shape if past else (0, 0, 0, 0)
            # The Model Builder leaves the width of a head a name.
            width = width if isinstance(width, int) else int(decoder["head_size"])
            found.append(Slot(f"past_key_values.{name}", f"present.{name}", int(heads), width))
    return found


def row_bytes(slots: list[Slot], tokens: int, dtype: torch.dtype) -> int:
    """Bytes that *tokens* of one row take in *slots*."""
    return sum(math.prod(slot.shape(1, tokens)) for slot in slots) * int(dtype.itemsize)


@dataclass(frozen=True)
class Layout:
    """What a cache is made of.

    Attributes:
        slots: Keys and values of every layer.
        max_len: Tokens of a row, at most.
        dtype: torch's element type.
        device: Where it lies.
        bind_input: Gives an input of the graph its tensor.
        bind_output: Gives an output its own.
    """

    slots: list[Slot]
    max_len: int
    dtype: torch.dtype
    device: torch.device
    bind_input: Bind
    bind_output: Bind

    @property
    def row_bytes(self) -> int:
        """Bytes that *max_len* tokens take."""
        return row_bytes(self.slots, self.max_len, self.dtype)

    def zeros(self, slot: Slot, batch: int) -> torch.Tensor:
        """A buffer for *batch* rows: zeros, as masked garbage could be NaN and 0 × NaN is NaN."""
        import torch

        shape = slot.shape(batch, self.max_len)
        return torch.zeros(shape, dtype=self.dtype, device=self.device)


class SharedCache:
    """One buffer a slot, bound as past and as present: a step copies nothing.

    Every row begins in column 0, and a token goes to its row's own end.
    """

    fixed = True
    """Whether shapes and addresses are the same at every step, as a CUDA graph needs."""
    name = "shared"

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.buffers: list[torch.Tensor] = []
        self.row_bytes = layout.row_bytes

    def free(self) -> None:
        self.buffers = []

    def allocate(self, batch: int) -> None:
        """Make and bind the buffers for *batch* rows."""
        layout = self._layout
        self.buffers = [layout.zeros(slot, batch) for slot in layout.slots]
        for slot, buffer in zip(layout.slots, self.buffers, strict=True):
            layout.bind_input(slot.past, buffer, ())
            layout.bind_output(slot.present, buffer, ())

    def begin(self, before: Rows, new: int) -> None:
        """Get ready for *new* columns after rows of *before* tokens."""

    def real(self, before: Rows, counts: Rows, places: torch.Tensor) -> torch.Tensor:
        """Which of the columns *places* [width] hold tokens once *counts* more came: [B, width]."""
        import torch

        ends = [old + new for old, new in zip(before, counts, strict=True)]
        return places < torch.tensor(ends, device=places.device)[:, None]

    def end(self, counts: Rows, new: int) -> None:
        """The graph has appended *new* columns, of which *counts* are tokens."""

    def rewind(self, length: int) -> None:
        """Forget all but the first *length* tokens of each row: what comes overwrites them."""


@dataclass(frozen=True)
class _Columns:
    """Where the rows lie: *width* columns are in use, and each row has *lengths* from *starts*."""

    width: int
    starts: Rows
    lengths: Rows


class ConcatenatedCache:
    """Two buffers a slot: the graph reads one and writes it, and what is new, into the other.

    New columns follow all old ones. Rows of a prompt begin in column 0; before more is appended to
    rows of unlike length they are moved, once, so that they end in one column. Then what is seen of
    a row has no hole, which matters where positions are counted as distances (ALiBi, windows).
    """

    fixed = False
    name = "concatenated"

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.row_bytes = 2 * layout.row_bytes
        self.free()

    def free(self) -> None:
        self._past: list[torch.Tensor] = []
        self._present: list[torch.Tensor] = []
        self._now = _Columns(0, (), ())
        self._before = self._now
        """What the buffers hold that were read last and will be written next."""

    def allocate(self, batch: int) -> None:
        slots = self._layout.slots
        self._past, self._present = (
            [self._layout.zeros(slot, batch).view(-1) for slot in slots] for _ in range(2)
        )

    def begin(self, before: Rows, new: int) -> None:
        width = max(before)
        aligned = _Columns(width, tuple(width - length for length in before), before)
        if not width:
            self._now = aligned
        elif self._now != aligned:
            self._move(aligned)
        layout = self._layout
        for slot, past, present in zip(layout.slots, self._past, self._present, strict=True):
            old, grown = (slot.shape(len(before), tokens) for tokens in (width, width + new))
            layout.bind_input(slot.past, past, old)
            layout.bind_output(slot.present, present, grown)

    def real(self, before: Rows, counts: Rows, places: torch.Tensor) -> torch.Tensor:
        import torch

        width = max(before)
        starts = torch.tensor([width - old for old in before], device=places.device)
        ends = torch.tensor([width + new for new in counts], device=places.device)
        return (starts[:, None] <= places) & (places < ends[:, None])

    def end(self, counts: Rows, new: int) -> None:
        now = self._now
        lengths = tuple(old + more for old, more in zip(now.lengths, counts, strict=True))
        self._turn(_Columns(now.width + new, now.starts, lengths))

    def rewind(self, length: int) -> None:
        batch = len(self._now.lengths)
        wanted = _Columns(length, (0,) * batch, (length,) * batch)
        if wanted == self._before:
            self._turn(wanted)  # what the last tokens were appended to is still there
        elif wanted != self._now:
            self._move(wanted)

    def _move(self, wanted: _Columns) -> None:
        """Copy the rows to where they are *wanted*."""
        batch, now = len(wanted.lengths), self._now
        for slot, past, present in zip(self._layout.slots, self._past, self._present, strict=True):
            old = _view(past, slot.shape(batch, now.width))
            new = _view(present, slot.shape(batch, wanted.width))
            for row, length in enumerate(wanted.lengths):
                here, there = now.starts[row], wanted.starts[row]
                new[row, :, there : there + length] = old[row, :, here : here + length]
        self._turn(wanted)

    def _turn(self, now: _Columns) -> None:
        """The buffers change places; what was written holds the rows as *now* says."""
        self._past, self._present = self._present, self._past
        self._now, self._before = now, self._now


def _view(flat: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    return flat[: math.prod(shape)].view(shape)
