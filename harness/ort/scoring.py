"""An export that is asked for its logits at a few positions only."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .graph import ASKED, for_scoring
from .runtime import OrtModel

if TYPE_CHECKING:
    import torch

    from .walk import Call


class ScoringModel(OrtModel):
    """A decoder as :class:`.runtime.OrtModel`, its graph rewritten in memory where it can be.

    Args:
        folder: A Model Builder export.
        options: As for :class:`.runtime.OrtModel`, without ``cuda_graph``.

    Attributes:
        gathers: Whether the graph computes logits where they are asked only; see :mod:`.graph`.
        most: Segments a call, for :class:`.engine.Engine`.

    Raises:
        InputError, StageError: As :class:`.runtime.OrtModel` does.
    """

    most = 1

    def __init__(self, folder: Path, **options: Any) -> None:
        self.gathers = False
        super().__init__(folder, **options)

    def _rewritten(self, path: Path) -> bytes | None:
        graph = for_scoring(path)
        if graph is not None:
            self.gathers, self._more_inputs = True, (ASKED,)
        return graph

    def ask(
        self, ids: torch.Tensor, asked: torch.Tensor, lengths: Sequence[int] | None = None
    ) -> torch.Tensor:
        """Append *ids* as :meth:`prefill` does; its logits at the positions *asked* alone.

        Args:
            ids: Token ids [B, T].
            asked: Indices [K] into the B × T positions, row after row; at least one.
            lengths: How many of each row's ids count.

        Returns:
            Logits [K, vocab], the very values that :meth:`prefill` has there.

        Raises:
            ValueError, StageError: As :meth:`prefill` does.
        """
        import torch

        asked = asked.to(self._device)
        if not self.gathers:
            return self.prefill(ids, lengths).flatten(0, 1)[asked]
        counts = self._ready(ids, lengths)
        shape = (1, len(asked), self.vocab)
        logits = torch.empty(shape, dtype=self._dtype, device=self._device)
        return super()._run(ids, counts, logits, {ASKED: asked})[0]

    def ready(self, longest: int) -> None:
        """Begin anew; there is room for all that was exported."""
        self.reset()

    def logits(self, call: Call) -> torch.Tensor:
        """Append a segment at its depth; the logits [asked, vocabulary] that it asks for."""
        import torch

        (segment,) = call.segments
        self.rewind(segment.depth)
        asked = call.asked if len(call.asked) else np.zeros(1, np.int64)
        ids = torch.from_numpy(segment.tokens)[None]
        return self.ask(ids, torch.from_numpy(asked))[: len(call.asked)]

    def _run(
        self,
        ids: torch.Tensor,
        counts: tuple[int, ...],
        logits: torch.Tensor,
        more: dict[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """As it is for every export: the logits of all positions."""
        import torch

        if not self.gathers:
            return super()._run(ids, counts, logits)
        everywhere = torch.arange(ids.numel(), device=self._device)
        super()._run(ids, counts, logits.view(1, -1, self.vocab), {ASKED: everywhere})
        return logits
