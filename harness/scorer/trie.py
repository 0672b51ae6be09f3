"""Requests → one trie of tokens → rows, so that a scorer computes each distinct token once.

A request is a token sequence whose last tokens are *asked*: their log-probabilities given all that
precedes them are wanted. Requests share prefixes (few-shot examples, a question before its
options), so together they form a trie. Its nodes are numbered in depth-first order, where one
integer per node says everything about ancestry: ``ends[k]``, the number after the last descendant
of node *k*. Node *q* descends from *k*, or is *k*, if and only if ``k <= q < ends[k]``; that is the
attention mask. A node's depth is its position.

Rows are runs of consecutive nodes, cut anywhere. What a row's nodes need from earlier rows is the
path that is open where the row begins: the nodes with ``k < start < ends[k]``. A scorer keeps
their keys and values and nothing else, so no token is ever computed twice, whatever the length of
a row. The last token of a request is asked and never fed.

No torch in here: numpy, and bytes, whose big-endian order is the order of the tokens.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from sys import byteorder

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_WIDTH = 4
"""Bytes of a token id in a sort key."""


@dataclass(frozen=True)
class Row:
    """Nodes ``start`` to ``stop`` of a trie, after the *past*: the path open at ``start``.

    Keys are counted from the first node of the past, queries from the first node of the row. Query
    *q* may attend to key *k* if and only if ``k - past <= q < ends[k]``.

    Attributes:
        start: First node.
        stop: The node after the last.
        past: Number of keys that come from earlier rows.
        tokens: Token ids, [stop - start].
        positions: Position ids, [stop - start].
        ends: First query that may no longer attend to each key, [past + stop - start].
        keep: The keys that are the next row's past.
        asked: Queries whose next token someone asks for, ascending and distinct.
        which: For each answer, the index into *asked*.
        targets: For each answer, the token whose log-probability is wanted.
        requests: For each answer, the request it belongs to.
    """

    start: int
    stop: int
    past: int
    tokens: Ints
    positions: Ints
    ends: Ints
    keep: Ints
    asked: Ints
    which: Ints
    targets: Ints
    requests: Ints


class Trie:
    """The distinct tokens of *requests*, in depth-first order.

    Args:
        requests: Pairs of token ids and the number of them, at the end, that are asked. At least
            one token is asked, and at least one precedes those asked.

    Attributes:
        tokens: Token id of each node.
        depths: Depth of each node; 0 for the first token of a request.
        ends: The node after the last descendant of each node.
        count: Number of requests.

    Raises:
        ValueError: A request asks for nothing, or for its first token.
    """

    def __init__(self, requests: Sequence[tuple[Sequence[int], int]]) -> None:
        for index, (tokens, asked) in enumerate(requests):
            if not 0 < asked < len(tokens):
                raise ValueError(f"request {index} asks for {asked} of its {len(tokens)} tokens")
        self.count = len(requests)
        fed = [_key(tokens) for tokens, _ in requests]
        keys = sorted(set(fed))
        lengths = np.array([len(key) // _WIDTH for key in keys], np.int64)
        shared = _common_prefixes(keys)
        starts = np.concatenate([[0], np.cumsum(lengths - shared)])
        own = [key[_WIDTH * common :] for key, common in zip(keys, shared.tolist(), strict=True)]
        self.tokens: Ints = np.frombuffer(b"".join(own), ">u4").astype(np.int64)
        self.depths: Ints = np.arange(len(self)) + np.repeat(shared - starts[:-1], lengths - shared)

        deepest: dict[bytes, int] = dict.fromkeys(keys, 0)
        for key, (_, asked) in zip(fed, requests, strict=True):
            deepest[key] = max(deepest[key], asked)
        self.ends, tails = _sweep(starts.tolist(), shared.tolist(), lengths.tolist(), deepest)
        self._answers(requests, fed, tails)

    def _answers(
        self,
        requests: Sequence[tuple[Sequence[int], int]],
        fed: list[bytes],
        tails: dict[bytes, Ints],
    ) -> None:
        """Which node answers which token of which request, ordered by node."""
        none = np.empty(0, np.int64)
        counts = [asked for _, asked in requests]
        nodes = np.concatenate([none, *(tails[k][-n:] for k, n in zip(fed, counts, strict=True))])
        targets = array("q")
        for tokens, asked in requests:
            targets.extend(tokens[len(tokens) - asked :])
        order = np.argsort(nodes, kind="stable")
        self._nodes: Ints = nodes[order]
        self._targets: Ints = np.frombuffer(targets, np.int64)[order]
        self._requests: Ints = np.repeat(np.arange(len(requests)), counts)[order]
        self._last = np.sort([int(tails[key][-1]) for key in fed])

    def __len__(self) -> int:
        return len(self.tokens)

    def row(self, start: int, length: int, path: Ints) -> Row:
        """At most *length* nodes from *start* on; *path* holds the nodes open there, root first."""
        stop = min(start + length, len(self))
        keys = np.concatenate([path, np.arange(start, stop)])
        ends = self.ends[keys]
        first, last = np.searchsorted(self._nodes, [start, stop])
        answering = self._nodes[first:last] - start  # ascending
        new = np.ones(len(answering), bool)
        new[1:] = answering[1:] != answering[:-1]
        return Row(
            start=start,
            stop=stop,
            past=len(path),
            tokens=self.tokens[start:stop],
            positions=self.depths[start:stop],
            ends=np.minimum(ends, stop) - start,
            keep=np.flatnonzero(ends > stop),
            asked=answering[new],
            which=np.cumsum(new) - 1,
            targets=self._targets[first:last],
            requests=self._requests[first:last],
        )

    def path_after(self, row: Row, path: Ints) -> Ints:
        """The nodes open where *row* ends; *path* are those open where it began."""
        return np.concatenate([path, np.arange(row.start, row.stop)])[row.keep]

    def finished(self, stop: int) -> int:
        """Requests that are answered in full by the nodes before *stop*."""
        return int(np.searchsorted(self._last, stop))

    def rows(self, length: int) -> Iterator[Row]:
        """All rows of at most *length* nodes, in order."""
        path, start = np.empty(0, np.int64), 0
        while start < len(self):
            row = self.row(start, length, path)
            yield row
            path, start = self.path_after(row, path), row.stop


def _key(tokens: Sequence[int]) -> bytes:
    """All tokens but the last, as bytes that sort as the tokens do."""
    ids = array("I", tokens)
    if byteorder == "little":
        ids.byteswap()
    return ids.tobytes()[:-_WIDTH]


def _common_prefixes(keys: list[bytes]) -> Ints:
    """Tokens that each of the sorted keys shares with the one before it."""
    shared = np.zeros(len(keys), np.int64)
    before = np.empty(0, np.uint32)
    for i, key in enumerate(keys):
        here = np.frombuffer(key, np.uint32)
        most = min(len(before), len(here))
        if most:
            differ = before[:most] != here[:most]
            at = int(differ.argmax())
            shared[i] = at if differ[at] else most
        before = here
    return shared


def _sweep(
    starts: list[int], shared: list[int], lengths: list[int], deepest: dict[bytes, int]
) -> tuple[Ints, dict[bytes, Ints]]:
    """(``ends``, the last nodes of the path to each key: as many as *deepest* says).

    Key *i* adds the nodes from ``starts[i]`` on, at depths ``shared[i]`` to ``lengths[i]``. The
    open path is a stack of runs (depth of its first node, that node); a new key closes all that
    lies deeper than what it shares.
    """
    ends = np.empty(starts[-1], np.int64)
    tails: dict[bytes, Ints] = {}
    path = np.empty(max(lengths, default=0), np.int64)
    runs: list[tuple[int, int]] = []
    bottom = 0
    for start, common, length, (key, count) in zip(
        starts, shared, lengths, deepest.items(), strict=False
    ):
        while runs and bottom > common:
            depth, node = runs[-1]
            cut = max(depth, common)
            ends[node + cut - depth : node + bottom - depth] = start
            bottom = cut
            if depth >= common:
                runs.pop()
        runs.append((common, start))
        bottom = length
        path[common:length] = np.arange(start, start + length - common)
        tails[key] = path[length - count : length].copy()
    for depth, node in reversed(runs):
        ends[node : node + bottom - depth] = starts[-1]
        bottom = depth
    return ends, tails
