"""An export whose calls take several segments, for several callers at a time.

Session and weights are one; each :class:`Caller` has a cache of its own. On a CPU callers run side
by side with a thread each: questions do not wait for each other, while the threads of an operator
wait for the slowest at each of its ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import StageError
from .cache import Slot, slots
from .graph import ASKED, for_scoring
from .segments import LAST, SIZES, TOTAL
from .session import bind, element_type, open_session, read_config, require_device, rows

if TYPE_CHECKING:
    import torch

    from .walk import Call

SEGMENTS = {"cpu": 8, "cuda": 16}
"""Segments a call. Each that is lacking costs a made-up token and its attention.

On an AMD EPYC core 8 segments of 64 tokens were the quickest at 1 M and at 48 M parameters; 16 of
them, or of 128 tokens, are 0 to 10 % slower.
"""

_STEP = 256
"""Caches are made for a multiple of so many tokens, so that few are made."""


class SegmentedModel:
    """A decoder whose graph could be divided; see :mod:`.segments`.

    Args:
        folder: A Model Builder export.
        device: ``cpu``, ``cuda`` or ``cuda:N``. Never replaced by another one.

    Attributes:
        max_len: Tokens of a path, at most.
        row_bytes: Bytes that the cache of *max_len* tokens takes.
        vocab: Width of the logits.

    Raises:
        InputError: *folder* is no such export, or *device* cannot be used.
        StageError: ONNX Runtime cannot load the graph, or only on another device.
        UndividedError: The graph is not one that can be divided.
    """

    def __init__(self, folder: Path, *, device: str = "cpu") -> None:
        require_device(device)
        import torch

        config = read_config(folder)["model"]
        path = folder / config["decoder"]["filename"]
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.device.index is None:
            self.device = torch.device("cuda", 0)
        self.most = SEGMENTS[self.device.type]
        graph = for_scoring(path, self.most)
        if graph is None:
            raise UndividedError(f"{folder}: its graph takes one run of tokens a call")
        self.session = open_session(path, self.device, 1, cuda_graph=False, graph=graph)
        inputs = {node.name: node for node in self.session.get_inputs()}
        self.slots = slots(config["decoder"], inputs)
        self.dtype = element_type(inputs[self.slots[0].past])
        logits = next(node for node in self.session.get_outputs() if node.name == "logits")
        self.logits_dtype, self.vocab = element_type(logits), int(logits.shape[-1])
        self.max_len = int(config["context_length"])
        self.row_bytes = self.max_len * sum(
            slot.heads * slot.width * self.dtype.itemsize for slot in self.slots
        )

    def callers(self, threads: int) -> list[Caller]:
        """New callers: on a CPU as many as *threads*, if memory has room for their caches."""
        most = rows(self.row_bytes, self.device)
        return [Caller(self) for _ in range(min(threads, most) if self.device.type == "cpu" else 1)]


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
        """Have a cache for paths of *longest* tokens."""
        if longest <= self._room:
            return
        self._cache = []  # before the new one is made: both together may not fit
        self._room = min(-(-longest // _STEP) * _STEP, self._model.max_len)
        for slot in self._model.slots:
            self._cache.append(self._made(slot))

    def _made(self, slot: Slot) -> torch.Tensor:
        import torch

        shape = slot.shape(1, self._room)
        # Zeros, as what is masked is multiplied by 0, and 0 × NaN is NaN.
        buffer = torch.zeros(shape, dtype=self._model.dtype, device=self._model.device)
        bind(self._binding.bind_input, slot.past, buffer)
        for k in range(self.most):
            bind(self._binding.bind_output, f"{slot.present}/{k}", buffer)
        return buffer

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
        if model.device.type == "cuda":
            # ONNX Runtime computes on a stream of its own: what torch still writes must be there.
            torch.cuda.current_stream(model.device).synchronize()
        model.session.run_with_iobinding(self._binding)
        return logits[0, : len(call.asked)]
