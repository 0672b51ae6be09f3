"""What makes two questions, or two right answers, the same one."""

from __future__ import annotations

import hashlib

from ...tasks.splits import normalise

UNKNOWN = "unknown"
"""The protocol of predictions of which nobody said how they were asked for."""

ID = "id:"
"""How a ``doc_hash`` begins that stands for an id, not for a document."""

TEXT = "text:"
"""How a ``target_hash`` begins that is of the answer's text; lm-eval's may be of an index."""


def id_hash(task: str, doc_id: object) -> str:
    """What stands for ``doc_hash`` where a question is known by its id in its task alone."""
    return ID + hashlib.sha256(f"{task}\n{doc_id}".encode()).hexdigest()


def text_hash(target: str) -> str:
    """``target_hash`` of a right answer; equal for texts that :func:`same_text` holds equal."""
    return TEXT + hashlib.sha256(_plain(target).encode()).hexdigest()


def same_text(one: str, other: str) -> bool:
    """Whether two answers are the same words, but for case, width, punctuation and spacing.

    Signs alone are compared as they stand: ``+`` is not ``−``.
    """
    return one == other or _plain(one) == _plain(other)


def _plain(text: str) -> str:
    return normalise(text) or " ".join(text.split())
