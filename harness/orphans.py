"""Processes that this one starts end with it, also when it is killed with -9.

The parent holds the write end of the child's standard input and never writes to it; the system
closes it when the parent is gone, however it went. An orphan would go on writing into a run folder
that another run has taken over, or keep cores busy that it measures.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def lifeline() -> Iterator[int]:
    """Yield a standard input for a child that calls :func:`end_with_parent`.

    The child's life ends with the block at the latest.
    """
    read, write = os.pipe()
    try:
        yield read
    finally:
        os.close(read)
        os.close(write)


def end_with_parent() -> None:
    """End this process when its standard input does."""
    threading.Thread(target=_wait, daemon=True).start()


def _wait() -> None:
    while os.read(0, 4096):  # sys.stdin would be locked while the interpreter ends
        pass
    os._exit(1)
