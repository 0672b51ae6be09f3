"""Text → what the overlap measures compare: content words, numbers, runs of eight words.

Words are those of NFKC-folded, case-folded text. Han, kana and Hangul are written without spaces,
so they count by the character for runs and by the pair of characters for content.
"""

from __future__ import annotations

import re
import unicodedata

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

STEM = 7
"""Letters of a word that count: a plain stemmer that needs no language (McNamee and Mayfield 2004,
"Character N-Gram Tokenization for European Language Text Retrieval")."""

_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"\d+(?:[.,]\d+)*|[{_UNSPACED}]+|[^\W\d_{_UNSPACED}]+")
_STARTS_UNSPACED = re.compile(f"[{_UNSPACED}]")


def content(text: str) -> set[str]:
    """Stems of the words that carry meaning, numbers (``#6500``), pairs of unspaced characters."""
    found = set()
    for word in _words(text):
        if word[0].isdigit():
            found.add(_number(word))
        elif _STARTS_UNSPACED.match(word):
            found.update(word[at : at + 2] for at in range(max(1, len(word) - 1)))
        elif word not in ENGLISH_STOP_WORDS:
            found.add(word[:STEM])
    return found


def numbers(text: str) -> set[str]:
    """The distinct numbers of *text*, thousands separators left out."""
    return {_number(word) for word in _words(text) if word[0].isdigit()}


def run_words(text: str) -> list[str]:
    """The words in order, stop words included, each unspaced character one of them."""
    return [
        part
        for word in _words(text)
        for part in (word if _STARTS_UNSPACED.match(word) else (word,))
    ]


def _words(text: str) -> list[str]:
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def _number(word: str) -> str:
    return "#" + word.replace(",", "")
