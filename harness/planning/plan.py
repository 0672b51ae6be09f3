"""Suite and command line → a checked plan: everything that can be found wrong is found here.

Nothing is written and no model is loaded while a plan is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ...errors import InputError
from ...finetune.backends import choose
from ...finetune.recipe import HUB, Recipe, load_recipe
from ...finetune.watch import check_installed
from ...tasks import catalog, datasets, sources
from ...tasks.catalog import Task
from ...tasks.templates import Prompt
from ..folder import fingerprint
from ..models import backends
from ..models.backends import Backend
from ..naming import MARK
from ..suite import EMBEDDED, ModelSpec, Suite, select, with_exports
from . import weights


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

    def whole(self, model: str) -> str:
        """*model* itself, or for an export the model that it was made from."""
        return self.spec(model).of or model

    def base_of(self, model: str) -> str:
        """The name of the base that *model* stands on; its own when it is a base."""
        return self.spec(self.whole(model)).base or self.whole(model)

    def reference(self, model: str) -> str | None:
        """What *model* is compared with: the base of a tuned one, what an export was made from."""
        return self.spec(model).of or self.spec(model).base

    def backend(self, model: str) -> Backend:
        """What *model* runs on."""
        return backends.find(self.spec(self.base_of(model)).backend)

    def prompt(self, model: str) -> Prompt:
        """What stands around a task's words for *model*; a chat back end has its chat template."""
        prompt = self.suite.prompt
        return prompt.model_copy(update={"chat_template": True}) if self.chats(model) else prompt

    def put(self, task: Task, model: str) -> Task:
        """*task* with a protocol that says how *model* is asked."""
        return Prompt(chat_template=True).on(task) if self.chats(model) else task

    def chats(self, model: str) -> bool:
        """Whether *model* has a chat template around its questions though the suite asks none."""
        return self.backend(model).chat and not self.suite.prompt.chat_template

    def judged(self) -> list[Task]:
        """The tasks whose answers a judge reads."""
        judge = self.suite.judge
        if judge is None:
            return []
        if judge.tasks is not None:
            return [task for task in self.tasks if task.name in judge.tasks]
        return [task for task in self.tasks if task.generates and not task.shows_options]

    def timed(self) -> list[str]:
        """The models whose latency is measured."""
        latency = self.suite.latency
        return [name for name in latency.models if name in self.models] if latency else []

    def exports(self) -> dict[str, list[str]]:
        """The ONNX formats of each model that is exported, to be timed or scored."""
        found = {name: self.formats() for name in self.timed()}
        for name in self.models:
            spec = self.spec(name)
            if spec.of and spec.onnx:
                formats = found.setdefault(spec.of, [])
                found[spec.of] = list(dict.fromkeys([*formats, spec.onnx]))
        return found

    def formats(self) -> list[str]:
        """ONNX formats to time, ``auto`` and ``all`` resolved; none where ONNX is not timed."""
        from ..export import PAIRS

        latency = self.suite.latency
        if latency is None or "onnxruntime" not in latency.engines:
            return []
        every = PAIRS[self.device]
        meant = {"auto": every[:1], "all": every}
        chosen = [one for name in latency.formats for one in meant.get(name, (name,))]
        return list(dict.fromkeys(chosen))


def make_plan(
    suite: Suite,
    *,
    models: str | None,
    tasks: str | None,
    device: str,
    command: str,
    weightless: bool = False,
) -> Plan:
    """Choose from *suite* and check that everything it names is there.

    Args:
        models: Comma-separated names out of the suite; all when None.
        tasks: The same for tasks.
        device: ``cpu`` or ``cuda``.
        weightless: Nothing will be loaded, so that weights need not be there.

    Raises:
        InputError: A name, file, task, recipe or format that is unknown or missing.
    """
    suite = with_exports(suite, models)
    chosen = select(models, list(suite.models), "--models")
    every = catalog.expand(suite.tasks, suite.question_files)
    names = dict.fromkeys([*suite.tasks, *(task.name for task in every)])
    wanted = suite.tasks if tasks is None else select(tasks, list(names), "--tasks")
    found = [suite.prompt.on(task) for task in catalog.expand(wanted, suite.question_files)]
    recipes: dict[str, Recipe] = {}
    for name in chosen:
        spec = suite.models[name]
        _check_model(suite, name, weightless=weightless)
        if spec.adapter and spec.adapter.recipe:
            recipe = load_recipe(spec.adapter.recipe)
            data = recipe.data
            if test := sources.which_test(data.source, data.config, data.split):
                raise InputError(
                    f"recipe {recipe.name!r}, data.source: {data.source} is a test set ({test}); "
                    f"expected clinic, a file, or one of: {', '.join(sources.tunable())}"
                )
            seed = recipe.seed if suite.seed is None else suite.seed
            recipes[name] = recipe.model_copy(update={"seed": seed})
        elif spec.adapter:
            weights.check_adapter(f"models.{name}.adapter.path", Path(spec.adapter.path or ""))
    plan = Plan(suite, chosen, found, recipes, device, command)
    _check_protocols(plan)
    _check_judge(plan)
    _check_formats(plan)
    _check_exports(plan)
    _check_questions(plan)
    for name, recipe in recipes.items():
        _check_recipe(plan, name, recipe)
    return plan


def _check_recipe(plan: Plan, name: str, recipe: Recipe) -> None:
    """Check what *recipe* needs beside its base: data, trackers, and that it can be merged."""
    source = recipe.data.source
    if source in sources.SOURCES:
        sources.local_file(source)
    elif source != "clinic" and not source.startswith(HUB) and not Path(source).is_file():
        raise InputError(
            f"recipe {recipe.name!r}, data.source: {source!r}: no such file or source; expected a "
            f"path, hub:OWNER/NAME, clinic, or one of: {', '.join(sources.tunable())}"
        )
    check_installed(recipe.name, recipe.watch)
    choose(recipe, plan.device)
    if recipe.adapter.kind == "prefix" and name in plan.exports():
        raise InputError(
            f"{'latency.models' if name in plan.timed() else '--models'}: {name} is tuned by a "
            f"prefix (recipe {recipe.name!r}), which cannot be merged into the weights, so it is "
            "neither exported nor timed; leave it out, or --set latency=null"
        )


def identity(spec: ModelSpec) -> str:
    """What a base model is, as a hash: its settings, and its files where they are local.

    Of an endpoint the settings are all that can be known.
    """
    folder = Path(spec.source) if spec.pretrained else None
    files = fingerprint.of_path(folder) if folder and folder.is_dir() else ""
    return fingerprint.of([spec.model_dump(), files])


def _check_model(suite: Suite, name: str, *, weightless: bool) -> None:
    """Check the back end of model *name* and, where medbench loads its weights, those."""
    if suite.models[name].of:
        return  # the model that it was made from is looked at
    spec = suite.models[suite.models[name].base or name]
    backend = backends.find(spec.backend)
    backends.check_ready(f"models.{name}", spec)
    if suite.models[name].base and not backend.lora:
        raise InputError(
            f"models.{name}: back end {backend.name} of its base takes no adapter; serve or export "
            "the tuned model, and name it as a model of its own"
        )
    if not (backend.remote or weightless):
        _check_weights(f"models.{name}", spec)


def _check_protocols(plan: Plan) -> None:
    """Check that each model can be asked each task, and timed where it is to be."""
    for name in plan.models:
        backend = plan.backend(name)
        for task in plan.tasks:
            if not backend.can(task.generates):
                others = [t for t in catalog.tasks().values() if backend.can(t.generates)]
                alike = [t for t in others if t.data == task.data] or others
                lacks = "no text" if task.generates else "no log-likelihoods"
                raise InputError(
                    f"task {task.name}, model {name}: back end {backend.name} gives {lacks}, by "
                    f"which this task is scored; on it work {', '.join(t.name for t in alike)}. "
                    "Choose with --models and --tasks, or run it by another back end"
                )
            if backend.chat and (beginning := plan.prompt(name).beginning(task)):
                raise InputError(
                    f"task {task.name}, model {name}: back end {backend.name} takes messages, so "
                    f"that the model's turn cannot begin with {beginning!r}; leave out prompt.think"
                )
    for name in plan.exports():
        if not plan.backend(name).torch:
            where = "latency.models" if name in plan.timed() else "models"
            raise InputError(
                f"{where}: {name} runs on back end {plan.backend(name).name}; what is "
                "exported to ONNX and timed are checkpoints of backend medbench or hf"
            )


def _check_questions(plan: Plan) -> None:
    """Read the questions that lie in local files; those of the Hub are read when they are asked."""
    for data in dict.fromkeys(task.data for task in plan.tasks if task.data in sources.SOURCES):
        if sources.local_file(data) and sources.SOURCES[data].form:
            datasets.questions(data)
            if plan.suite.prompt.shots:
                sources.shots(data, plan.suite.prompt.shots)


def _check_judge(plan: Plan) -> None:
    judge = plan.suite.judge
    if judge is None:
        return
    backends.check_ready("judge.model", judge.model)
    if judge.kind == "verifier":
        _check_weights("judge.model", judge.model)
    every = [task.name for task in catalog.expand(plan.suite.tasks, plan.suite.question_files)]
    for name in judge.tasks or []:
        if name not in every:
            raise InputError(
                f"judge.tasks: {name!r} is not in this suite; expected some of: {', '.join(every)}"
            )
    for task in plan.judged():
        if not task.generates:
            raise InputError(
                f"judge.tasks: {task.name} is scored by log-likelihood and has no answers to "
                "judge; expected tasks whose answers are generated"
            )


def _check_weights(where: str, spec: ModelSpec) -> None:
    source = Path(spec.source)
    if spec.source.startswith("embedded:"):
        raise InputError(
            f"{where}: {spec.source!r} is not embedded; expected {', '.join(EMBEDDED)}"
        )
    local = spec.source.startswith((".", "/", "~")) or source.is_dir()
    if backends.find(spec.backend).name.startswith("onnxruntime"):
        if not source.exists():
            raise InputError(
                f"{where}: {spec.pretrained}: no such file; expected a folder that the ONNX Model "
                "Builder wrote, e.g. exports/… of a run folder"
            )
    elif local and not (source / "config.json").is_file():
        raise InputError(
            f"{where}: {spec.pretrained}/config.json: no such file; expected a Hub id, "
            f"{', '.join(EMBEDDED)}, or the folder of a transformers checkpoint"
        )
    elif local:
        weights.check_model(where, source, trusted=spec.trust_remote_code)


def _check_formats(plan: Plan) -> None:
    from ..export import PAIRS
    from ..latency.machine import check_settings

    if plan.suite.latency and plan.timed():
        check_settings(plan.suite.latency, plan.device)

    allowed = PAIRS[plan.device]
    for name in plan.formats():
        if plan.timed() and name not in allowed:
            raise InputError(
                f"latency.formats: {name} does not run on {plan.device}; expected some of: "
                f"auto, all, {', '.join(allowed)}"
            )


def _check_exports(plan: Plan) -> None:
    """Check the exports that are scored: their format, and the model they are compared with."""
    from ..export import PAIRS

    allowed = PAIRS[plan.device]
    for name in plan.models:
        spec = plan.spec(name)
        if spec.of and spec.onnx not in allowed:
            raise InputError(
                f"models: {name} does not run on {plan.device}; expected {spec.of}{MARK} and one "
                f"of: {', '.join(allowed)}"
            )
        if spec.of and spec.of not in plan.models:
            raise InputError(
                f"--models: {name} is compared with {spec.of}, which it is exported from; name "
                f"both: --models {spec.of},{name}"
            )
