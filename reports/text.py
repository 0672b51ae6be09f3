"""Text from models and data sets, made safe to look at before any format escapes it.

Escaping for HTML, Markdown or the terminal is each renderer's own business. What no renderer should
ever pass on is taken care of here: control characters (terminal escapes among them), marks that
reorder the text around them, broken surrogates, and endless strings.
"""

from __future__ import annotations

import re
from typing import Any

LIMIT = 6000
"""Characters of one text that a report shows."""

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
_CLOSE = "</think>"
_HEADINGS = re.compile(r"\s*## Thinking\s*(.*?)\s*## Final Response\s*(.*)", re.DOTALL)


def clean(text: str, limit: int = LIMIT) -> str:
    r"""*text* with unseen characters written out as escapes (``\x1b``), cut at *limit*."""
    left_out = len(text) - limit
    text = text[:limit].replace("\r\n", "\n")
    text = _UNSEEN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)
    return f"{text} … ({left_out} characters more)" if left_out > 0 else text


def clean_tree(value: Any) -> Any:
    """The same for every string of a JSON value, keys included."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, dict):
        return {clean(str(key)): clean_tree(item) for key, item in value.items()}
    if isinstance(value, list):
        return [clean_tree(item) for item in value]
    return value


def one_line(text: str, limit: int = 160) -> str:
    """White space collapsed, cut at a word where possible."""
    text = " ".join(text.split())
    if len(text) <= limit:
        return text
    head, _, _ = text[:limit].rpartition(" ")
    return f"{head or text[:limit]} …"


def split_reasoning(output: str) -> tuple[str, str]:
    """The reasoning and the answer in a generated text; either may be empty.

    Understands ``<think>…</think>`` (the opening tag may stand in the prompt) and the
    ``## Thinking`` / ``## Final Response`` headings. Reasoning that never closes has no answer.
    """
    if _CLOSE in output:
        reasoning, _, answer = output.rpartition(_CLOSE)
        return reasoning.replace("<think>", "", 1).strip(), answer.strip()
    if output.lstrip().startswith("<think>"):
        return output.lstrip().removeprefix("<think>").strip(), ""
    headings = _HEADINGS.fullmatch(output)
    return (headings[1], headings[2].strip()) if headings else ("", output.strip())
