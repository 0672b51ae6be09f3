"""SIGTERM ends a run in order, as Ctrl-C does: what is done is kept, and the lock is let go."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn


class Stopped(KeyboardInterrupt):
    """A signal has ended the run; ``exit_code`` is 128 and its number, as shells have it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


@contextlib.contextmanager
def stopped_in_order() -> Iterator[None]:
    """Raise :class:`Stopped` in this block at the first SIGINT or SIGTERM.

    Further ones are ignored until the block ends, so that they do not disturb the tidying up. A
    library that waits in C++ may make a KeyboardInterrupt of its own of it; what is raised is ours.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # a library user's thread: signals are the program's own
        return
    wanted = (signal.SIGINT, signal.SIGTERM)
    heard: list[Stopped] = []
    before = {number: signal.getsignal(number) for number in wanted}

    def stop(number: int, frame: FrameType | None) -> NoReturn:
        for one in wanted:
            signal.signal(one, signal.SIG_IGN)
        heard.append(Stopped(number))
        raise heard[0]

    for number in wanted:
        signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt:
        if heard:
            raise heard[0] from None
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
