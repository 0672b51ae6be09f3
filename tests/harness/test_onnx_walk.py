"""A trie cut into calls of segments: every node once, and after what it comes after."""

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from medbench.harness.ort.walk import Call, Size, parts, walk
from medbench.harness.scorer.trie import Trie

from .tries import Request, requests

sizes = st.builds(Size, st.integers(1, 5), st.integers(1, 6), st.integers(1, 20))


def played(found: list[Call]) -> list[tuple[int, ...]]:
    """What a cache holds after each token that belongs to a node."""
    cache: list[int] = []
    seen = []
    for call in found:
        for segment in call.segments:
            assert segment.depth <= len(cache)
            del cache[segment.depth :]
            for token in segment.tokens.tolist():
                cache.append(token)
                if not segment.leads:
                    seen.append(tuple(cache))
    return seen


@given(requests(), sizes, st.integers(1, 4))
def test_every_node_comes_once_after_its_path(texts: list[Request], size: Size, count: int) -> None:
    trie = Trie(texts)
    cut = parts(trie, count)
    assert len(cut) <= count
    calls = [list(walk(trie, start, stop, size)) for start, stop in cut]
    seen = [path for part in calls for path in played(part)]
    assert len(seen) == len(trie)
    assert set(seen) == {tuple(text[:n]) for text, _ in texts for n in range(1, len(text))}


@given(requests(), sizes)
def test_calls_are_no_larger_than_they_may_be(texts: list[Request], size: Size) -> None:
    trie = Trie(texts)
    for call in [call for part in parts(trie, 1) for call in walk(trie, *part, size)]:
        lengths = [len(segment.tokens) for segment in call.segments]
        assert 1 <= len(lengths) <= size.segments
        assert min(lengths) >= 1
        assert max(lengths) <= size.segment
        assert len(lengths) == 1 or sum(lengths) <= size.tokens


@given(requests(), sizes, st.integers(1, 4))
def test_each_asked_token_is_asked_where_it_is(
    texts: list[Request], size: Size, count: int
) -> None:
    trie = Trie(texts)
    found = []
    for start, stop in parts(trie, count):
        for call in walk(trie, start, stop, size):
            paths: list[tuple[int, ...]] = []
            for segment in call.segments:
                tokens = segment.tokens.tolist()
                paths += [(segment.depth + place, token) for place, token in enumerate(tokens)]
            row = call.row
            for which, target, request in zip(row.which, row.targets, row.requests, strict=True):
                depth, token = paths[call.asked[which]]
                text = texts[request][0]
                assert (text[depth], text[depth + 1]) == (token, target)
                found.append((int(request), depth))
    wanted = [
        (number, len(text) - 1 - back)
        for number, (text, asked) in enumerate(texts)
        for back in range(1, asked + 1)
    ]
    assert sorted(found) == sorted(wanted)


def test_long_runs_are_cut_into_equal_segments() -> None:
    trie = Trie([(list(range(131)), 1)])
    (call,) = walk(trie, 0, 130, Size(8, 64, 512))
    assert [len(segment.tokens) for segment in call.segments] == [43, 43, 44]
    assert [segment.depth for segment in call.segments] == [0, 43, 86]


def test_parts_are_about_equal_and_cut_between_questions() -> None:
    rng = np.random.default_rng(0)
    texts: list[Request] = []
    for _ in range(40):
        stem = rng.integers(0, 1000, rng.integers(50, 120)).tolist()
        texts += [([*stem, *rng.integers(0, 1000, 12).tolist()], 12) for _ in range(4)]
    trie = Trie(texts)
    found = parts(trie, 4)
    assert (found[0][0], found[-1][1]) == (0, len(trie))
    assert all(one[1] == other[0] for one, other in pairwise(found))
    assert [int(trie.depths[start]) for start, _ in found] == [0] * 4
    lengths = [stop - start for start, stop in found]
    assert max(lengths) - min(lengths) < 200


def test_a_part_begins_with_the_path_that_leads_to_it() -> None:
    shots = list(range(100, 400))
    trie = Trie([([*shots, stem, 1], 1) for stem in range(60)])
    (_, middle), (again, stop) = parts(trie, 2)
    assert middle == again
    first = next(iter(walk(trie, again, stop, Size(8, 64, 512))))
    leading = [segment for segment in first.segments if segment.leads]
    assert np.concatenate([segment.tokens for segment in leading]).tolist() == shots
    assert [segment.depth for segment in leading] == [0, 60, 120, 180, 240]
    assert first.row.start == again
