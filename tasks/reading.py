"""From generated text to the part of it that answers: reasoning, tokens and markup taken away.

Pure. Everything here takes time linear in the length of the text.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

Problem = Literal[
    "empty",
    "unclosed",
    "truncated",
    "refused",
    "several",
    "out_of_range",
    "none_of_the_above",
    "unstated",
]
"""Why no answer was read; docs/reference/answers.md defines each."""


class Reading(NamedTuple):
    """What was read: the answer in words, or why there is none.

    Attributes:
        answer: The answer as stated, or the text of the option chosen; options are joined by
            ``"; "`` where several had to be chosen.
        problem: Why no answer was read, None when one was.
        chosen: Indices of the options chosen, ascending; empty for open questions.
    """

    answer: str | None
    problem: Problem | None
    chosen: tuple[int, ...] = ()


_TAGS = "think|thinking|thought|reasoning"
_OPENED = re.compile(
    rf"<(?:{_TAGS})>|<unused94>|◁think▷|<\|channel\|>analysis|^[#* ]{{1,8}}thinking\b",
    re.I | re.M,
)
_CLOSED = re.compile(
    rf"</(?:{_TAGS})>|<unused95>|◁/think▷|<\|channel\|>final<\|message\|>|assistantfinal", re.I
)
_RESPONSE = re.compile(
    r"^(?:(?:#{1,6} *|\*\*)final response\b[*: ]*|#{1,6} *response[*: ]*$)", re.I | re.M
)


def after_reasoning(output: str, opened: bool = False) -> str | None:
    """What follows the reasoning in *output*; all of it where there is none.

    Reasoning ends at the last closing tag, then at the last heading ``Final Response`` or
    ``Response`` behind it. So nothing inside the reasoning can move the cut.

    Args:
        output: The generated text.
        opened: The prompt ended inside the reasoning, as many chat templates leave it.

    Returns:
        The text, or None where the reasoning never ends.
    """
    closed = False
    final = output.strip()
    for marker in (_CLOSED, _RESPONSE):
        end = None
        for found in marker.finditer(final):
            end = found.end()
        if end is not None:
            closed, final = True, final[end:].strip()
    if _OPENED.search(final) or (opened and not closed):
        return None
    return final


def opens_reasoning(prompt: str) -> bool:
    """Whether *prompt* ends inside a reasoning that it opened, as many chat templates leave it."""
    tail = prompt[-200:].rstrip()
    opened = [found.end() for found in _OPENED.finditer(tail)]
    return bool(opened) and not tail[opened[-1] :].strip(" :*\n")


_CHARACTERS = str.maketrans(
    {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}  # full width
    | {chr(0x24B6 + n): chr(65 + n) for n in range(26)}  # circled
    | {chr(0x24D0 + n): chr(97 + n) for n in range(26)}
    | {chr(0x1D400 + n): chr(65 + n) for n in range(26)}  # mathematical bold, serif and sans
    | {chr(0x1D5D4 + n): chr(65 + n) for n in range(26)}
    | dict.fromkeys("\u00a0\u2002\u2003\u2009\u202f\u3000\t", " ")
    | dict.fromkeys("\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", "\n")
    | dict.fromkeys("\u200b\u200c\u200d\u2060\ufeff*`", None)
    | dict.fromkeys("‘’", "'")
    | dict.fromkeys("“”「」『』", '"')
    | dict.fromkeys("【〔", "(")
    | dict.fromkeys("】〕", ")")
)
_TOKENS = re.compile(
    r"<\|[^|<>\s]{1,40}\|>|<[|｜][^|｜<>\s]{1,40}[|｜]>|</?s>|<(?:eos|bos|pad)>|<(?:start|end)_of_turn>"
    r"|</?(?:b|i|u|p|em|br|strong|code|span)\s?/?>"
)
_LATEX_TEXT = re.compile(r"\\(?:text|math|mbox|operatorname)\w{0,6} ?\{([^{}]*)\}")
_LATEX = re.compile(r"\\(?:left|right)\b|\\[()\[\],;! ]|\$|(?<!\w)__|__(?!\w)")
_LINE_START = re.compile(r"^[ #]*(?:>(?! ?[\d.])[ >#]*)?(?:[-•·+]+ +(?!\d))?", re.M)


def plain(text: str) -> str:
    r"""*text* without control tokens, Markdown and LaTeX; full-width letters become plain ones.

    ``\boxed{…}`` stays, because it says what the answer is; so do signs before numbers.
    """
    return _LINE_START.sub("", plain_words(text)).strip()


def plain_words(text: str) -> str:
    """As :func:`plain`, for an option's text, which has no bullets, quotes or headings."""
    text = _TOKENS.sub("", text).translate(_CHARACTERS)
    for _ in range(3):  # \text{\textbf{…}} and the like
        text = _LATEX_TEXT.sub(r"\1", text)
    return _LATEX.sub("", text)


_REFUSED = re.compile(
    r"\b(?:I|we)(?: am|'m)? (?:cannot|can not|can't|will not|won't|unable to|not able to|must not) "
    r"(?:\w+ ){0,2}?(?:provide|answer|give|offer|help|assist|recommend|diagnose|determine|know"
    r"|decide|comply|choose)\b"
    r"|\b(?:I|we) (?:do not|don't) know\b"
    r"|\bas an AI\b|\bI'm sorry\b|\bI am sorry\b|\bI apologi[sz]e\b"
    r"|\banswer (?:cannot|can't|can not) be (?:determined|given)\b"
    r"|\bconsult (?:a|your|with a) (?:\w+ )?(?:doctor|physician|professional|provider)\b"
    r"|(?:无法|不能|不便|难以)(?:直接)?(?:回答|提供|给出|判断|确定|诊断)|抱歉|对不起|我不知道"
    r"|作为(?:一个|一名)?(?:AI|人工智能)",
    re.I,
)


def refuses(text: str) -> bool:
    """Whether *text* declines to answer. Asked only where no answer was read."""
    return _REFUSED.search(text) is not None


_QUESTION = re.compile(r"\n(?:question|user|human|问题|题目|问)(?: \d{1,4})? ?[::]", re.I)


def own_turn(text: str) -> str:
    """*text* up to where the model goes on with a question of its own making."""
    found = _QUESTION.search(text)
    return text[: found.start()].strip() if found else text


_STATED = re.compile(
    r"(?:\bthe (?:final |correct )?answer is:?\s{1,4}|^answer:\s{0,4}|答案(?:是|为|:){1,2}\s{0,4})"
    r"(?=([^\n]{1,500}))",
    re.I | re.M,
)
_DECLARED = re.compile(
    r"\\(?:boxed|fbox) ?\{([^{}]{1,500})\}|<answer>([^<>]{1,500})</answer>"
    r"|\bfinal answer ?(?:is|:){1,2}\s{1,4}(?=([^\n]{1,500}))",
    re.I,
)
_SENTENCE_END = re.compile(r"\.(?=\s|$)|[。；]")


def read_stated(output: str, *, opened: bool = False, cut: bool = False) -> Reading:
    """The short answer that *output* states in words after its reasoning.

    What is declared final (boxed, ``<answer>``, ``Final answer:``) outranks ``the answer is …``;
    within a rank all statements must agree but for case, punctuation and spacing.

    Args:
        output: The generated text.
        opened: The prompt ended inside the reasoning.
        cut: Generation stopped at the token limit.
    """
    from .splits import normalise

    final = after_reasoning(output, opened)
    if final is None:
        return Reading(None, "unclosed")
    text = plain(final)
    for rank in (_DECLARED, _STATED):
        stated: dict[str, str] = {}
        for found in rank.finditer(text):
            words = next(group for group in found.groups() if group is not None)
            answer = _SENTENCE_END.split(words, maxsplit=1)[0].strip()
            stated.setdefault(normalise(answer), answer)
        stated.pop("", None)
        if len(stated) == 1:
            return Reading(next(iter(stated.values())), None)
        if stated:
            return Reading(None, "several")
    return Reading(None, nothing_read(text, cut))


def nothing_read(text: str, cut: bool) -> Problem:
    """Why the plain *text* of an answer states none."""
    if refuses(text):
        return "refused"
    if cut:
        return "truncated"
    return "unstated" if text else "empty"
