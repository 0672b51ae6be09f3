"""One run in several processes, as ``accelerate launch`` or ``torchrun`` starts them.

The first process decides what is done, and alone writes into the run folder. It tells the others
which stages they take part in; while it merges, exports or reports, they wait. What they say to
each other goes through the launcher's key-value store and not through a collective operation, so
that no time limit of NCCL or gloo ends a run whose first process is busy for an hour.

An error anywhere ends all processes with the same exit code, also those that wait for the failed
one inside a collective operation: each has a thread that listens for failures. The message is
shown once, by the first process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, NoReturn

from ..errors import InputError, MedbenchError

COLLECTIVE_LIMIT = timedelta(hours=24)
"""Of one collective operation: others wait in one while the first saves a large adapter."""

_SHARDED = "MEDBENCH_SHARDED"
_POLL = 0.5
_FAREWELL = 20.0
"""Seconds that a process waits for the others to be on their way out."""


def world() -> int:
    """How many processes this run has.

    Raises:
        InputError: The launcher's WORLD_SIZE is no number.
    """
    return _number("WORLD_SIZE", 1)


def place(device: str) -> str:
    """*device* as this process means it: its own GPU where several share the run."""
    if device == "cuda" and world() > 1:
        return f"cuda:{_number('LOCAL_RANK', 0)}"
    return device


def sharded() -> bool:
    """Whether the processes hold a base between them while they tune (accelerate's FSDP)."""
    return os.environ.get(_SHARDED) == "true"


class Ranks:
    """This process and its fellows.

    Attributes:
        rank, size: Which of how many it is, from 0.
        last_words: Called in the first process with the message when another one has failed and
            this one is about to end.
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None) -> None:
        self.rank, self.size = rank, size
        self.last_words: Callable[[str], None] = lambda message: None
        self._store = store
        self._told = 0
        self._leaving = threading.Event()
        self._terminal = os.dup(2) if size > 1 else 2  # what is now; later it may be a log
        self._listener = threading.Thread(target=self._listen, daemon=True)
        if size > 1:
            self._listener.start()

    @property
    def first(self) -> bool:
        """Whether this is the process that decides and writes."""
        return self.rank == 0

    def connect(self, device: str) -> None:
        """Make ready for collective operations; *device* is ``cpu`` or ``cuda``."""
        os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # the recipe says the precision
        # finetune/sharding.py does it. Where this is set transformers loads zeros in all processes
        # but the first, and accelerate shards the adapter, too.
        fsdp = os.environ.pop("ACCELERATE_USE_FSDP", "").lower() == "true"
        os.environ[_SHARDED] = "true" if fsdp and self.size > 1 else "false"
        if self.size == 1:
            return
        import torch
        from torch import distributed

        backend = "gloo"
        if device == "cuda":
            torch.cuda.set_device(place(device))
            backend = "cuda:nccl,cpu:gloo"
        else:
            os.environ["ACCELERATE_USE_CPU"] = "true"  # else accelerate takes a GPU it sees
        distributed.init_process_group(backend, timeout=COLLECTIVE_LIMIT)

    def tell(self, what: str | None) -> None:
        """Let the others hear *what*; None ends their part."""
        if self._store is not None:
            self._store.set(f"told/{self._told}", json.dumps(what))
            self._told += 1

    def hear(self) -> str | None:
        """What the first process tells next, however long that takes."""
        key = f"told/{self._told}"
        while not self._store.check([key]):
            time.sleep(_POLL / 5)
        self._told += 1
        said: str | None = json.loads(self._store.get(key))
        return said

    def fail(self, code: int, message: str, trace: str = "") -> None:
        """Tell the others that this process ends with exit *code*; return when they know.

        Does not return when another one has failed before: this error may be its consequence.
        """
        if self._store is None:
            return
        said = {"rank": self.rank, "code": code, "message": message, "trace": trace}
        first = json.loads(self._store.compare_set("failure", "", json.dumps(said)))
        if first["rank"] != self.rank:
            threading.Event().wait()  # the listening thread ends the process
        self._wait_for_others()

    def leave(self) -> None:
        """The end without an error; the first process goes last, for it may hold the store."""
        if self._store is None:
            return
        from torch import distributed

        # Python would end it at exit inside of the store's C++, which aborts the process.
        self._leaving.set()
        self._listener.join(_FAREWELL)
        if distributed.is_initialized():
            distributed.destroy_process_group()
        if self.first:
            self._wait_for_others()
        else:
            self._store.add("gone", 1)

    def _wait_for_others(self) -> None:
        deadline = time.monotonic() + _FAREWELL
        while self._store.add("gone", 0) < self.size - 1 and time.monotonic() < deadline:
            time.sleep(_POLL / 5)

    def _listen(self) -> None:
        store = _store()  # a connection of its own: the other may be busy for long
        try:
            while not store.check(["failure"]):
                if self._leaving.wait(_POLL):
                    return
            failure = json.loads(store.get("failure"))
        except RuntimeError:  # the process that held the store is gone
            if self._leaving.is_set():
                return
            os._exit(1)
        if failure["rank"] != self.rank:
            self._end(store, failure)

    def _end(self, store: Any, failure: dict[str, Any]) -> NoReturn:
        try:
            if self.first:
                message = failure["message"]
                sys.stderr.write(failure["trace"])  # into run.log
                sys.stderr.flush()
                self.last_words(message)
                shown = "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in message)
                os.write(self._terminal, f"medbench: {shown}\n".encode())
            store.add("gone", 1)
        finally:
            os._exit(failure["code"])


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """This process among those of its launcher; the only one where there is none.

    Raises:
        InputError: The launcher's variables are missing or no numbers.
        SystemExit: In all processes but the first, in place of an error, which that one shows.
    """
    size = world()
    if size == 1:
        yield Ranks()
        return
    ranks = Ranks(_number("RANK"), size, _store(host=True))
    _interrupt_once(ranks.first)
    try:
        yield ranks
    except BaseException as error:
        code, message, trace = _account(error)
        if not ranks.first:
            message = f"process {ranks.rank} of {size} ({socket.gethostname()}): {message}"
        ranks.fail(code, message, trace)
        if ranks.first:
            raise
        raise SystemExit(code) from None
    ranks.leave()


def _account(error: BaseException) -> tuple[int, str, str]:
    """(exit code, message, traceback where nobody meant the error to happen)."""
    if isinstance(error, KeyboardInterrupt):
        return 130, "interrupted", ""
    code = getattr(error, "exit_code", 1)
    if isinstance(error, MedbenchError):
        return code, str(error), ""
    return code, f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error))


def _interrupt_once(first: bool) -> None:
    """Ctrl-C reaches every process, from the terminal and again from the launcher.

    The first process stops in order and ends the others; a second signal must not disturb it.
    """

    def stop(*_: Any) -> NoReturn:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, stop if first else signal.SIG_IGN)


def _store(host: bool = False) -> Any:
    """The launcher's key-value store; with *host* the first process opens it if nobody has."""
    from torch import distributed

    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name not in os.environ:
            raise InputError(f"WORLD_SIZE is set, but {name} is not; {_LAUNCH}")
    agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = distributed.TCPStore(
        os.environ["MASTER_ADDR"],
        _number("MASTER_PORT"),
        is_master=host and not agent and _number("RANK") == 0,
        multi_tenant=True,  # init_process_group of this process takes the same port
        wait_for_workers=False,
    )
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return distributed.PrefixStore(f"medbench/{attempt}", store)


_LAUNCH = "start with `accelerate launch -m medbench run …` (docs/how-to/several-gpus.md)"


def _number(name: str, default: int | None = None) -> int:
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        raise InputError(f"{name}={text!r}: expected a whole number; {_LAUNCH}")
    return int(text)
