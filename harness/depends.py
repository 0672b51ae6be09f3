"""What the outcome of each stage depends on, as a hash (fingerprint.py)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..tasks.catalog import Task
from .environment import versions
from .folder import fingerprint
from .folder.store import RunFolder
from .graph import Node
from .planning.plan import Plan, identity


class Depends:
    """The fingerprints of the stages of *plan*. They do not depend on who does a stage.

    Attributes:
        adapters: The folder of each tuned model's adapter, trained in *run* or not.
    """

    def __init__(self, plan: Plan, run: RunFolder) -> None:
        self._plan = plan
        self.adapters = {
            name: Path(spec.adapter.path)
            if spec.adapter and spec.adapter.path
            else run / f"adapters/{name}"
            for name in plan.models
            if (spec := plan.spec(name)).base
        }
        self._versions = versions()
        self._identity = {
            name: identity(plan.spec(name)) for name in {plan.base_of(m) for m in plan.models}
        }
        self._known: dict[str, str] = {}
        self._tasks = {task.name: task for task in plan.tasks}

    def fingerprint(self, node: Node) -> str:
        """Hash of everything that the outcome of *node* depends on."""
        if node.name not in self._known:
            self._known[node.name] = self._fingerprint(node)
        return self._known[node.name]

    def _fingerprint(self, node: Node) -> str:
        depends: dict[str, Callable[[], str]] = {
            "overlap": self._overlap,
            "tune": lambda: self._weights(node.model),
            "score": lambda: self._score(node.model, self._tasks[node.part]),
            "judge": lambda: self._judge(node.model, self._tasks[node.part]),
            "merge": lambda: self._weights(node.model),
            "export": lambda: self._export(node.model, node.part),
            "latency": lambda: self._latency(node.model),
        }
        return depends[node.kind]()

    def _weights(self, name: str) -> str:
        """Hash of what model *name* is made of."""
        spec = self._plan.spec(name)
        if spec.of and spec.onnx:
            return self._export(spec.of, spec.onnx)
        parts: list[Any] = [
            self._identity[self._plan.base_of(name)],
            self._plan.device,
            self._versions,
        ]
        if name in self._plan.recipes:
            recipe = self._plan.recipes[name]
            parts += [
                recipe.model_dump(),
                fingerprint.of_code("finetune"),
                self._data(recipe.data.source),
                self._questions() if recipe.data.overlap == "drop" else None,
            ]
        elif name in self.adapters:
            parts.append(fingerprint.of_path(self.adapters[name]))
        return fingerprint.of(parts)

    def _data(self, source: str) -> str:
        """Hash of what a data source is: the code that makes or reads it, and its local file."""
        from ..tasks import sources

        if source in sources.SOURCES:
            files = sources.local_files(source)
        else:
            files = [Path(source)] if Path(source).is_file() else []
        return fingerprint.of_code("tasks") + "".join(map(fingerprint.of_path, files))

    def _shots(self, task: Task) -> list[Any]:
        """What decides which questions of your own and which few-shot examples *task* has."""
        from ..tasks import sources

        if task.own:
            shots = fingerprint.of_path(Path(task.own.shots)) if task.own.shots else ""
            return [task.own.model_dump(), shots]
        count = self._plan.suite.prompt.shots
        if count and task.takes_shots and task.data in sources.SOURCES and sources.data_dir():
            return [sources.shots(task.data, count).rows]
        return []

    def _questions(self) -> list[Any]:
        """What decides which questions the tests ask."""
        tasks = [[task.name, self._data(task.data), self._shots(task)] for task in self._plan.tasks]
        return [tasks, self._plan.suite.limit]

    def _overlap(self) -> str:
        recipes = self._plan.recipes
        return fingerprint.of(
            [
                [[name, recipe.model_dump()] for name, recipe in recipes.items()],
                [self._data(recipe.data.source) for recipe in recipes.values()],
                [fingerprint.of_code("finetune"), fingerprint.of_code("harness")],
                self._questions(),
            ]
        )

    def _score(self, name: str, task: Task) -> str:
        suite = self._plan.suite
        return fingerprint.of(
            [
                self._weights(name),
                fingerprint.of_code("harness"),
                fingerprint.of_path(task.spec),
                self._data(task.data),
                [suite.limit, suite.orders, suite.batch_size, suite.prompt.model_dump()],
                self._shots(task),
            ]
        )

    def _judge(self, name: str, task: Task) -> str:
        judge = self._plan.suite.judge
        assert judge is not None  # noqa: S101  (a stage of a suite with a judge)
        return fingerprint.of([self._score(name, task), identity(judge.model), judge.kind])

    def _export(self, name: str, kind: str) -> str:
        return fingerprint.of([self._weights(name), kind])

    def _latency(self, name: str) -> str:
        plan, latency = self._plan, self._plan.suite.latency
        asked = [[task.name for task in plan.tasks], plan.suite.limit, plan.suite.orders]
        settings = latency.model_dump() if latency else None
        return fingerprint.of([self._weights(name), plan.formats(), settings, asked])
