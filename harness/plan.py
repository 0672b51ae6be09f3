"""Suite and command line → a checked plan: everything that can be found wrong is found here.

Nothing is written and no model is loaded while a plan is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..finetune.recipe import Recipe, load_recipe
from ..tasks import catalog, sources
from ..tasks.catalog import Task
from . import fingerprint
from .suite import EMBEDDED, ModelSpec, Suite, select


@dataclass(frozen=True)
class Plan:
    """What one run does.

    Attributes:
        suite: The resolved suite, every override applied.
        models: Names of the models to score, in order.
        tasks: The tasks to score them on, in order.
        recipes: The resolved recipe of each tuned model that is trained here.
        device: ``cpu`` or ``cuda``.
        command: The command line, for the manifest.
    """

    suite: Suite
    models: list[str]
    tasks: list[Task]
    recipes: dict[str, Recipe]
    device: str
    command: str

    def spec(self, model: str) -> ModelSpec:
        return self.suite.models[model]

    def base_of(self, model: str) -> str:
        """The name of the base that *model* stands on; its own when it is a base."""
        return self.spec(model).base or model

    def timed(self) -> list[str]:
        """The models whose latency is measured."""
        latency = self.suite.latency
        return [name for name in latency.models if name in self.models] if latency else []

    def formats(self) -> list[str]:
        """ONNX formats to export, ``auto`` resolved."""
        auto = "fp32" if self.device == "cpu" else "fp16"
        chosen = self.suite.latency.formats if self.suite.latency else []
        return list(dict.fromkeys(auto if name == "auto" else name for name in chosen))

    def notes(self) -> list[str]:
        """What a reader of the report must know before any figure."""
        found = []
        real = [task.name for task in self.tasks if task.data != "clinic"]
        if len(real) < len(self.tasks):
            found.append(
                "The clinic is fictional: every disease, drug and finding in its questions is "
                "invented, so that no model can have seen them. The scores say how well the "
                "pipeline works, not what a model knows of medicine."
            )
        stand_in = [
            name for name in self.models if self.spec(self.base_of(name)).pretrained in EMBEDDED
        ]
        if real and stand_in:
            found.append(
                f"Placeholder model: {', '.join(stand_in)} stand on a model of about a million "
                "parameters that knows no medicine. Accuracy and bits per byte on "
                f"{', '.join(real)} are meaningless here; this run shows that the data path works."
            )
        held_out = {task.data for task in self.tasks}
        for name, recipe in self.recipes.items():
            if recipe.data.source in held_out - {"clinic"} and not recipe.data.hold_out:
                found.append(
                    f"Leak: {name} was tuned on {recipe.data.source} without holding out the rows "
                    "that are tested here (hold_out: false). Its scores on them mean nothing."
                )
        outside = [name for name in self.models if (a := self.spec(name).adapter) and a.path]
        if outside:
            found.append(
                f"The adapter of {', '.join(outside)} was trained elsewhere. Whether its training "
                "rows hold questions of these tests is not known."
            )
        if self.suite.limit:
            found.append(f"Only the first {self.suite.limit} questions of each task were asked.")
        if real and (folder := sources.data_dir()):
            names = ", ".join(
                dict.fromkeys(task.data for task in self.tasks if task.data != "clinic")
            )
            found.append(
                f"Rows of {names} were read from local files ({folder.name}/) instead of the Hub."
            )
        return found


def make_plan(
    suite: Suite, *, models: str | None, tasks: str | None, device: str, command: str
) -> Plan:
    """Choose from *suite* and check that everything it names is there.

    Args:
        models: Comma-separated names out of the suite; all when None.
        tasks: The same for tasks.
        device: ``cpu`` or ``cuda``.

    Raises:
        InputError: A name, file, task, recipe or format that is unknown or missing.
    """
    chosen = select(models, list(suite.models), "--models")
    found = [catalog.task(name) for name in select(tasks, suite.tasks, "--tasks")]
    recipes: dict[str, Recipe] = {}
    for name in chosen:
        spec = suite.models[name]
        _check_weights(name, suite.models[spec.base or name])
        if spec.adapter and spec.adapter.recipe:
            recipe = load_recipe(spec.adapter.recipe)
            if recipe.data.source in sources.TEST_ONLY:
                raise InputError(
                    f"recipe {recipe.name!r}, data.source: {recipe.data.source} is a test set; "
                    f"expected clinic, a file, or one of: {', '.join(sources.tunable())}"
                )
            seed = recipe.seed if suite.seed is None else suite.seed
            recipes[name] = recipe.model_copy(update={"seed": seed})
        elif spec.adapter and not Path(spec.adapter.path or "", "adapter_config.json").is_file():
            raise InputError(
                f"models.{name}.adapter.path: {spec.adapter.path}/adapter_config.json: no such "
                "file; expected the folder of a PEFT adapter"
            )
    plan = Plan(suite, chosen, found, recipes, device, command)
    _check_formats(plan)
    needed = [task.data for task in found] + [recipe.data.source for recipe in recipes.values()]
    for source in needed:
        if source in sources.SOURCES:
            sources.local_file(source)
    return plan


def identity(spec: ModelSpec) -> str:
    """What a base model is, as a hash: its settings, and its files where they are local."""
    folder = Path(spec.source)
    files = fingerprint.of_path(folder) if folder.is_dir() else ""
    return fingerprint.of([spec.model_dump(), files])


def _check_weights(name: str, spec: ModelSpec) -> None:
    source = Path(spec.source)
    if spec.source.startswith("embedded:"):
        raise InputError(
            f"models.{name}: {spec.source!r} is not embedded; expected {', '.join(EMBEDDED)}"
        )
    local = spec.source.startswith((".", "/", "~")) or source.is_dir()
    if local and not (source / "config.json").is_file():
        raise InputError(
            f"models.{name}: {spec.pretrained}/config.json: no such file; expected a Hub id, "
            f"{', '.join(EMBEDDED)}, or the folder of a transformers checkpoint"
        )


def _check_formats(plan: Plan) -> None:
    from .export import PAIRS

    allowed = PAIRS[plan.device]
    for name in plan.formats():
        if plan.timed() and name not in allowed:
            raise InputError(
                f"latency.formats: {name} does not run on {plan.device}; expected some of: "
                f"auto, {', '.join(allowed)}"
            )
