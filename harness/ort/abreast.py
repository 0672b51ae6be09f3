"""Generators side by side, each in a thread of its own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator, Sequence
from typing import TypeVar

Item = TypeVar("Item")

_AHEAD = 8
"""Items that wait to be taken, for each generator."""


def abreast(generators: Sequence[Generator[Item, None, None]]) -> Generator[Item, None, None]:
    """What all *generators* yield, as it comes; a single one stays in this thread.

    The first exception ends all of them and is raised here. So does closing this generator, or an
    interrupt: threads end after the item they are at, and are waited for.
    """
    if len(generators) <= 1:
        for generator in generators:
            yield from generator
        return
    found: queue.Queue[tuple[Item | None, BaseException | None]]
    found = queue.Queue(_AHEAD * len(generators))
    stopped = threading.Event()

    def give(item: Item | None, end: BaseException | None = None) -> None:
        while not stopped.is_set():
            try:
                return found.put((item, end), timeout=0.1)
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
            give(None, error)
        else:
            give(None, StopIteration())

    threads = [threading.Thread(target=run, args=(one,), daemon=True) for one in generators]
    for thread in threads:
        thread.start()
    try:
        running = len(threads)
        while running:
            item, end = found.get()
            if isinstance(end, StopIteration):
                running -= 1
            elif end is not None:
                raise end
            else:
                yield item  # type: ignore[misc]
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
