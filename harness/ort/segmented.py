"""An export whose calls take several segments, for several callers at a time.

Session and weights are one; each :class:`Caller` has a cache of its own. On a CPU callers run side
by side with a thread each: questions do not wait for each other, while the threads of an operator
wait for the slowest at each of its ends.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import StageError
from .cache import Layout, row_bytes, slots
from .graph import ASKED, for_scoring
from .segments import LAST, SIZES, TOTAL
from .session import (
    bind,
    device_of,
    element_type,
    free_memory,
    open_session,
    read_config,
    require_device,
    rows,
    run,
)

if TYPE_CHECKING:
    import torch

    from .walk import Call

SEGMENTS = {"cpu": 8, "cuda": 16}
"""Segments a call. Each that is lacking costs a made-up token and its attention.

On an AMD EPYC core 8 segments of 64 tokens were the quickest at 1 M and at 48 M parameters; 16 of
them, or of 128 tokens, are 0 to 10 % slower.
"""

SMALL = 5e8
"""Bytes of weights below which threads of a CPU are callers of their own.

With 1 M and 48 M parameters two callers are 1.1 to 2.2 times as quick as two threads of an
operator. Of a large model few questions are asked at a time (models/answered.py), too few for many
callers; and its operators are long enough to be shared out.
"""

_STEP = 256
"""Caches are made for a multiple of so many tokens, so that few are made."""


class SegmentedModel:
    """A decoder whose graph could be divided; see :mod:`.segments`.

    Args:
        folder: A Model Builder export.
        device: ``cpu``, ``cuda`` or ``cuda:N``. Never replaced by another one.
        threads: Of a CPU: each a caller's own, or all of one caller; see :data:`SMALL`.

    Attributes:
        max_len: Tokens of a path, at most.
        row_bytes: Bytes that the cache of *max_len* tokens takes.
        vocab: Width of the logits.

    Raises:
        InputError: *folder* is no such export, or *device* cannot be used.
        StageError: ONNX Runtime cannot load the graph, or only on another device.
        UndividedError: The graph is not one that can be divided.
    """

    def __init__(self, folder: Path, *, device: str = "cpu", threads: int = 1) -> None:
        require_device(device)
        self.folder = folder
        config = read_config(folder)["model"]
        path = folder / config["decoder"]["filename"]
        self.device = device_of(device)
        self.most = SEGMENTS[self.device.type]
        graph = for_scoring(path, self.most)
        if graph is None:
            raise UndividedError(f"{folder}: its graph takes one run of tokens a call")
        size = sum(one.stat().st_size for one in folder.glob("*.onnx*"))
        self._abreast = threads if self.device.type == "cpu" and size < SMALL else 1
        each = max(1, threads // self._abreast)
        self.session = open_session(path, self.device, each, cuda_graph=False, graph=graph)
        inputs = {node.name: node for node in self.session.get_inputs()}
        self.slots = slots(config["decoder"], inputs)
        self.dtype = element_type(inputs[self.slots[0].past])
        logits = next(node for node in self.session.get_outputs() if node.name == "logits")
        self.logits_dtype, self.vocab = element_type(logits), int(logits.shape[-1])
        self.max_len = int(config["context_length"])
        self.row_bytes = row_bytes(self.slots, self.max_len, self.dtype)

    def callers(self) -> list[Caller]:
        """New callers, as many as can be asked side by side and have room for their caches."""
        most = rows(self.row_bytes, self.device)
        return [Caller(self) for _ in range(min(self._abreast, most))]


class UndividedError(StageError):
    """A graph cannot be divided, and has to be run as it is."""


class Caller:
    """A cache of a :class:`SegmentedModel` and what is bound to it.

    Attributes:
        most: Segments a call.
    """

    def __init__(self, model: SegmentedModel) -> None:
        import torch

        self.most = model.most
        self._model = model
        self._binding = model.session.io_binding()
        self._sizes = torch.zeros(self.most, dtype=torch.int64)
        self._totals = torch.zeros(self.most, dtype=torch.int32)
        self._lasts = torch.zeros(self.most, dtype=torch.int32, device=model.device)
        bind(self._binding.bind_input, SIZES, self._sizes)
        for k in range(self.most):
            bind(self._binding.bind_input, TOTAL.format(k), self._totals[k : k + 1])
            bind(self._binding.bind_input, LAST.format(k), self._lasts[k : k + 1])
        self._room = 0
        self._cache: list[torch.Tensor] = []

    def ready(self, longest: int) -> None:
        """Have a cache for paths of *longest* tokens.

        Raises:
            StageError: The memory has no room for it.
        """
        if longest <= self._room:
            return
        model = self._model
        self._room, self._cache = 0, []  # before the new one is made: both may not fit
        room = min(-(-longest // _STEP) * _STEP, model.max_len)
        needed, free = row_bytes(model.slots, room, model.dtype), free_memory(model.device)
        if needed > free:
            raise StageError(
                f"{model.folder}: a cache of {room} tokens takes {needed / 1e9:.1f} GB and "
                f"{free / 1e9:.1f} GB are free on {model.device}; lower max_length"
            )
        feed, fetch = (
            partial(bind, binder)
            for binder in (self._binding.bind_input, self._binding.bind_output)
        )
        layout = Layout(model.slots, room, model.dtype, model.device, feed, fetch)
        self._cache = [layout.zeros(slot, 1) for slot in model.slots]
        for slot, buffer in zip(model.slots, self._cache, strict=True):
            feed(slot.past, buffer)
            for k in range(self.most):
                fetch(f"{slot.present}/{k}", buffer)
        self._room = room

    def logits(self, call: Call) -> torch.Tensor:
        """Append the segments of *call*, at most :attr:`most`, each at its own depth.

        A segment leaves the path of those before it where its depth says, and what lay behind is
        forgotten. Those that the graph has more than there are come first, each a token that the
        first segment overwrites.

        Returns:
            Logits [asked, vocabulary] on the model's device.

        Raises:
            ValueError: A segment goes beyond what :meth:`ready` made room for.
        """
        import torch

        model, first = self._model, call.segments[0]
        spare = self.most - len(call.segments)
        sizes = np.array([1] * spare + [len(one.tokens) for one in call.segments])
        totals = sizes + np.array([first.depth] * spare + [one.depth for one in call.segments])
        if totals.max() > self._room:
            raise ValueError(f"a path of {totals.max()} tokens in a cache of {self._room}")
        tokens = [first.tokens[:1].repeat(spare), *(one.tokens for one in call.segments)]
        asked = spare + call.asked if len(call.asked) else np.zeros(1, np.int64)
        self._sizes[:] = torch.from_numpy(sizes)
        self._totals[:] = torch.from_numpy(totals)
        self._lasts.copy_(self._totals - 1)
        ids = torch.from_numpy(np.concatenate(tokens))[None].to(model.device)
        there = torch.from_numpy(asked).to(model.device)
        shape = (1, len(asked), model.vocab)
        logits = torch.empty(shape, dtype=model.logits_dtype, device=model.device)
        bind(self._binding.bind_input, "input_ids", ids)
        bind(self._binding.bind_input, ASKED, there)
        bind(self._binding.bind_output, "logits", logits)
        run(model.session, self._binding, model.device)
        return logits[0, : len(call.asked)]
