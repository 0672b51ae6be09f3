"""Grading: the functions that task specs name as lm-eval's ``process_results``.

What a generated text says is read by :mod:`.reading` and :mod:`.choices`. An answer that cannot be
read is wrong, it stays in the denominator, and its rate is reported by kind.
"""

from __future__ import annotations

from typing import Any

from .choices import read_choice
from .reading import Reading, opens_reasoning, read_stated
from .splits import normalise

__all__ = ["Reading", "bits_per_byte", "grade_choice", "grade_stated", "opens_reasoning", "read"]

LONGEST = 2000
"""Characters beyond which a stated answer is no short answer."""


def read(doc: dict[str, Any], output: str, *, opened: bool = False, cut: bool = False) -> Reading:
    """What *output* answers to *doc*.

    Args:
        doc: A document as tasks/datasets.py makes it; one with ``options`` is multiple choice, one
            with ``golds`` asks for all the right options.
        output: The generated text.
        opened: The prompt ended inside the reasoning, as many chat templates leave it; output that
            never closes it then has no answer.
        cut: Generation stopped at the token limit. It names the problem and never the score.
    """
    if doc.get("options"):
        several = doc.get("golds") is not None
        return read_choice(output, doc["options"], several=several, opened=opened, cut=cut)
    return read_stated(output, opened=opened, cut=cut)


def right(doc: dict[str, Any], reading: Reading) -> bool:
    """Whether *reading* is the right answer to *doc*; a set of options must be complete."""
    if not doc.get("options"):
        return same(reading.answer, doc["target"])
    golds = doc.get("golds")
    return reading.chosen == tuple(sorted([doc["gold"]] if golds is None else golds))


def same(answer: str | None, target: str) -> bool:
    """Whether *answer* is *target*, but for case, punctuation and spacing."""
    if answer is None or len(answer) > LONGEST + len(target):
        return False
    return normalise(answer) == normalise(target)


def grade_stated(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval ``process_results`` of tasks whose final answer is stated in words."""
    return _graded(doc, results[0])


def grade_choice(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval ``process_results`` of multiple choice answered in generated text."""
    return _graded(doc, results[0])


def _graded(doc: dict[str, Any], output: str) -> dict[str, float]:
    reading = read(doc, output)
    return {
        "acc": float(right(doc, reading)),
        "unparsed": float(reading.problem is not None),
    }


def bits_per_byte(doc: dict[str, Any], results: list[Any]) -> dict[str, tuple[float, int]]:
    """lm-eval ``process_results`` of log-likelihood tasks: (ln p, bytes) of the target.

    The line break before the target is scored and counted with it: lm-eval gives white space at
    the end of a prompt to what follows.
    """
    log_likelihood, _ = results[0]
    return {"bits_per_byte": (log_likelihood, len(f"\n{doc['target']}".encode()))}
