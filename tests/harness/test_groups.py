"""A group's value weighs every question alike, whichever task it is in and however often asked."""

import pandas as pd
import pytest

from medbench.harness.groups import group_scores
from medbench.tasks.catalog import groups


def table(task: str, scores: list[float], orders: int = 1) -> pd.DataFrame:
    rows = [
        {"task": task, "cluster": str(n), "order": order, "score": score, "weight": 1.0}
        for n, score in enumerate(scores)
        for order in range(orders)
    ]
    return pd.DataFrame(rows).assign(metric="acc", unparsed=False, truncated=False)


def test_members_weigh_by_their_questions() -> None:
    members = groups()["multimedqa_letters"]
    tables = {(name, "base"): table(name, [1.0]) for name in members}
    tables["medqa", "base"] = table("medqa", [0.0, 0.0, 0.0], orders=4)
    tables["medqa", "tuned"] = table("medqa", [1.0])
    found = group_scores(["multimedqa_letters", "medqa", "multimedqa_cot"], tables)
    assert list(found) == ["multimedqa_letters"]
    assert list(found["multimedqa_letters"]["scores"]) == ["base"]  # tuned lacks members
    score = found["multimedqa_letters"]["scores"]["base"]
    assert score["value"] == pytest.approx(8 / 11)
    assert score["n"] == 11
