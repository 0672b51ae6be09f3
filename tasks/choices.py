r"""Reading a multiple-choice answer out of generated text. Pure; nothing is guessed.

What can be said about the options comes in three ranks (docs/reference/answers.md):

1. declared final: ``\boxed{B}``, ``<answer>B</answer>``, ``Final answer: B``;
2. stated: ``The answer is B``, ``Answer: (B)``, ``I choose B``, ``B is correct``, 答案是B, 选B;
3. named: a line that is an option and nothing else, or ``The most likely cause is B. …``.

The highest rank that occurs decides, and within it all claims have to agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .claims import (
    NONE,
    NONE_SAID,
    NOTHING,
    UNDECIDED,
    Choices,
    Claim,
    key,
    letters,
    line_of_option,
    said,
    texts,
)
from .reading import Reading, after_reasoning, nothing_read, own_turn, plain


def read_choice(
    output: str,
    options: Sequence[str],
    *,
    several: bool = False,
    opened: bool = False,
    cut: bool = False,
) -> Reading:
    """The option that *output* settles on after its reasoning, or why there is none.

    Args:
        output: The generated text.
        options: Texts of the options A, B, …
        several: A set of options is asked for (``A, C``), not one.
        opened: The prompt ended inside the reasoning.
        cut: Generation stopped at the token limit.
    """
    final = after_reasoning(output, opened)
    if final is None:
        return Reading(None, "unclosed")
    choices = Choices(tuple(options), several)
    text = plain(final)
    for part in dict.fromkeys((own_turn(text), text)):
        for rank in (_declared, _stated, _named):
            claims = set(rank(part, choices)) - {NOTHING}
            if claims:
                return _verdict(claims, choices)
    problem = nothing_read(text, cut)
    if problem == "unstated" and NONE_SAID.search(text):
        problem = "none_of_the_above"
    return Reading(None, problem)


def _verdict(claims: set[Claim], choices: Choices) -> Reading:
    claim = frozenset().union(*claims)
    agreed = len(claims) == 1 and (choices.several or len(claim) == 1)
    if not agreed or UNDECIDED in claim or (NONE in claim and len(claim) > 1):
        return Reading(None, "several")
    if NONE in claim:
        return Reading(None, "none_of_the_above")
    if not claim <= choices.all:
        return Reading(None, "out_of_range")
    chosen = tuple(sorted(claim))
    return Reading("; ".join(choices.options[index] for index in chosen), None, chosen)


_IS = r"(?:is|are|would be|should be|must be|has to be|will be|remains|'s\b|=|:|->|→|- )"
_DECLARED = re.compile(
    r"\\(?:boxed|fbox) ?\{(?P<box>[^{}\n]{1,600})\}|<answer>(?P<tag>[^<>]{1,600})</answer>"
    r"|\bfinal answer\b[ \"']{0,3}(?:(?:is|would be|:|=)\s{0,3}){1,2}"
    r"|^final answer(?= *$| \(?[A-Z]\)?[ .]*$)"
    r"|最终(?:的)?(?:答案|选择)(?:应该|应)?[是为选:]{0,2}",
    re.I | re.M,
)
_STATED = re.compile(
    rf"\b(?:answers?|ans)(?:[ _](?:choice|option|letter|key|idx))?(?![A-Za-z])"
    r"(?: (?:to|for) (?:this|the)(?: [a-z]{1,20}){1,3}?| I would (?:choose|select|give))?"
    rf"[ \"']{{0,3}}{_IS}|^(?:response|答) ?:"
    r"|^(?:correct )?answer(?= *$| \(?[A-Z]\)?(?:[ .]*$|[.:)]))"
    r"|\b(?:correct|best|right|final|my|our|appropriate|likely|selected|chosen)"
    rf" (?:options?|choices?|selection|response)[ \"']{{0,3}}{_IS}"
    r"|\b(?:I|we|I'd|I'll|I'm|let's|let me|let us)(?: would| will| must| should| have to| am)?"
    r"(?: therefore| thus)? (?:choose|select|pick|chose|picked|selected|opt for|go with|going with"
    r"|answer)\b"
    r"|\(答案\)|答案(?:选项)?(?:应该|应当|应|就|只能)?[是为选:=]{1,3}(?:择|项)?"
    r"|(?:正确|最佳|最合适|最恰当|最符合题意|最可能)的?[一-鿿]{0,8}?[是为:]{1,2}"
    r"|(?<![首可待备任挑筛被多单入当候])(?:选择|选)(?![项选])[是为:]{0,2}",
    re.I | re.M,
)
_LIST = (
    r"[(\[\"']?[A-Z][)\]\"']?(?:(?:, ?(?:and )?| and | or |/|、|和|或)[(\[\"']?[A-Z][)\]\"']?){0,9}"
)
_RIGHT = re.compile(
    r"(?:^|[.,;:!(。]\s{0,3}"
    r"|\b(?:(?:option|choice|answer)s?|so|thus|therefore|hence|that|then|only|both)\s"
    rf"|选项|所以|因此|故|只有|即)(?P<list>(?-i:{_LIST}))(?: ?\([^()\n]{{1,120}}\))?"
    r"(?: (?:is|are|seems|appears|would be|must be)"
    r"(?: (?:clearly|therefore|thus|the|single|only|also|both|all)){0,3}"
    r" (?:(?:(?:correct|right|best|most appropriate|most likely) (?:answer|choice|option)s?"
    r"|(?<=the )answer)\b|(?:correct|right)(?= ?(?:[.,;!\n]|$|because|since|as )))"
    r"|(?:选项|项)?都?[是为]?(?:最佳|正确)(?:的|答案|选项)?(?=[。,.;\n]|$))",
    re.I | re.M,
)
_RIGHT_TEXT = re.compile(
    r"^([^\n]{1,300}?) is the (?:correct|right|best|most appropriate) (?:answer|choice|option)\b",
    re.I | re.M,
)
_DOUBTED = re.compile(
    r"(?:\b(?:if|whether|unless|suppose|supposing|assuming|not|never|doubt|wrong|incorrect"
    r"|tempting|previous|initial|first|earlier|your|another|other|than|except|excluding|neither"
    r"|nor)\b|n't)"
    r"(?:\s(?:that|think|believe|say|true|sure|certain|mean|the|my|our|correct|right|best|final))*"
    r"\s?$|(?:不(?![难过仅])|别|误|若|如果|假如|勿|避免|排除|难道|是否)[^,。.;\n]{0,3}$",
    re.I,
)
_MOST = re.compile(
    r"\b(?:most (?:likely|appropriate|probable|accurate)|best|next)\b(?: [\w'-]{1,30}){0,8}?"
    rf" {_IS}|\b(?:corresponds? to|matches|consistent with|(?:which|that|this) is)"
    r"\s(?=(?:option|choice|answer)\b)|^(?:so |thus )?it(?:'s| is)\b",
    re.I | re.M,
)
_LABELLED = re.compile(r"(?:^|[.;。]\s)\(?([A-Z])[).:]\s*\S", re.M)
_OPENING = re.compile(
    r"(?:so|thus|therefore|hence|ok|okay|sure|yes)(?![\w'])[ ,:]*|(?:因此|所以|故)[ ,:]*", re.I
)


def _declared(text: str, choices: Choices) -> Iterator[Claim]:
    for found in _DECLARED.finditer(text):
        inside = found["box"] or found["tag"]
        if inside:
            yield said(inside, choices)
        elif not _doubted(text, found.start()):
            yield _following(text, found.end(), choices)


def _stated(text: str, choices: Choices) -> Iterator[Claim]:
    for found in _STATED.finditer(text):
        if not _doubted(text, found.start()):
            yield _following(text, found.end(), choices)
    for found in _RIGHT.finditer(text):
        starts = text[found.start()] in ".,;:!(。"
        if not _doubted(text, found.start() + starts):
            yield letters(found["list"], choices)
    for found in _RIGHT_TEXT.finditer(text):
        yield texts(key(found[1]), choices)


def _named(text: str, choices: Choices) -> Iterator[Claim]:
    lines = [line for line in dict.fromkeys(text.split("\n")) if line.strip()]
    claims = [_line(line, choices) for line in lines if len(line) <= choices.window]
    together = frozenset().union(*claims)
    if together >= choices.all and len(set(claims) - {NOTHING}) > 1:
        return  # the options repeated, one a line
    if choices.several:
        claims = [together]
    if not together and lines and len(set(_LABELLED.findall(text))) <= 1:
        claims = [letters(lines[0][: choices.window], choices)]
    yield from claims
    for found in _MOST.finditer(text):
        yield _following(text, found.end(), choices)


def _line(line: str, choices: Choices) -> Claim:
    opening = _OPENING.match(line)
    found = line_of_option(line, choices)
    return found or (line_of_option(line[opening.end() :], choices) if opening else NOTHING)


def _doubted(text: str, place: int) -> bool:
    """Whether the words before a cue take it back: ``if the answer is``, ``not``, ``wrong``."""
    return _DOUBTED.search(text[max(0, place - 60) : place]) is not None


def _following(text: str, place: int, choices: Choices) -> Claim:
    """What the rest of the line says, or the next lines where the cue ends its own."""
    first, *rest = text[place : place + choices.window].split("\n")
    if first.strip(" :\"'"):
        return said(first, choices)
    lines = [line for line in rest if line.strip()]
    if not lines:
        return NOTHING
    claim = said(lines[0], choices)
    for line in lines[1:]:  # a list, one option a line
        more = _line(line, choices) if claim else NOTHING
        if not more:
            break
        claim |= more
    repeated = claim >= choices.all and claim != said(lines[0], choices)
    return NOTHING if repeated else claim
