"""Suite and command line → a checked plan: everything that can be found wrong is found here.

Nothing is written and no model is loaded while a plan is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..errors import InputError
from ..finetune.backends import choose
from ..finetune.recipe import Recipe, load_recipe
from ..finetune.watch import check_installed
from ..tasks import catalog, datasets, sources, templates
from ..tasks.catalog import Task
from ..tasks.templates import Prompt
from . import backends, fingerprint
from .backends import Backend
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

    def backend(self, model: str) -> Backend:
        """What *model* runs on."""
        return backends.find(self.spec(self.base_of(model)).backend)

    def prompt(self, model: str) -> Prompt:
        """What stands around a task's words for *model*; a chat back end has its chat template."""
        prompt = self.suite.prompt
        return prompt.model_copy(update={"chat_template": True}) if self._chats(model) else prompt

    def put(self, task: Task, model: str) -> Task:
        """*task* with a protocol that says how *model* is asked."""
        return Prompt(chat_template=True).on(task) if self._chats(model) else task

    def _chats(self, model: str) -> bool:
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
        for name in self.models:
            if self.backend(name).remote:
                found.append(
                    f"{name} is what {_server(self.spec(name))} answered with at the time. The "
                    "weights behind a URL cannot be hashed: nobody can tell from this run whether "
                    "they have changed since."
                )
        chats = [name for name in self.models if self._chats(name)]
        if chats and len(chats) < len(self.models):
            found.append(
                f"{', '.join(chats)} can only be asked through a chat template, and the other "
                "models were asked without one. A difference between them may be the template's; "
                "prompt.chat_template: true asks all of them alike."
            )
        if self.suite.limit:
            found.append(f"Only the first {self.suite.limit} questions of each task were asked.")
        if real and (folder := sources.data_dir()):
            published = [task.data for task in self.tasks if task.data in sources.SOURCES]
            if published:
                names = ", ".join(dict.fromkeys(published))
                found.append(
                    f"Rows of {names} were read from local files ({folder.name}/) instead of the "
                    "Hub."
                )
        for name, recipe in self.recipes.items():
            chat = recipe.format == "chat"
            column = recipe.data.question
            tuned = templates.tuning_frame(recipe.prompt, recipe.completion, column, chat)
            found += templates.warnings(name, tuned, self.tasks, self.suite.prompt)
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
    every = catalog.expand(suite.tasks, suite.question_files)
    names = dict.fromkeys([*suite.tasks, *(task.name for task in every)])
    wanted = suite.tasks if tasks is None else select(tasks, list(names), "--tasks")
    found = [suite.prompt.on(task) for task in catalog.expand(wanted, suite.question_files)]
    recipes: dict[str, Recipe] = {}
    for name in chosen:
        spec = suite.models[name]
        _check_model(suite, name)
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
    _check_protocols(plan)
    _check_judge(plan)
    _check_formats(plan)
    _check_questions(plan)
    for name, recipe in recipes.items():
        _check_recipe(plan, name, recipe)
    return plan


def _check_recipe(plan: Plan, name: str, recipe: Recipe) -> None:
    """Check what *recipe* needs beside its base: data, trackers, and that it can be merged."""
    source = recipe.data.source
    if source in sources.SOURCES:
        sources.local_file(source)
    elif source != "clinic" and not source.startswith("hub:") and not Path(source).is_file():
        raise InputError(
            f"recipe {recipe.name!r}, data.source: {source!r}: no such file or source; expected a "
            f"path, hub:OWNER/NAME, clinic, or one of: {', '.join(sources.tunable())}"
        )
    check_installed(recipe.name, recipe.watch)
    choose(recipe, plan.device)
    if recipe.adapter.kind == "prefix" and name in plan.timed():
        raise InputError(
            f"latency.models: {name} is tuned by a prefix (recipe {recipe.name!r}), which cannot "
            "be merged into the weights, so it is neither exported nor timed; leave it out, or "
            "--set latency=null"
        )


def identity(spec: ModelSpec) -> str:
    """What a base model is, as a hash: its settings, and its files where they are local.

    Of an endpoint the settings are all that can be known.
    """
    folder = Path(spec.source) if spec.pretrained else None
    files = fingerprint.of_path(folder) if folder and folder.is_dir() else ""
    return fingerprint.of([spec.model_dump(), files])


def _server(spec: ModelSpec) -> str:
    url = spec.args.get("base_url")
    return f"{spec.args['model']!r} at {urlsplit(url).netloc if url else spec.backend}"


def _check_model(suite: Suite, name: str) -> None:
    """Check the back end of model *name* and, where medbench loads its weights, those."""
    spec = suite.models[suite.models[name].base or name]
    backend = backends.find(spec.backend)
    backends.check_ready(f"models.{name}", spec)
    if suite.models[name].base and not backend.lora:
        raise InputError(
            f"models.{name}: back end {backend.name} of its base takes no adapter; serve or export "
            "the tuned model, and name it as a model of its own"
        )
    if not backend.remote:
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
    for name in plan.timed():
        if not plan.backend(name).torch:
            raise InputError(
                f"latency.models: {name} runs on back end {plan.backend(name).name}; what is "
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


def _check_formats(plan: Plan) -> None:
    from .export import PAIRS

    allowed = PAIRS[plan.device]
    for name in plan.formats():
        if plan.timed() and name not in allowed:
            raise InputError(
                f"latency.formats: {name} does not run on {plan.device}; expected some of: "
                f"auto, {', '.join(allowed)}"
            )
