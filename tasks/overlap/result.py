"""What was found, as JSON: for ``medbench overlap --format json`` and the run folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from .estimate import APART, CONFIDENCE, MISTAKEN, RECALLED, REWRITTEN, estimate, statement
from .find import Found
from .runs import SHARE

BASIS = "rewritten exam questions of medical-o1 (English); see docs/reference/overlap.md"


def as_json(
    found: Found,
    train: Sequence[str],
    test: Sequence[str],
    texts: int | None = None,
    against: str = "training rows",
) -> dict[str, Any]:
    """The object that docs/reference/overlap.md describes.

    Args:
        found: What was found between *train* and *test*.
        train: All training texts; those of a pair are copied into it.
        test: All test texts.
        texts: Keep the first so many pairs only; all when None. ``train_rows`` and ``eval_rows``
            always have every row.
        against: What *train* is called in the statement.
    """
    size = estimate(found)
    return {
        "train": {"rows": len(train), "empty": len(train) - found.n_train},
        "eval": {"rows": len(test), "empty": len(test) - found.n_eval},
        "thresholds": {"8-gram": SHARE, "paraphrase": 0.5},
        "measured": {
            "rewritten": REWRITTEN,
            "found": RECALLED,
            "different_pairs": APART,
            "reported": MISTAKEN,
            "on": BASIS,
        },
        "pairs": [
            asdict(pair)
            | {"train_text": _whole(train[pair.train]), "eval_text": _whole(test[pair.eval])}
            for pair in found.pairs[:texts]
        ],
        "train_rows": list(found.train_rows),
        "eval_rows": list(found.eval_rows),
        "estimated_share": None
        if size is None
        else {
            "value": size.value,
            "low": size.low,
            "high": size.high,
            "confidence": CONFIDENCE,
        },
        "expected_false_pairs": None if size is None else size.false_pairs,
        "statement": statement(found, against),
    }


def _whole(text: str) -> str:
    """*text* without halves of characters, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")
