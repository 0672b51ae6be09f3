"""One model asked one task, for tests of back ends."""

from typing import Any

import pandas as pd

from medbench.harness.evaluate import Asking, score
from medbench.harness.models.load import ScoringPool
from medbench.harness.suite import ModelSpec
from medbench.tasks.catalog import task
from medbench.tasks.templates import Prompt


def chat(url: str, **args: Any) -> ModelSpec:
    """A chat model at *url*, under the name ``clinic``."""
    url = f"{url}/v1/chat/completions"
    given = {"model": "clinic", "base_url": url} | args
    return ModelSpec(backend="local-chat-completions", args=given)


def samples(
    spec: ModelSpec, name: str, prompt: Prompt | None = None, limit: int = 6
) -> pd.DataFrame:
    """The first answers of a model to the task *name*."""
    pool = ScoringPool({"m": spec}, {}, "cpu")
    with pool.use("m") as lm:
        return score("m", lm, task(name), Asking(limit=limit, prompt=prompt or Prompt()))
