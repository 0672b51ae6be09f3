"""What a few words say about the options of a question: letters, option texts, or nothing. Pure.

The words are those after a cue (``answer: …``) or a line of its own; :mod:`.choices` finds them.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property

from .reading import plain_words

Claim = frozenset[int]
"""Indices of options said to be right; one at or beyond the number of options is out of range."""

NOTHING: Claim = frozenset()
NONE = -1
"""Claimed by ``none of the above`` where that is no option."""
UNDECIDED = -2
"""Claimed beside others by ``A or B``, and by a letter with the text of another option."""

_BEFORE = " ,;:!?()[]{}'"
_BEHIND = _BEFORE + ".。"
_DASHES = re.compile("[\u2010-\u2014\u2212]")


def key(text: str) -> str:
    """*text* as option texts are compared: case and outer punctuation do not count, signs do."""
    folded = _DASHES.sub("-", unicodedata.normalize("NFKC", text).casefold())
    words = " ".join(folded.replace('"', "").split())
    return words.lstrip(_BEFORE).rstrip(_BEHIND)


@dataclass(frozen=True)
class Choices:
    """The options of one question, and whether several of them may be right."""

    options: tuple[str, ...]
    several: bool = False

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Each option as it is compared."""
        return tuple(key(plain_words(option)) for option in self.options)

    @cached_property
    def by_text(self) -> dict[str, int]:
        """Index by text, for texts that one option alone has; a letter of an option is a label."""
        labels = {chr(ord("a") + index) for index in range(len(self.options))} | {""}
        return {
            text: index
            for index, text in enumerate(self.texts)
            if self.texts.count(text) == 1 and text not in labels
        }

    @cached_property
    def begin(self) -> tuple[str, ...]:
        """The texts that can be claimed."""
        return tuple(self.by_text)

    @cached_property
    def window(self) -> int:
        """Characters within which a claim must lie."""
        return 200 + self.reach

    @cached_property
    def reach(self) -> int:
        """Characters within which an option's text must end."""
        return 20 + 2 * max(map(len, self.options), default=0)

    @property
    def all(self) -> Claim:
        return frozenset(range(len(self.options)))


_SIGNS = re.compile(r"[\s:=>→⇒\"'-]*+(?!\.?\d)|[\s:=→⇒\"']*")
"""What stands between a cue and its answer, but for the sign of a number."""
_LEAD = re.compile(
    r"(?:(?:therefore|thus|so|hence|most likely|likely|probably|clearly|definitely|indeed|still"
    r"|then|now|the|(?-i:an?)|option|choice|letter|answer|either|both|between)(?![\w'])[ :,]*"
    r"|(?:正确)?选项|应该是|应是|是|为|选择|选){0,3}",
    re.I,
)
_LETTER = re.compile(
    r"(?:(?:option|choice|letter|选项|选) ?)?(?P<open>[(\[{\"'<]{0,2}) ?(?P<letter>[A-Za-z])"
    r"(?: ?(?P<close>[)\]}\"'>]{1,2}))?(?: ?(?:选项|项))?(?![A-Za-z0-9'])",
    re.I,
)
_JOIN = re.compile(r" ?(?:,? ?\band\b|,? ?\bor\b|,|/|&|\+|、|和|及|与|或者?|还是|以及) ?", re.I)
_EITHER = re.compile(r"or|或|还是", re.I)
_RUN = re.compile(r"([A-J]{2,10})(?=\s*(?:[.。,;)]|$))")
_CONNECTIVE = (
    r"because|since|as|due|given|based|rather|over|instead|here|for|which|and|or|but|not"
    r"|is (?:the )?(?:single )?(?:correct|right|best|most|answer)"
)
_TAIL = re.compile(
    r"[\s.。!]*$|\s*[,;:、)\]}(/]|\s*->|\s*[–—→]|\s+-|\s*[.!]+(?![A-Za-z0-9]|\s*[a-z])|\s*。"
    rf"|\s*\.\s*(?:{_CONNECTIVE}|this|it|the|in|with|by|an?|these|that)\b|\s+(?:{_CONNECTIVE})\b"
    r"|\s*(?:因为|由于|是正确|正确|最|符合)|\s*(?:和|及|与|或|以及|&|\+)\s?\(?[A-Z](?![A-Za-z])"
)
"""What may stand behind a letter that is a label: ``B, …`` but not ``B cells`` or ``E. coli``."""
_ENDS = re.compile(r"[\s.。!]*$")
_ASKED = re.compile(r"[^.。!\n]{0,12}\?|吗")
_STOP = re.compile(
    r"[.;](?=\s|$)|[,。;]|\s(?:because|since|as|due to|which|is|are|rather|not)\s|\s\(|因为|\s-\s"
)
_NONE_OF = (
    r"none of (?:the |these )?(?:above|other answers|(?:given |provided |listed |following )?"
    r"(?:options|choices|answers)(?: (?:given|provided|listed|above))?)"
    r"|none of these(?=\s*[.!]?\s*$)|以上(?:选项)?(?:都|均)(?:不是|不对|不正确)|都不是"
    r"|没有正确(?:答案|选项)"
)
NONE_SAID = re.compile(rf"(?:{_NONE_OF})(?! except| but)", re.I)
"""Somewhere in the text; asked only where nothing was read."""
_NONE = re.compile(rf"(?:{_NONE_OF}|none(?=\s*[.!]?\s*$))", re.I)
_ALL = re.compile(r"all of (?:the |these )?(?:above|options)|以上(?:都|均)(?:是|对|正确)", re.I)


def said(words: str, choices: Choices) -> Claim:
    """The options that *words* begin by naming, where a cue such as ``answer:`` precedes them."""
    words = _past(_SIGNS, words.strip())
    bare = _past(_SIGNS, _past(_LEAD, words))
    for form in dict.fromkeys((words, bare)):
        if claim := _text(form, choices) or letters(form, choices):
            return claim
    return _none_or_all(bare, choices)


def line_of_option(line: str, choices: Choices) -> Claim:
    """The option that *line* is, and nothing else: ``B``, ``(B)``, ``B. its text``, its text."""
    line = _past(_SIGNS, line.strip())
    if whole := texts(key(line), choices) or _none_or_all(line, choices, whole=True):
        return whole
    claim, end = _labels(line, choices)
    rest = key(line[end:].lstrip(" .、")).lstrip("- ")
    own = len(claim) == 1 and rest in {choices.texts[at] for at in claim if at in choices.all}
    return claim if claim and (own or not rest or UNDECIDED in claim) else NOTHING


def _past(start: re.Pattern[str], words: str) -> str:
    found = start.match(words)
    return words[found.end() :] if found else words


def _none_or_all(words: str, choices: Choices, whole: bool = False) -> Claim:
    for said_so, claim in ((_NONE, frozenset({NONE})), (_ALL, choices.all)):
        found = said_so.match(words)
        if found and not (whole and not _ENDS.match(words[found.end() :])):
            return claim if choices.several or claim != choices.all else claim | {UNDECIDED}
    return NOTHING


def letters(words: str, choices: Choices) -> Claim:
    """The letters at the very start of *words*, where they are labels and not words."""
    run = _RUN.match(words)
    if run and len(set(run[1])) == len(run[1]):
        found = frozenset(map(_index, run[1]))
        if found <= choices.all:
            return found
    return _labels(words, choices)[0]


def _labels(words: str, choices: Choices) -> tuple[Claim, int]:
    """The labels that *words* begin with, ``A, B and C``, and where they end."""
    claim: set[int] = set()
    end, joined = 0, ""
    while one := _LETTER.match(words, end + len(joined)):
        letter, rest = one["letter"], words[one.end() :]
        bracketed = bool(one["close"])
        either = _EITHER.search(joined) is not None and letter != "I"
        if _ASKED.match(rest) or not (either or _is_label(letter, rest, bracketed, choices)):
            break
        if joined and letter.islower() and not bracketed:
            break
        claim.add(_index(letter))
        if either:
            claim.add(UNDECIDED)
        if not joined and (other := _text(rest.lstrip(" .):,"), choices)) and not other <= claim:
            claim |= other | {UNDECIDED}
        end = one.end()
        following = _JOIN.match(words, end)
        if not following:
            break
        joined = following[0]
    return frozenset(claim), end


def _index(letter: str) -> int:
    return ord(letter.upper()) - ord("A")


def _is_label(letter: str, rest: str, bracketed: bool, choices: Choices) -> bool:
    """Whether *letter* before *rest* is a label, as it is not in ``A patient`` or ``E. coli``."""
    if bracketed:
        return True
    own = choices.texts[_index(letter)] if _index(letter) in choices.all else ""
    following = key(rest[: choices.reach].lstrip(" .")).lstrip("- ")
    if own and following.startswith(own) and not following[len(own) : len(own) + 1].isalnum():
        return True
    return (_ENDS if letter in "Ii" else _TAIL).match(rest) is not None


def _text(words: str, choices: Choices) -> Claim:
    """The option whose full text *words* are, or which they begin with before a stop."""
    if not key(words[: choices.reach]).startswith(choices.begin):
        return NOTHING
    stops = [found.start() for found in _STOP.finditer(words)]
    for end in (len(words), *reversed(stops)):
        index = choices.by_text.get(key(words[:end]))
        rest = words[end:]
        if index is None or _ASKED.match(rest) or words[:end].rstrip().endswith("?"):
            continue
        another = rest.startswith(",") and key(rest[: choices.reach]).startswith(choices.begin)
        return frozenset({index, UNDECIDED}) if another else frozenset({index})
    return texts(key(words), choices)


def texts(folded: str, choices: Choices) -> Claim:
    """The options whose full texts *folded* is: one, or several joined."""
    if folded in choices.by_text:
        return frozenset({choices.by_text[folded]})
    parts = re.split(r",? (?:and|or) |/|, |、|和|或", folded)
    if not all(part in choices.by_text for part in parts):
        return NOTHING
    undecided = {UNDECIDED} if re.search(r" or |或", folded) else set()
    return frozenset(choices.by_text[part] for part in parts) | undecided
