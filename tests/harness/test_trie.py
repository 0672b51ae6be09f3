"""The trie, against a trie of Python dictionaries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medbench.harness.scorer.trie import Row, Trie

from .tries import Request, requests


def path(trie: Trie, node: int) -> list[int]:
    """Tokens from the root to *node*, by the rule of the mask."""
    return [int(trie.tokens[k]) for k in range(node + 1) if k <= node < trie.ends[k]]


def nodes_of(texts: list[Request]) -> set[tuple[int, ...]]:
    return {tuple(text[:n]) for text, _ in texts for n in range(1, len(text))}


@given(requests())
def test_nodes_are_the_distinct_prefixes_in_depth_first_order(texts: list[Request]) -> None:
    trie = Trie(texts)
    found = [tuple(path(trie, node)) for node in range(len(trie))]
    assert found == sorted(nodes_of(texts))
    assert trie.depths.tolist() == [len(prefix) - 1 for prefix in found]


@given(requests())
def test_the_mask_is_the_ancestor_relation(texts: list[Request]) -> None:
    trie = Trie(texts)
    prefixes = sorted(nodes_of(texts))
    for q, below in enumerate(prefixes):
        for k, above in enumerate(prefixes):
            assert (k <= q < trie.ends[k]) == (below[: len(above)] == above)


def seen(trie: Trie, row: Row, open_path: list[int], query: int) -> list[int]:
    """Nodes that a row's query attends to."""
    keys = [*open_path, *range(row.start, row.stop)]
    return [node for k, node in enumerate(keys) if k - row.past <= query < row.ends[k]]


@given(requests(), st.integers(1, 12))
@settings(max_examples=200)
def test_every_request_is_recovered_from_its_rows(texts: list[Request], length: int) -> None:
    trie = Trie(texts)
    answers: dict[int, list[tuple[int, int]]] = {i: [] for i in range(len(texts))}
    open_path: list[int] = []
    covered: list[int] = []
    for row in trie.rows(length):
        assert row.past == len(open_path)
        assert 0 < row.stop - row.start <= length
        covered += range(row.start, row.stop)
        assert row.tokens.tolist() == trie.tokens[row.start : row.stop].tolist()
        for query in range(row.stop - row.start):
            node = row.start + query
            attended = seen(trie, row, open_path, query)
            assert [int(trie.tokens[k]) for k in attended] == path(trie, node)
            assert row.positions[query] == len(attended) - 1
        for which, target, request in zip(row.which, row.targets, row.requests, strict=True):
            answers[int(request)].append((row.start + int(row.asked[which]), int(target)))
        keys = [*open_path, *range(row.start, row.stop)]
        open_path = [keys[k] for k in row.keep]
    assert covered == list(range(len(trie)))
    assert open_path == []
    for index, (text, asked) in enumerate(texts):
        assert len(answers[index]) == asked
        for back, (node, target) in enumerate(reversed(answers[index]), 1):
            assert [*path(trie, node), target] == text[: len(text) - back + 1]


@given(requests())
def test_finished_counts_requests_answered_in_full(texts: list[Request]) -> None:
    trie = Trie(texts)
    prefixes = sorted(nodes_of(texts))
    for stop in range(len(trie) + 1):
        expected = sum(prefixes.index(tuple(text[:-1])) < stop for text, _ in texts)
        assert trie.finished(stop) == expected


def test_large_ids_and_order() -> None:
    big = 2**31 + 5
    trie = Trie([([256, 1, 7], 1), ([1, 256, 7], 1), ([big, 2, 7], 1)])
    assert trie.tokens.tolist() == [1, 256, 256, 1, big, 2]


@pytest.mark.parametrize("asked", [0, 3, -1])
def test_what_cannot_be_asked_is_refused(asked: int) -> None:
    with pytest.raises(ValueError, match="request 1 asks"):
        Trie([([1, 2], 1), ([1, 2, 3], asked)])


def test_shared_prefixes_are_stored_once() -> None:
    rng = np.random.default_rng(0)
    shots = rng.integers(0, 500, 300).tolist()
    stems = [shots + rng.integers(0, 500, 40).tolist() for _ in range(50)]
    texts = [([*stem, option], 1) for stem in stems for option in range(4)]
    trie = Trie(texts)
    assert 300 + 50 * 30 < len(trie) <= 300 + 50 * 40
    assert trie.count == 200
