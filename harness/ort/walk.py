"""A trie as segments: runs of tokens that are appended to one cache, one after another.

In depth-first order the nodes of a trie fall into runs that end in a leaf, each node the child of
the one before. The cache is set back to where a run leaves the path, which copies nothing, and the
run's tokens are appended. So each distinct token is computed once, which is the least arithmetic
there is.

No torch in here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..scorer.trie import Ints, Row, Trie

_NOTHING: Ints = np.empty(0, np.int64)


@dataclass(frozen=True)
class Segment:
    """Tokens of one path, each after the one before.

    Attributes:
        tokens: Their ids.
        depth: How many tokens of the path precede them.
        leads: Whether they belong to no node of their own, and only lead to those that follow.
    """

    tokens: Ints
    depth: int
    leads: bool = False


@dataclass(frozen=True)
class Call:
    """Segments that are appended together, in this order.

    Attributes:
        segments: At least one.
        asked: Which of all their tokens' successors someone asks for.
        row: The nodes they hold, and who asks; of attention it says nothing, its past is empty.
    """

    segments: list[Segment]
    asked: Ints
    row: Row


@dataclass(frozen=True)
class Size:
    """What a call holds at most.

    Attributes:
        segments: So many.
        segment: Tokens of each.
        tokens: Tokens together, unless one segment has more.
    """

    segments: int
    segment: int
    tokens: int


def walk(trie: Trie, start: int, stop: int, size: Size) -> Iterator[Call]:
    """The nodes *start* to *stop* as calls, from an empty cache.

    First comes, unasked, the path that is open at *start*.
    """
    for segments in _grouped(_segments(trie, start, stop, size.segment), size):
        leading = sum(len(one.tokens) for one in segments if one.leads)
        row = trie.row(start, sum(len(one.tokens) for one in segments) - leading, _NOTHING)
        yield Call(segments, leading + row.asked, row)
        start = row.stop


def _segments(trie: Trie, start: int, stop: int, longest: int) -> Iterator[Segment]:
    path = np.flatnonzero(trie.ends[:start] > start)
    for first, last in _cut(0, len(path), longest):
        yield Segment(trie.tokens[path[first:last]], first, leads=True)
    within = _beginnings(trie)
    within = within[(start < within) & (within < stop)]
    for run in pairwise([start, *within.tolist(), stop]):
        for first, last in _cut(*run, longest):
            yield Segment(trie.tokens[first:last], int(trie.depths[first]))


def _cut(start: int, stop: int, longest: int) -> Iterator[tuple[int, int]]:
    """*start* to *stop* in pieces of about one length.

    A rest of a few tokens would be a segment of its own, which costs more than its tokens.
    """
    count = -(-(stop - start) // longest)
    return pairwise(start + (stop - start) * k // max(1, count) for k in range(count + 1))


def _grouped(segments: Iterator[Segment], size: Size) -> Iterator[list[Segment]]:
    group: list[Segment] = []
    tokens = 0
    for segment in segments:
        if group and (len(group) == size.segments or tokens + len(segment.tokens) > size.tokens):
            yield group
            group, tokens = [], 0
        group.append(segment)
        tokens += len(segment.tokens)
    if group:
        yield group


def parts(trie: Trie, count: int) -> list[tuple[int, int]]:
    """(start, stop) of at most *count* parts of the nodes, about equally long.

    A part is cut off where the path there is short, since that is computed once more.
    """
    beginnings = _beginnings(trie)
    cuts = {0, len(trie)}
    if len(beginnings):
        for k in range(1, count):
            uneven = abs(beginnings - len(trie) * k / count)
            cuts.add(int(beginnings[np.argmin(uneven + trie.depths[beginnings])]))
    return list(pairwise(sorted(cuts)))


def _beginnings(trie: Trie) -> Ints:
    """The nodes, but for the first, that are no child of the node before them."""
    return np.flatnonzero(np.diff(trie.depths) != 1) + 1
