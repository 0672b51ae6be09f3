"""How a stage tells what it is doing, without knowing who listens.

A stage gets a :data:`Tick` and calls it with (done, total, note). The command line draws a bar
from it; tests and library users pass :func:`silent`.
"""

from __future__ import annotations

from collections.abc import Callable

Tick = Callable[[int, int, str], None]
"""``tick(done, total, note)``: *done* of *total* units of work; *note* is short, e.g. a loss."""


def silent(done: int, total: int, note: str = "") -> None:
    """A :data:`Tick` that says nothing."""
