"""What a comparison of sides says, in the order in which it is said; and the same as JSON.

The renderers (terminal.py, markdown.py, html.py) lay these objects out and decide
nothing about their content. Every text of a model or data set in them is clean (text.py), and none
is escaped: that is each format's own business.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...harness.comparing.comparison import Compared, Comparison, Flip
from ..formatting import DASH, count
from ..text import clean, clean_tree, one_line
from ..verdicts import Comparison as Said
from ..verdicts import headline
from .gate import finite

FLIPS = {"terminal": 5, "md": 20, "html": 20, "json": None}
"""Changed answers of each task and kind that a format shows unless told otherwise; None: all."""

METHOD = (
    "Differences are paired: the second side minus the first over the questions both answered. "
    "Where answers are right or wrong, intervals are Tango's score intervals and p is McNemar's "
    "exact test; otherwise they come from the t distribution and a sign-flip permutation test. "
    "Better and worse are said only where the interval leaves out 0 and p, adjusted for the number "
    "of tasks (Holm), is below the level. Detectable is the true difference that so many questions "
    "show in 80 % of such comparisons. Tasks are pooled where answers are right or wrong; every "
    "question counts once."
)


@dataclass(frozen=True)
class Kind:
    """The changed answers of one kind in one task: how many, and the few that are shown."""

    name: str
    total: int
    flips: tuple[Flip, ...]


@dataclass(frozen=True)
class Line:
    """One task (or all of them pooled) as a row of the table."""

    said: Said

    @property
    def cells(self) -> list[str]:
        """a, b, difference, interval, p with its adjustment, lost and gained, detectable."""
        one = self.said
        lost, gained = one.discordant or (None, None)
        return [
            one.scale.value(one.a),
            one.scale.value(one.b),
            one.shown,
            one.interval,
            one.p_shown,
            DASH if lost is None else f"{count(lost)} / {count(gained)}",
            one.scale.difference(one.smallest_detectable, signed=False),
        ]


COLUMNS = ("Difference", "Interval", "p", "Lost / gained", "Detectable")


@dataclass(frozen=True)
class Pair:
    """One side beside the reference."""

    a: str
    b: str
    origin_a: str
    origin_b: str
    headline: str
    lines: tuple[Line, ...]
    pooled: Line | None
    kinds: tuple[Kind, ...]
    warnings: tuple[str, ...]

    @property
    def shown(self) -> tuple[Line, ...]:
        """The rows of the table: pooled only where there are several tasks to pool."""
        several = self.pooled is not None and len(self.lines) > 1
        return (*self.lines, self.pooled) if several and self.pooled else self.lines


@dataclass(frozen=True)
class Page:
    """All of one comparison; the first side is the reference of every pair."""

    reference: str
    pairs: tuple[Pair, ...]
    confidence: float
    method: str = METHOD

    @property
    def title(self) -> str:
        """What is compared."""
        references = dict.fromkeys(pair.a for pair in self.pairs)
        others = ", ".join(pair.b for pair in self.pairs)
        return f"{others} against {' and '.join(references)}"


def page(found: Sequence[Compared], confidence: float) -> Page:
    """The comparisons as readers get them."""
    return Page(clean(found[0].name_a), tuple(_pair(one, confidence) for one in found), confidence)


def as_json(found: Sequence[Compared], confidence: float) -> str:
    """Every number of every comparison, and the changed answers with their whole texts, as ASCII.

    ``comparisons`` has an entry for each task of each pair of sides, ``pooled`` one for each pair;
    docs/reference/compare.md has the keys.
    """
    value = {
        "confidence": confidence,
        "comparisons": [_told(one, task, confidence) for one in found for task in one.tasks],
        "pooled": [_told(one, one.pooled, confidence) for one in found if one.pooled],
        "warnings": [warning for one in found for warning in one.warnings],
    }
    rows: dict[str, list[dict[str, Any]]] = {"unmatched": [], "flips": []}
    for one in found:
        for name, alone in ((one.name_a, one.only_a), (one.name_b, one.only_b)):
            keys = (alone[key].tolist() for key in ("task", "doc_id", "order"))
            rows["unmatched"] += [
                {"name": name, "task": task, "doc_id": doc_id, "order": order}
                for task, doc_id, order in zip(*keys, strict=True)
            ]
        names = {"name_a": one.name_a, "name_b": one.name_b}
        rows["flips"] += [{**names, **vars(flip)} for flip in one.flips]
    # A row a line: there may be ten thousands, and json's indenting is slow.
    parts = [json.dumps(finite(value), indent=2, allow_nan=False).removesuffix("\n}")]
    for key, held in rows.items():
        parts.append(f'  "{key}": [' + ",\n    ".join(map(json.dumps, held)) + "]")
    return ",\n".join(parts) + "\n}"


def _entry(pair: Compared, one: Comparison, confidence: float) -> dict[str, Any]:
    names = {"task": one.task, "metric": one.metric, "protocol": one.protocol}
    return {
        **names,
        "name_a": pair.name_a,
        "name_b": pair.name_b,
        **asdict(one.found),
        "p_holm": one.p_holm,
        "smallest_detectable": one.smallest_detectable,
        "confidence": confidence,
    }


def _told(pair: Compared, one: Comparison, confidence: float) -> dict[str, Any]:
    said = _said(pair, one, confidence)
    entry = _entry(pair, one, confidence)
    return {**entry, "verdict": said.verdict, "sentence": said.sentence}


def _said(pair: Compared, one: Comparison, confidence: float) -> Said:
    entry = clean_tree(_entry(pair, one, confidence))
    entry |= {"base": entry["name_a"], "tuned": entry["name_b"]}
    return Said.read(entry, one.higher_is_better)


def _pair(found: Compared, confidence: float) -> Pair:
    lines = tuple(Line(_said(found, one, confidence)) for one in found.tasks)
    pooled = Line(_said(found, found.pooled, confidence)) if found.pooled else None
    return Pair(
        a=clean(found.name_a),
        b=clean(found.name_b),
        origin_a=clean(found.origin_a),
        origin_b=clean(found.origin_b),
        headline=headline(clean(found.name_b), [line.said for line in lines]),
        lines=lines,
        pooled=pooled,
        kinds=tuple(_kinds(found)),
        warnings=tuple(map(clean, found.warnings)),
    )


def _kinds(found: Compared) -> list[Kind]:
    kinds = []
    for task in found.lost:
        for gained, totals in ((False, found.lost), (True, found.gained)):
            flips = tuple(
                _clean(flip)
                for flip in found.flips
                if flip.task == task and flip.gained == gained and flip.readable
            )
            right, wrong = (found.name_b, found.name_a) if gained else (found.name_a, found.name_b)
            if flips:
                name = f"{task}: only {right} right, {wrong} wrong"
                kinds.append(Kind(one_line(clean(name)), totals[task], flips))
    return kinds


def _clean(flip: Flip) -> Flip:
    values = asdict(flip)
    texts = {key: clean(text) for key, text in values.items() if isinstance(text, str)}
    return Flip(**(values | texts | {"options": tuple(map(clean, flip.options))}))
