"""How a stage tells what it is doing, without knowing who listens.

A stage gets a :data:`Tick` and calls it with (done, total, note). The command line draws a bar
from it; tests and library users pass :func:`silent`.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

Tick = Callable[[int, int, str], None]
"""``tick(done, total, note)``: *done* of *total* units of work; *note* is short, e.g. a loss."""


def silent(done: int, total: int, note: str = "") -> None:
    """A :data:`Tick` that says nothing."""


@contextlib.contextmanager
def bars_of(lm: Any, tick: Tick) -> Iterator[None]:
    """Send the bars of *lm*, an lm-eval model, to *tick*: it draws with tqdm and has no other way.

    The ``tqdm`` of every module that *lm*'s class is built from is replaced until the block ends.
    """

    class Bar(_Bar):
        hear = staticmethod(tick)

    modules = {sys.modules[kind.__module__] for kind in type(lm).__mro__}
    drawn = [(m, name) for m in modules for name in ("tqdm", "tqdm_asyncio") if hasattr(m, name)]
    originals = [getattr(module, name) for module, name in drawn]
    for module, name in drawn:
        setattr(module, name, Bar)
    try:
        yield
    finally:
        for (module, name), original in zip(drawn, originals, strict=True):
            setattr(module, name, original)


class _Bar:
    """As much of tqdm as lm-eval uses."""

    hear: Tick = staticmethod(silent)

    def __init__(
        self, items: Any = None, total: int | None = None, disable: bool = False, **_: Any
    ) -> None:
        self._items = items
        self._total = total if total is not None else len(items)
        self._disabled = disable
        self.n = 0

    def __iter__(self) -> Iterator[Any]:
        for item in self._items:
            yield item
            self.update()

    def update(self, count: int = 1) -> None:
        self.n += count
        if not self._disabled:
            self.hear(self.n, self._total, "")

    def close(self) -> None:
        pass

    @classmethod
    async def gather(cls, *tasks: Any, **_: Any) -> list[Any]:
        """As tqdm.asyncio's; the first error ends it."""
        bar = cls(total=len(tasks))

        async def counted(task: Any) -> Any:
            found = await task
            bar.update()
            return found

        return list(await asyncio.gather(*map(counted, tasks)))
