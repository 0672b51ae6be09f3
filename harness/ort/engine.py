"""Runs a trie of requests through an ONNX Runtime session and reads the answers off.

The trie's depth-first order falls into *branches*: runs of nodes that end in a leaf, each the
child of the node before it. There are two ways through them.

**Walk.** Branch after branch at batch 1. The cache is rewound to where the branch leaves the path,
which copies nothing, and the branch's own tokens are appended: each distinct token is computed
once, which is the least arithmetic there is. The fused attention appends at batch 1 only.

**Rows.** Whole paths, root to leaf, right-padded and sorted by length, many in a call. What paths
share is computed for each of them, but a call reads the weights once for all of its rows, and on a
GPU a short call costs as much as reading the weights.

Both read the same logits; :meth:`Engine.answer` takes the one that is cheaper for its trie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from ..scorer.packing import HEAD_CHUNK, out_of_memory
from ..scorer.trie import Ints, Row, Trie
from .scoring import ScoringModel

BUDGET = {"cpu": 256, "cuda": 4096}
"""Tokens a call. A graph that could not be rewritten gives the logits of every one of them."""

SHORTEST = 32
"""The fewest tokens a call that running out of memory leads to."""

CALL = {"cpu": 16, "cuda": 200}
"""Tokens whose arithmetic takes as long as a call's fixed cost, chiefly reading the weights.

On an H200 (8B, fp16) a step of one token takes 5.9 ms and a prompt of 512 tokens 14.3 ms, 0.028 ms
a token. On one CPU core 4 tokens with 1 M parameters, 40 with 48 M, which no cache holds.
"""

Answered = tuple[Row, torch.Tensor]
"""Nodes of a trie and the logits [asked, vocabulary] of those that are asked."""

_NO_PATH: Ints = np.empty(0, np.int64)


@dataclass(frozen=True)
class Branch:
    """Consecutive nodes of a trie, each the child of the one before, down to a leaf.

    Attributes:
        tokens: Token ids from the root to the leaf.
        depth: How many of them belong to earlier branches.
        row: The branch's own nodes, and who asks for what.
    """

    tokens: Ints
    depth: int
    row: Row

    @property
    def own(self) -> int:
        return len(self.tokens) - self.depth


@dataclass(frozen=True)
class Engine:
    """Scores tries with one session.

    Attributes:
        model: The session and its cache.
        kind: Type of its device: ``cpu`` or ``cuda``.
        most: Sequences a call, at most: a cache has the whole context's length for each of them.
    """

    model: ScoringModel
    kind: str
    most: int = 16

    def answer(
        self, trie: Trie, budget: int, done: Callable[[int], None] = lambda stop: None
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
        """Score all requests of *trie* in calls of about *budget* tokens.

        Running out of memory halves the budget and repeats the call that failed.

        Args:
            trie: The requests.
            budget: Tokens a call.
            done: Hears, after each call, how many nodes are scored.

        Returns:
            For each request the sum of the log-probabilities (nats) of its asked tokens, and
            whether each of them was the most probable one; and the budget that was left.
        """
        totals, misses = np.zeros(trie.count), np.zeros(trie.count)
        found = list(branches(trie))
        calls = self._walk if self._walks(found, budget) else self._rows
        left = [budget]
        scored = 0
        self.model.reset()
        for rows, logits in _gathered(calls(found, left)):
            for row, (values, hits) in zip(rows, read(logits, rows), strict=True):
                np.add.at(totals, row.requests, values)
                np.add.at(misses, row.requests, 1 - hits)
                scored += len(row.tokens)
            done(scored)
        self.model.reset()
        return totals, misses == 0, left[0]

    def _walks(self, found: list[Branch], budget: int) -> bool:
        """Whether the walk is the cheaper way, in tokens and calls."""
        call = CALL[self.kind]
        walk = sum(max(call, branch.own) for branch in found)
        rows = sum(
            max(call, len(batch) * len(batch[0].tokens))
            for batch in _batches(_by_length(found), budget, self.most)
        )
        return walk <= rows

    def _walk(self, found: list[Branch], left: list[int]) -> Iterator[Answered]:
        """Each branch's row with the logits of its asked nodes, in order."""
        for branch in found:
            self.model.rewind(branch.depth)
            parts, asked, start = [], branch.depth + branch.row.asked, branch.depth
            while start < len(branch.tokens):
                stop = min(start + left[0], len(branch.tokens))
                here = asked[(asked >= start) & (asked < stop)] - start
                logits = self._ask(branch.tokens[None, start:stop], None, here, left)
                if logits is None:
                    continue
                parts.append(logits)
                start = stop
            yield branch.row, torch.cat(parts)

    def _rows(self, found: list[Branch], left: list[int]) -> Iterator[Answered]:
        """The same, in batches of whole paths, longest first."""
        waiting = _by_length(found)
        while waiting:
            batch = next(_batches(waiting, left[0], self.most))
            lengths = [len(branch.tokens) for branch in batch]
            ids = np.zeros((len(batch), lengths[0]), np.int64)
            asked = []
            for place, branch in enumerate(batch):
                ids[place, : len(branch.tokens)] = branch.tokens
                asked.append(place * lengths[0] + branch.depth + branch.row.asked)
            self.model.reset()
            logits = self._ask(ids, lengths, np.concatenate(asked), left)
            if logits is None:
                continue
            parts = logits.split([len(one) for one in asked])
            yield from zip((branch.row for branch in batch), parts, strict=True)
            waiting = waiting[len(batch) :]

    def _ask(
        self, ids: Ints, lengths: list[int] | None, asked: Ints, left: list[int]
    ) -> torch.Tensor | None:
        """Logits [asked, vocabulary]; None when memory ran out and the budget was halved."""
        some = torch.from_numpy(asked if len(asked) else np.zeros(1, np.int64))
        try:
            return self.model.ask(torch.from_numpy(ids), some, lengths)[: len(asked)]
        except Exception as error:  # the runtime's own exceptions share no narrower base
            if left[0] <= SHORTEST or not out_of_memory(error):
                raise
        left[0] = max(SHORTEST, left[0] // 2)
        if self.kind == "cuda":
            torch.cuda.empty_cache()
        return None


def branches(trie: Trie) -> Iterator[Branch]:
    """The branches of *trie* in order; together they hold every node once."""
    if not len(trie):
        return
    leaves = np.flatnonzero(np.diff(trie.depths) != 1) + 1
    path = np.empty(int(trie.depths.max()) + 1, np.int64)
    for start, stop in pairwise([0, *leaves.tolist(), len(trie)]):
        row = trie.row(start, stop - start, _NO_PATH)
        depth = int(row.positions[0])
        path[depth : depth + len(row.tokens)] = row.tokens
        yield Branch(path[: depth + len(row.tokens)].copy(), depth, row)


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
    answers = torch.cat(found, 1).double().cpu().numpy()
    return np.split(answers, np.cumsum([len(row.which) for row in rows])[:-1], axis=1)


def _gathered(calls: Iterator[Answered]) -> Iterator[tuple[list[Row], torch.Tensor]]:
    """The logits of several rows together, so that many short ones are read at once."""
    rows: list[Row] = []
    parts: list[torch.Tensor] = []
    held = 0
    for row, logits in calls:
        rows.append(row)
        parts.append(logits)
        held += len(logits)
        if held >= HEAD_CHUNK:
            yield rows, torch.cat(parts)
            rows, parts, held = [], [], 0
    if rows:
        yield rows, torch.cat(parts)


def _by_length(found: list[Branch]) -> list[Branch]:
    return sorted(found, key=lambda branch: -len(branch.tokens))


def _batches(found: list[Branch], budget: int, most: int) -> Iterator[list[Branch]]:
    """*found*, longest first, in batches of at most *budget* tokens with padding and *most* rows.

    None is empty, so that one branch may exceed the budget.
    """
    start = 0
    while start < len(found):
        rows = max(1, min(most, budget // len(found[start].tokens)))
        yield found[start : start + rows]
        start += rows
