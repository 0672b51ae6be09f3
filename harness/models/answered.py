"""A model of lm-eval that remembers what it has answered, so that a task can be gone on with.

The seam is the three methods by which lm-eval asks any model. Requests are taken in *units*, each
known by a hash of its content; what a journal holds of them is not asked again.

Here, what stands beside a request in a forward pass decides the last bits of its answer. So units
depend on nothing but the requests: a resumed run asks whole units, as an undisturbed one does, and
both end with the same bits. An endpoint knows nothing of units: it gets all that is missing at
once, and each reply is put down as it comes (lm-eval tells its ``cache_hook``).
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from ..folder import fingerprint
from ..folder.journal import Journal
from ..progress import Tick, silent
from .endpoint import Reply, reply

MINUTE = {"cpu": 2e13, "cuda": 3e16}
"""Operations of about a minute, on some cores or one GPU: the work of a unit of log-likelihoods."""

LARGE = 8e9
"""Parameters of a model that does not say how many it has; it runs on a GPU then (vLLM, SGLang)."""

CHARACTERS = 4
"""Of a token."""

LOST = 0.02
"""Most of a unit's characters that may be those that its first request shares with the unit before,
and that both units therefore compute."""

MANY = 4096
"""Requests for text of a unit, where an engine makes its batches itself."""

Unit = list[int]
"""Indices of requests that are asked together."""


class Answered:
    """What of a stage was answered, before and now.

    Args:
        lm: The model.
        journal: What is known.
        tick: Hears of requests that are done.
        remote: Each request is answered on its own, behind a URL.

    Attributes:
        before: Requests that the journal knew.
    """

    def __init__(self, lm: Any, journal: Journal, tick: Tick, remote: bool) -> None:
        self._lm, self._journal, self._tick, self._remote = lm, journal, tick, remote
        self._done = self._whole = 0
        self.before = 0

    def tick(self, done: int, total: int, note: str = "") -> None:
        """A :data:`Tick` for *done* requests of the unit that is being asked."""
        self._tick(self._done + done, self._whole or total, note)

    @property
    def about(self) -> dict[str, Any]:
        """What a stage says of it."""
        return {"answered_before": self.before, "damaged_parts": len(self._journal.damaged)}

    def answer(self, kind: str, ask: Callable[..., Any], requests: list[Any]) -> list[Any]:
        """Answers to *requests*, in order.

        Args:
            kind: lm-eval's name of the method.
            ask: The model's own.
            requests: lm-eval's instances.
        """
        units = self._units(kind, requests)
        keys = _keys(kind, [[requests[index].args for index in unit] for unit in units])
        found: dict[int, Any] = {}
        missing = []
        for unit, key in zip(units, keys, strict=True):
            if key in self._journal:
                found |= zip(unit, map(_unpacked, self._journal[key]), strict=True)
            else:
                missing.append((unit, key))
        self.before += len(found)
        self._done, self._whole = len(found), len(requests)
        way = self._at_once if self._remote else self._in_turn
        for unit, answers in way(lambda unit: list(ask([requests[i] for i in unit])), missing):
            found |= zip(unit, answers, strict=True)
            self._done = len(found)
        self._tick(len(requests), len(requests), "")
        return [found[index] for index in range(len(requests))]

    def _in_turn(
        self, ask: Callable[[Unit], list[Any]], missing: list[tuple[Unit, str]]
    ) -> Iterator[tuple[Unit, list[Any]]]:
        for unit, key in missing:
            answers = ask(unit)
            self._journal.add(key, list(map(_packed, answers)))
            yield unit, answers

    def _at_once(
        self, ask: Callable[[Unit], list[Any]], missing: list[tuple[Unit, str]]
    ) -> Iterator[tuple[Unit, list[Any]]]:
        rest = [index for unit, _ in missing for index in unit]
        if rest:
            with _hearing(self._lm, self._journal):
                yield rest, ask(rest)

    def _units(self, kind: str, requests: list[Any]) -> list[Unit]:
        if self._remote:
            return [[index] for index in range(len(requests))]
        if _loads_for_each_call(self._lm):
            return [list(range(len(requests)))]
        if kind == "generate_until":
            size = getattr(self._lm, "batch_size", None)
            return batches(requests, size if isinstance(size, int) else MANY)
        return neighbours([request.args for request in requests], _characters(self._lm))


@contextlib.contextmanager
def answered(
    lm: Any, journal: Journal, tick: Tick = silent, *, remote: bool = False
) -> Iterator[Answered]:
    """Let *lm* remember its answers in *journal* until the block ends.

    Args:
        lm: Any model of lm-eval.
        journal: Of this model and this task: a key holds neither.
        tick: Hears of requests that are done, those before included.
        remote: It is behind a URL.

    Raises:
        OSError: A part cannot be written.
    """
    made = Answered(lm, journal, tick, remote)
    kinds = ("loglikelihood", "loglikelihood_rolling", "generate_until")
    for kind in kinds:
        setattr(lm, kind, partial(made.answer, kind, getattr(lm, kind)))
    try:
        with journal.open():
            yield made
    finally:
        for kind in kinds:
            delattr(lm, kind)


# -- units: the same for the same requests -------------------------------------------------------


def batches(requests: list[Any], size: int) -> list[Unit]:
    """Requests for text, those with the same settings by length, *size* of them a unit.

    lm-eval fills its batches in that order, so a unit of a batch's size is a batch.
    """
    groups: dict[str, list[tuple[int, str, int]]] = {}
    for index, request in enumerate(requests):
        prompt, settings = request.args[:2]
        group = groups.setdefault(json.dumps(settings, sort_keys=True, default=str), [])
        group.append((-len(prompt), str(prompt), index))
    return [
        [index for *_, index in ordered[start : start + size]]
        for ordered in map(sorted, groups.values())
        for start in range(0, len(ordered), size)
    ]


def neighbours(texts: Sequence[tuple[str, ...]], size: int) -> list[Unit]:
    """Requests that begin alike together, about *size* characters a unit.

    What a request shares with the one before it is not counted, since a scorer computes it once. A
    unit ends where so little is shared that computing it twice costs no more than :data:`LOST`.

    Args:
        texts: Of each request, a context and what follows it, or one text.
        size: Characters.
    """
    units: list[Unit] = [[]]
    held, before = 0, ""
    for index in sorted(range(len(texts)), key=texts.__getitem__):
        start = texts[index][0]
        common = shared(before, start)
        if units[-1] and start != before and held >= size and common <= LOST * held:
            units.append([])
            held = common = 0
        units[-1].append(index)
        held += sum(map(len, texts[index])) - common
        before = start
    return units if units[-1] else []


def shared(one: str, other: str) -> int:
    """Characters that both begin with."""
    if one == other:
        return len(one)
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _loads_for_each_call(lm: Any) -> bool:
    """Whether *lm* is lm-eval's vLLM in data-parallel mode: its replicas live for one call."""
    return getattr(lm, "data_parallel_size", 1) > 1 and getattr(lm, "model", None) is None


def _characters(lm: Any) -> int:
    """About how many characters *lm* scores in a minute."""
    count = getattr(getattr(lm, "model", None), "num_parameters", None)
    device = getattr(getattr(lm, "device", None), "type", None)
    work = MINUTE["cpu" if device == "cpu" else "cuda"]
    return int(CHARACTERS * work / (2 * (count() if count else LARGE)))


# -- what is known of them -----------------------------------------------------------------------


def _keys(kind: str, contents: list[list[Any]]) -> list[str]:
    """A key of each unit; units of the same content are counted, as samples of one prompt are."""
    seen: Counter[str] = Counter()
    keys = []
    for content in contents:
        mark = fingerprint.of([kind, content])
        keys.append(f"{mark}-{seen[mark]}")
        seen[mark] += 1
    return keys


@contextlib.contextmanager
def _hearing(lm: Any, journal: Journal) -> Iterator[None]:
    """Put each reply that *lm* gets down in *journal*."""
    before = lm.cache_hook
    lm.set_cache_hook(_Hook(journal))
    try:
        yield
    finally:
        lm.set_cache_hook(before)


class _Hook:
    """What lm-eval's clients tell of each reply, as it comes."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def add_partial(self, kind: str, request: Any, found: Any) -> None:
        if request is None:  # a window of a longer text, of which the whole is told later
            return
        mark = fingerprint.of([kind, [tuple(request)]])
        number = 0
        while f"{mark}-{number}" in self._journal:
            number += 1
        self._journal.add(f"{mark}-{number}", [_packed(found)])


def _packed(answer: Any) -> Any:
    """What an lm-eval model returns, as JSON."""
    if isinstance(answer, Reply):
        return {"text": str(answer), "tokens": answer.tokens, "truncated": answer.truncated}
    if isinstance(answer, str):
        return answer
    if isinstance(answer, tuple):
        value, greedy = answer
        return [float(value), bool(greedy)]
    return float(answer)


def _unpacked(answer: Any) -> Any:
    if isinstance(answer, dict):
        return reply(**answer)
    return tuple(answer) if isinstance(answer, list) else answer
