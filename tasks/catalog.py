"""Which tasks there are: read from the specs and from a suite's own files, without lm-eval."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ..errors import InputError
from .own import QuestionFile
from .sources import SOURCES

SPECS = Path(__file__).parent / "specs"


@dataclass(frozen=True)
class Task:
    """One task, as its spec describes it.

    Attributes:
        protocol: How it is asked and scored.
        metric: ``acc`` or ``bits_per_byte``.
        chance: Expected score of a guesser, or None.
        shows_options: The options stand in the prompt, so that their order can matter.
        questions: Number of test questions in the published data.
        data: ``clinic`` for the embedded fictional world, the path of a file of your own, else
            the name of a data source.
        spec: Its file in specs/; for a file of your own the base that it is built on.
        output_type: What lm-eval asks of a model: ``multiple_choice`` and ``loglikelihood`` need
            log-probabilities, ``generate_until`` needs text.
        assistant: With a chat template, what the model's turn begins with before it is scored.
        takes_shots: Few-shot examples can stand before the question.
        doc_to_text: The words around the question: a Jinja template or a function's name.
        own: The file of your own that it asks, or None.
    """

    name: str
    protocol: str
    metric: str
    higher_is_better: bool
    chance: float | None
    shows_options: bool
    questions: int | None
    source: str
    licence: str
    data: str
    spec: Path
    output_type: str = "multiple_choice"
    assistant: str = ""
    takes_shots: bool = False
    doc_to_text: str = ""
    own: QuestionFile | None = None

    @property
    def generates(self) -> bool:
        """Whether it is answered in generated text, and not by log-likelihood."""
        return self.output_type == "generate_until"


class _Loader(yaml.SafeLoader):
    """Safe YAML in which lm-eval's ``!function`` stays the name it is."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))  # type: ignore[arg-type]


@cache
def tasks() -> dict[str, Task]:
    """Every task of medbench, by name, in alphabetical order."""
    found = [_task(spec, path) for path, spec in _specs().items() if "task" in spec]
    return {task.name: task for task in sorted(found, key=lambda task: task.name)}


@cache
def groups() -> dict[str, tuple[str, ...]]:
    """The members of every group, by its name. A group's value weights its members by size."""
    return {spec["group"]: tuple(spec["members"]) for spec in _specs().values() if "group" in spec}


def task(name: str) -> Task:
    """The task called *name*.

    Raises:
        InputError: There is none.
    """
    if name not in tasks():
        known = [*tasks(), *groups()]
        near = ", ".join(get_close_matches(name, known, n=5) or known[:5])
        raise InputError(
            f"task {name!r}: unknown; expected a name such as {near} (`medbench tasks` lists all)"
        )
    return tasks()[name]


def own_tasks(name: str, file: QuestionFile) -> list[Task]:
    """The tasks that the suite's own file *name* becomes, one a protocol.

    Raises:
        InputError: The file is not there, or a row of it is no sound question.
    """
    questions = file.questions()
    guess = sum(len(q.get("golds", [0])) / len(q["options"]) for q in questions) / len(questions)
    made = []
    for protocol in file.protocols:
        base = SPECS / f"_{protocol}{'_zh' if file.language == 'zh' else ''}.yaml"
        spec = _read(base)
        label: str = spec["metadata"]["protocol"]
        if file.several:
            rule = "all right options named" if protocol == "cot" else "any right option likeliest"
            label = label.replace(", 0-shot", f", {rule}, 0-shot")
        made.append(
            Task(
                name=f"{name}_{protocol}",
                protocol=label,
                metric="acc",
                higher_is_better=True,
                chance=None if file.several and protocol == "cot" else guess,
                shows_options=spec["metadata"]["shows_options"],
                questions=len(questions),
                source=Path(file.file).name,
                licence=file.licence,
                data=file.file,
                spec=base,
                output_type=spec["output_type"],
                takes_shots=file.shots is not None,
                doc_to_text=spec["doc_to_text"],
                own=file,
            )
        )
    return made


def expand(names: list[str], own: dict[str, QuestionFile]) -> list[Task]:
    """The tasks that *names* stand for, each once: tasks, groups, and the files in *own*.

    Raises:
        InputError: A name is unknown, or a file's own name is taken.
    """
    made: dict[str, list[Task]] = {}
    for name, file in own.items():
        if name in tasks() or name in groups():
            raise InputError(
                f"question_files.{name}: a task of medbench has this name; take another"
            )
        made[name] = own_tasks(name, file)
    single = {one.name: one for several in made.values() for one in several}
    if taken := sorted(single.keys() & tasks().keys()):
        raise InputError(f"question_files: {taken[0]} is a task of medbench; take another name")
    found: dict[str, Task] = {}
    for name in names:
        if name in groups():
            chosen = [task(member) for member in groups()[name]]
        elif name in made:
            chosen = made[name]
        else:
            chosen = [single[name] if name in single else task(name)]
        found |= {one.name: one for one in chosen}
    return list(found.values())


@contextlib.contextmanager
def include_paths(task: Task) -> Iterator[list[str]]:
    """The folders in which lm-eval finds *task*; the one of a file of your own is temporary."""
    if task.own is None:
        yield [str(SPECS)]
        return
    with tempfile.TemporaryDirectory(prefix="medbench-task-") as folder:
        Path(folder, "task.yaml").write_text(own_spec(task), "utf-8")
        yield [str(SPECS), folder]


def own_spec(task: Task) -> str:
    """The lm-eval YAML of a task over a file of your own."""
    assert task.own is not None  # noqa: S101  (the callers' business)
    file = task.own.model_dump() | {"file": str(Path(task.own.file).resolve())}
    settings = {
        "include": str(task.spec.resolve()),
        "task": task.name,
        "dataset_kwargs": {"mapping": file},
    }
    head = "custom_dataset: !function medbench.tasks.datasets.own_choices\n"
    return head + yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)


def spec_of(task: Task) -> dict[str, Any]:
    """The spec of *task* as lm-eval sees it, with what it includes."""
    return _read(task.spec)


@cache
def _specs() -> dict[Path, dict[str, Any]]:
    paths = sorted(path for path in SPECS.glob("*.yaml") if not path.name.startswith("_"))
    found = {path: _read(path) for path in paths}
    for spec in found.values():
        if "group" in spec:
            spec["members"] = spec.pop("task")
    return found


def _read(path: Path) -> dict[str, Any]:
    """A spec with what it includes, as lm-eval puts them together."""
    spec: dict[str, Any] = yaml.load(path.read_text("utf-8"), _Loader)  # noqa: S506  (a SafeLoader)
    base = spec.pop("include", None)
    return (_read(path.parent / base) if base else {}) | spec


def _task(spec: dict[str, Any], path: Path) -> Task:
    about = spec["metadata"]
    metric = spec["metric_list"][0]
    asked = spec.get("dataset_kwargs", {})
    if "data" in asked:
        about = _about(asked["data"]) | about
    if asked.get("context") is False:
        label = about["protocol"].replace(", 0-shot", ", without the abstract, 0-shot")
        about = about | {"protocol": label}
    return Task(
        name=spec["task"],
        protocol=about["protocol"],
        metric=metric["metric"],
        higher_is_better=metric["higher_is_better"],
        chance=about["chance"],
        shows_options=about["shows_options"],
        questions=about["questions"],
        source=about["source"],
        licence=about["licence"],
        data=about["data"],
        spec=path,
        output_type=spec["output_type"],
        assistant=about.get("assistant", ""),
        takes_shots="fewshot_split" in spec,
        doc_to_text=spec["doc_to_text"],
    )


def _about(data: str) -> dict[str, Any]:
    """What a task has from its data source."""
    source = SOURCES[data]
    split = f" ({source.config})" if source.config else ""
    part = f", {source.split}" if source.form else ", held-out tenth by question hash"
    return {
        "chance": 1 / source.options if source.options else None,
        "questions": source.questions,
        "source": f"{source.hub or 'local file only'}{split}{part}",
        "licence": source.licence,
        "data": data,
    }
