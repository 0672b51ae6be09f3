"""The sessions over one export: one for log-likelihoods, one for generation, never both at once.

The weights may not fit twice. A task asks for one kind or the other, and lm-eval asks all that is
of a kind together, so that sessions change seldom.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from .scoring import ScoringModel
from .segmented import Caller, SegmentedModel, UndividedError

_CUDNN_ATTENTION = "ORT_ENABLE_CUDNN_FLASH_ATTENTION"
"""Environment variable that ONNX Runtime reads as it makes a session; unset means yes."""

logger = logging.getLogger(__name__)


class Sessions:
    """Opens what is asked of, and gives up the other.

    Args:
        folder: An export.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: Of a CPU.

    Raises:
        InputError, StageError: By all methods, as :class:`.runtime.OrtModel` does.
    """

    def __init__(self, folder: Path, device: str, threads: int) -> None:
        self._folder, self._device, self._threads = folder, device, threads
        self._open: SegmentedModel | ScoringModel | None = None
        self._callers: list[Caller] = []
        self._divides = True

    def scoring(self) -> SegmentedModel | ScoringModel:
        """For log-likelihoods; that for generation where the graph cannot be divided."""
        if isinstance(self._open, SegmentedModel):
            return self._open
        if self._divides:
            self._open = None
            try:
                with _without_planned_attention():
                    self._open = SegmentedModel(
                        self._folder, device=self._device, threads=self._threads
                    )
            except UndividedError:
                self._divides = False
            else:
                self._callers = self._open.callers()
                return self._open
        return self.generating()

    def callers(self) -> Sequence[Caller | ScoringModel]:
        """Who can be asked for log-likelihoods side by side."""
        session = self.scoring()
        return self._callers if isinstance(session, SegmentedModel) else [session]

    def generating(self) -> ScoringModel:
        """For generation."""
        if isinstance(self._open, ScoringModel):
            return self._open
        self._open, self._callers = None, []
        with _without_planned_attention():
            model = ScoringModel(self._folder, device=self._device, threads=self._threads)
        if not model.gathers:
            logger.warning(
                "%s: the end of its graph is unknown here, so that logits are computed at all "
                "positions; slower, and otherwise the same",
                self._folder.name,
            )
        self._open = model
        return model


@contextlib.contextmanager
def _without_planned_attention() -> Iterator[None]:
    """Make sessions without cuDNN's attention, unless the environment asks for it.

    It plans every new shape for 40 ms, and hardly two calls here have one shape.
    """
    if _CUDNN_ATTENTION in os.environ:
        yield
        return
    os.environ[_CUDNN_ATTENTION] = "0"
    try:
        yield
    finally:
        del os.environ[_CUDNN_ATTENTION]
