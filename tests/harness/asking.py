"""One model asked one task, for tests of back ends."""

import json
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


class Counted:
    """Counts what reaches a model, and stops it before request number *stop*."""

    def __init__(self, lm: Any, stop: int | None = None) -> None:
        self.units: list[list[Any]] = []
        for kind in ("loglikelihood", "loglikelihood_rolling", "generate_until"):
            self._count(lm, kind, getattr(type(lm), kind), stop)

    def _count(self, lm: Any, kind: str, ask: Any, stop: int | None) -> None:
        def counted(requests: list[Any], **options: Any) -> Any:
            if stop is not None and sum(map(len, self.units)) >= stop:
                raise KeyboardInterrupt
            self.units.append([json.dumps(request.args) for request in requests])
            return ask(lm, requests, **options)

        setattr(lm, kind, counted)

    @property
    def requests(self) -> list[Any]:
        return [request for unit in self.units for request in unit]
