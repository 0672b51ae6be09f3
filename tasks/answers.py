"""Reading an answer out of generated text. Pure; nothing is guessed.

Only the text after the last ``</think>`` counts. Output that never closes its reasoning, or that
states no answer after it, has no answer: it is wrong, it stays in the denominator, and its rate is
reported.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from .splits import normalise

STATED = re.compile(r"\bthe (?:final |correct )?answer is:?\s+(.+?)\s*(?:\.(?=\s|$)|\n|$)", re.I)


class Reading(NamedTuple):
    """What was read: the answer, or why there is none (``unclosed``, ``unstated``)."""

    answer: str | None
    problem: str | None


def read(output: str) -> Reading:
    """The answer stated in *output* after its reasoning; the last one when several are stated."""
    _, closed, final = output.rpartition("</think>")
    if not closed:
        return Reading(None, "unclosed")
    stated = STATED.findall(final)
    return Reading(stated[-1], None) if stated else Reading(None, "unstated")


def same(answer: str | None, target: str) -> bool:
    """Whether *answer* is *target*, but for case, punctuation and spacing."""
    return answer is not None and normalise(answer) == normalise(target)


def grade_stated(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """lm-eval ``process_results`` of tasks whose final answer is stated in words."""
    reading = read(results[0])
    return {
        "acc": float(same(reading.answer, doc["target"])),
        "unparsed": float(reading.problem is not None),
    }


def bits_per_byte(doc: dict[str, Any], results: list[Any]) -> dict[str, tuple[float, int]]:
    """lm-eval ``process_results`` of log-likelihood tasks: (ln p, bytes) of the target.

    The line break before the target is scored and counted with it: lm-eval gives white space at
    the end of a prompt to what follows.
    """
    log_likelihood, _ = results[0]
    return {"bits_per_byte": (log_likelihood, len(f"\n{doc['target']}".encode()))}
