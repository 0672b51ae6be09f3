"""Requests for a trie, drawn at random."""

from hypothesis import strategies as st

Request = tuple[list[int], int]


@st.composite
def requests(draw: st.DrawFn) -> list[Request]:
    """Few words and short texts, so that prefixes are shared and requests repeated."""
    words = draw(st.integers(1, 3))
    texts = draw(st.lists(st.lists(st.integers(0, words), min_size=2, max_size=9), max_size=14))
    return [(text, draw(st.integers(1, len(text) - 1))) for text in texts]
