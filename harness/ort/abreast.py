"""Generators side by side, each in a thread of its own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

_AHEAD = 8
"""Items that wait to be taken, for each generator."""


@dataclass(frozen=True)
class _End:
    """A generator has nothing more to yield, or failed."""

    error: BaseException | None


def abreast(generators: Sequence[Generator[Item, None, None]]) -> Generator[Item, None, None]:
    """What all *generators* yield, as it comes; a single one stays in this thread.

    The first exception ends all of them and is raised here. So does closing this generator, or an
    interrupt: threads end after the item they are at, and are waited for.
    """
    if len(generators) <= 1:
        for generator in generators:
            yield from generator
        return
    found: queue.Queue[Item | _End] = queue.Queue(_AHEAD * len(generators))
    stopped = threading.Event()

    def give(item: Item | _End) -> None:
        while not stopped.is_set():
            try:
                return found.put(item, timeout=0.1)
            except queue.Full:
                continue

    def run(generator: Generator[Item, None, None]) -> None:
        try:
            with contextlib.closing(generator):
                for item in generator:
                    give(item)
                    if stopped.is_set():
                        return
        except BaseException as error:  # raised again by who takes
            give(_End(error))
        else:
            give(_End(None))

    threads: list[threading.Thread] = []
    try:
        for one in generators:
            thread = threading.Thread(target=run, args=(one,), daemon=True)
            thread.start()
            threads.append(thread)
        running = len(threads)
        while running:
            item = found.get()
            if not isinstance(item, _End):
                yield item
            elif item.error is None:
                running -= 1
            else:
                raise item.error
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
