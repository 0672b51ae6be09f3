"""Held-out split: which rows may be tuned on, and which only tested.

A row is held out by the hash of its own question, never by its position: adding, removing or
reordering rows moves no other row across the line.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

HELD_OUT = 0.1
"""Share of questions held out for testing."""


def normalise(question: str) -> str:
    """*question* without what a copy may change: case, width, punctuation, spacing."""
    folded = unicodedata.normalize("NFKC", question).casefold()
    return " ".join(re.findall(r"\w+", folded))


def is_held_out(question: str, share: float = HELD_OUT) -> bool:
    """Whether *question* belongs to the test side, at the given share of all questions."""
    digest = hashlib.sha256(normalise(question).encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
