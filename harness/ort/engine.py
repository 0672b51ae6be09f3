"""Runs a trie of requests through an ONNX Runtime session and reads the answers off.

The trie's segments (walk.py) go to the session in calls of many where its graph could be divided
(segments.py), one at a time where it could not. With several callers each takes a part of the trie.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..scorer.packing import HEAD_CHUNK, out_of_memory
from ..scorer.trie import Row, Trie
from .abreast import abreast
from .walk import Call, Size, parts, walk

BUDGET = {"cpu": 512, "cuda": 8192}
"""Tokens a call. A graph that could not be rewritten gives the logits of every one of them."""

LONGEST = {"cpu": 64, "cuda": 4096}
"""Tokens a segment, of several in a call.

The attention of a CPU computes those behind a query too, only to mask them.
"""

SHORTEST = 32
"""The fewest tokens a call that running out of memory leads to."""

Answers = tuple[list[Row], list[NDArray[np.float64]]]
"""Rows of a trie and what :func:`read` found for them."""


class Appends(Protocol):
    """Who appends segments to a cache and computes the logits they ask for.

    Attributes:
        most: Segments a call.
    """

    most: int

    def ready(self, longest: int) -> None:
        """Have a cache for paths of *longest* tokens."""

    def logits(self, call: Call) -> torch.Tensor:
        """[asked, vocabulary], in order."""


@dataclass(frozen=True)
class Engine:
    """Scores tries.

    Attributes:
        callers: Who are asked, side by side.
        kind: Type of their device: ``cpu`` or ``cuda``.
    """

    callers: Sequence[Appends]
    kind: str

    def answer(
        self, trie: Trie, budget: int, done: Callable[[int], None] = lambda answered: None
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
        """Score all requests of *trie* in calls of about *budget* tokens.

        Running out of memory halves the budget and goes on with the call that failed.

        Args:
            trie: The requests.
            budget: Tokens a call.
            done: Hears, now and then, how many requests are answered.

        Returns:
            For each request the sum of the log-probabilities (nats) of its asked tokens, and
            whether each of them was the most probable one; and the budget that was left.
        """
        totals, misses = np.zeros(trie.count), np.zeros(trie.count)
        longest = int(trie.depths.max(initial=0)) + 1
        left = [budget]
        answered = 0
        work = []
        for caller, part in zip(self.callers, parts(trie, len(self.callers)), strict=False):
            caller.ready(longest)
            work.append(self._part(caller, trie, part, left))
        with one_thread_each() if len(work) > 1 else contextlib.nullcontext():
            for rows, answers in abreast(work):
                for row, (values, hits) in zip(rows, answers, strict=True):
                    np.add.at(totals, row.requests, values)
                    np.add.at(misses, row.requests, 1 - hits)
                    answered += trie.finished(row.stop) - trie.finished(row.start)
                done(answered)
        return totals, misses == 0, left[0]

    def _part(
        self, caller: Appends, trie: Trie, part: tuple[int, int], left: list[int]
    ) -> Generator[Answers, None, None]:
        """The answers of the nodes of *part*, many rows together."""
        rows: list[Row] = []
        found: list[torch.Tensor] = []
        for row, logits in self._calls(caller, trie, part, left):
            rows.append(row)
            found.append(logits)
            if sum(map(len, found)) >= HEAD_CHUNK // len(self.callers):  # they hold as many each
                yield rows, read(torch.cat(found) if len(found) > 1 else logits, rows)
                rows, found = [], []
        if rows:
            yield rows, read(torch.cat(found), rows)

    def _calls(
        self, caller: Appends, trie: Trie, part: tuple[int, int], left: list[int]
    ) -> Iterator[tuple[Row, torch.Tensor]]:
        """Each call's nodes and logits; from the first unscored on again if memory runs out."""
        start, stop = part
        while start < stop:
            budget = left[0]
            longest = LONGEST[self.kind] if caller.most > 1 else budget
            size = Size(caller.most, min(budget, longest), budget)
            for call in walk(trie, start, stop, size):
                try:
                    logits = caller.logits(call)
                except Exception as error:  # the runtime's own exceptions share no narrower base
                    if budget <= SHORTEST or not out_of_memory(error):
                        raise
                    left[0] = min(left[0], max(SHORTEST, budget // 2))
                    if self.kind == "cuda":
                        torch.cuda.empty_cache()
                    break
                yield call.row, logits
                start = call.row.stop


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Have torch compute in the thread that asks: others, which wait spinning, hold up callers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # what threads begin with that are made from now on
    try:
        yield
    finally:
        torch.set_num_threads(before)


def read(logits: torch.Tensor, rows: list[Row]) -> list[NDArray[np.float64]]:
    """What is asked of *rows*, from the logits [asked, vocabulary] of their asked nodes together.

    Returns:
        [2, answers] for each row: log-probability (nats, computed in float32), and 1 where the
        target is the most probable token.
    """
    starts = np.cumsum([0, *(len(row.asked) for row in rows)])
    which = np.concatenate([start + row.which for start, row in zip(starts, rows, strict=False)])
    targets = torch.from_numpy(np.concatenate([row.targets for row in rows]))
    found = []
    for first in range(0, len(logits), HEAD_CHUNK):
        low, high = np.searchsorted(which, [first, first + HEAD_CHUNK])
        chances = logits[first : first + HEAD_CHUNK].log_softmax(-1, torch.float32)
        at = torch.from_numpy(which[low:high] - first).to(logits.device)
        goal = targets[low:high].to(logits.device)
        found.append(torch.stack([chances[at, goal], (chances.argmax(-1)[at] == goal).float()]))
    if not found:
        return [np.empty((2, 0)) for _ in rows]
    answers = torch.cat(found, 1).double().cpu().numpy()
    return np.split(answers, np.cumsum([len(row.which) for row in rows])[:-1], axis=1)
