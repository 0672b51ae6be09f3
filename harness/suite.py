"""Suite: what to run. Read from YAML, validated once, never changed afterwards.

Built-in suites lie in harness/suites/; any other is named by its path.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from ..errors import InputError
from ..tasks.own import QuestionFile
from ..tasks.templates import Prompt
from .config import Section, explain, read_yaml
from .executors.settings import Name as Executor
from .executors.settings import RaySection
from .gate.rules import GateRules
from .latency import LatencySettings
from .models import backends
from .naming import MARK, Format, ModelName, Name, exported

SUITES = Path(__file__).parent / "suites"
EMBEDDED = {"embedded:clinic": Path(__file__).parents[1] / "tasks" / "clinic" / "checkpoint"}
"""Checkpoints that ship with the package, by the name a suite gives them."""


class AdapterSpec(Section):
    """Where an adapter comes from: a recipe to train it by, or a folder that holds one."""

    recipe: str | None = None
    path: str | None = None

    @model_validator(mode="after")
    def _one_origin(self) -> AdapterSpec:
        if (self.recipe is None) == (self.path is None):
            raise ValueError(
                "expected exactly one of 'recipe' (a name or a YAML file) and 'path' (a folder)"
            )
        return self


class ModelSpec(Section):
    """A base model (weights or an endpoint), a tuned one (``base`` and ``adapter``), or an export.

    An export is the key ``MODEL@onnx-FORMAT`` of a suite and nothing else; ``of`` and ``onnx`` are
    read from it.

    Attributes:
        backend: What runs it: ``medbench``, or an lm-eval back end (models/backends.py).
        args: What lm-eval's class for that back end gets besides; never a key.
        key_env: The environment variable that holds an endpoint's key; OPENAI_API_KEY when None.
        of: The model that was exported.
        onnx: The format of its export.
    """

    backend: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")] = "medbench"
    args: dict[str, Any] = {}
    key_env: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] | None = None
    pretrained: str | None = None
    revision: str | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantization: Literal["none", "nf4", "int8"] = "none"
    trust_remote_code: bool = False
    base: str | None = None
    adapter: AdapterSpec | None = None
    of: str | None = None
    onnx: Format | None = None

    @model_validator(mode="after")
    def _base_or_tuned(self) -> ModelSpec:
        if self.of is not None or self.onnx is not None:
            if self.of is None or self.onnx is None or self.model_fields_set - {"of", "onnx"}:
                raise ValueError(f"an export is named MODEL{MARK}FORMAT and has no other keys")
        elif self.base is None:
            remote = backends.find(self.backend).remote
            if (self.pretrained is None and not remote) or self.adapter is not None:
                raise ValueError(
                    "expected either 'pretrained' (a base model) or both 'base' and 'adapter' "
                    "(a tuned model)"
                )
            backends.check_spec(self)
        else:
            extra = self.model_fields_set - {"base", "adapter"}
            if self.adapter is None or extra:
                raise ValueError(
                    "a tuned model has 'base' and 'adapter' and nothing else; "
                    "everything about the weights stands with its base"
                )
        return self

    @property
    def source(self) -> str:
        """What ``from_pretrained`` gets: a Hub id or a local path."""
        assert self.pretrained is not None, "only a base model with weights has one"  # noqa: S101
        return str(EMBEDDED.get(self.pretrained, self.pretrained))


class JudgeSection(Section):
    """Who judges open answers, beside exact match.

    Attributes:
        kind: ``verifier``, a sequence classifier that compares an answer with the reference, or
            ``endpoint``, a chat model that is asked for a verdict.
        model: That model: ``pretrained`` of a verifier, ``backend`` and ``args`` of an endpoint.
        tasks: Which tasks it judges; every generated one that shows no options when None.
    """

    kind: Literal["verifier", "endpoint"]
    model: ModelSpec
    tasks: list[str] | None = None

    @model_validator(mode="after")
    def _model_of_kind(self) -> JudgeSection:
        chat = backends.find(self.model.backend).chat
        if self.kind == "endpoint" and not chat:
            raise ValueError(
                "an endpoint judge needs a chat back end, e.g. model: "
                "{backend: local-chat-completions, args: {model: …, base_url: …}}"
            )
        if self.kind == "verifier" and (
            self.model.model_fields_set - {"pretrained", "revision", "dtype", "trust_remote_code"}
        ):
            raise ValueError(
                "a verifier has 'pretrained' and, if need be, 'revision', 'dtype' and "
                "'trust_remote_code'"
            )
        return self


class LatencySection(LatencySettings):
    """Which models are exported and timed, in which ONNX formats, by which protocol."""

    models: list[str]
    formats: list[Literal["auto", "all"] | Format] = ["auto"]
    """``auto`` is fp32 on a CPU and fp16 on a GPU; ``all`` is every one that works there."""


class ReportSection(Section):
    """What the reports show."""

    title: str | None = None
    samples: Annotated[int, Field(ge=0, le=1000)] = 8


class Suite(Section):
    """One evaluation plan: models, tasks, latency, report.

    Attributes:
        seed: Of every recipe in the suite; each recipe's own when None.
        limit: Take the first so many questions of each task; all when None.
        batch_size: Prompts per forward pass while generating; log-likelihoods find their own.
        orders: Under how many cyclic shifts of its options each question is asked; ``all`` of them
            or so many. 1 is the order as published.
        question_files: Your own files of questions, each a task by the name it has here.
        prompt: What stands around each task's own words.
        executor: Who does the stages: this process, or workers that Ray places.
    """

    name: Name
    description: str = ""
    models: dict[ModelName, ModelSpec] = Field(min_length=1)
    tasks: list[str] = Field(min_length=1)
    question_files: dict[Name, QuestionFile] = {}
    prompt: Prompt = Prompt()
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    limit: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 16
    orders: Annotated[int, Field(ge=1)] | Literal["all"] = 1
    latency: LatencySection | None = None
    judge: JudgeSection | None = None
    report: ReportSection = ReportSection()
    gate: GateRules | None = None
    executor: Executor = "local"
    ray: RaySection = RaySection()

    @model_validator(mode="before")
    @classmethod
    def _name_exports(cls, raw: Any) -> Any:
        """Fill in what the name of an export says."""
        if not isinstance(raw, dict) or not isinstance(raw.get("models"), dict):
            return raw
        models = {
            name: {**(spec or {}), **named}
            if (named := exported(name)) and isinstance(spec, dict | None)
            else spec
            for name, spec in raw["models"].items()
        }
        return raw | {"models": models}

    @model_validator(mode="after")
    def _references(self) -> Suite:
        whole = [name for name, spec in self.models.items() if spec.of is None]
        bases = [name for name in whole if self.models[name].base is None]
        for name, spec in self.models.items():
            if spec.of is not None and spec.of not in whole:
                raise ValueError(
                    f"models.{name}: {spec.of!r} is not in this suite; expected an export of one "
                    f"of: {', '.join(whole)}"
                )
            if exported(name) != (spec.of and {"of": spec.of, "onnx": spec.onnx}):
                raise ValueError(f"models.{name}: only an export is named MODEL{MARK}FORMAT")
            if spec.base is not None and spec.base not in bases:
                raise ValueError(
                    f"models.{name}.base: {spec.base!r} is not a base model of this suite; "
                    f"expected one of: {', '.join(bases) or 'none is defined'}"
                )
        for name in self.latency.models if self.latency else []:
            if name not in whole:
                raise ValueError(
                    f"latency.models: {name!r} is not in this suite; "
                    f"expected some of: {', '.join(whole)} (and formats under latency.formats)"
                )
        if len(set(self.tasks)) != len(self.tasks):
            raise ValueError("tasks: a task is named twice; name each once")
        return self


def builtin_suites() -> list[str]:
    return sorted(path.stem for path in SUITES.glob("*.yaml"))


def load_suite(name_or_path: str, overrides: list[str] | None = None) -> Suite:
    """Read a suite and apply ``key.sub=value`` overrides to it.

    Args:
        name_or_path: A built-in name (``quickstart``) or the path of a YAML file.
        overrides: Dotted keys with YAML values, e.g. ``models.base.pretrained=./my-model``.

    Raises:
        InputError: No such suite, broken YAML, an unknown key, or a value that does not fit.
    """
    path = SUITES / f"{name_or_path}.yaml"
    if not path.is_file():
        path = Path(name_or_path)
        if not path.is_file():
            raise InputError(
                f"--suite {name_or_path}: no built-in suite and no file of that name; "
                f"built-in are: {', '.join(builtin_suites())}"
            )
    raw = read_yaml(path)
    for override in overrides or []:
        _apply(raw, override)
    try:
        return Suite.model_validate(raw)
    except ValidationError as error:
        raise InputError(explain(path, error, Suite)) from None


def with_exports(suite: Suite, chosen: str | None) -> Suite:
    """*suite* with those exports among its models that ``--models`` *chosen* names.

    Raises:
        InputError: A format is unknown.
    """
    models = dict(suite.models)
    for name in (chosen or "").split(","):
        found = exported(name.strip())
        if not found or name.strip() in models or found["of"] not in models:
            continue
        if found["onnx"] not in get_args(Format):
            raise InputError(
                f"--models {chosen}: {found['onnx']!r} is no format; expected "
                f"{found['of']}{MARK} and one of: {', '.join(get_args(Format))}"
            )
        models[name.strip()] = ModelSpec.model_validate(found)
    return suite.model_copy(update={"models": models})


def select(chosen: str | None, allowed: list[str], flag: str) -> list[str]:
    """The comma-separated *chosen* out of *allowed*, in the order given; all when None.

    Raises:
        InputError: A name is empty, unknown or given twice.
    """
    if chosen is None:
        return allowed
    names = [name.strip() for name in chosen.split(",")]
    for name in names:
        if name not in allowed:
            raise InputError(
                f"{flag} {chosen}: {name!r} is not in the suite; expected some of: "
                f"{', '.join(allowed)}"
            )
    if len(set(names)) != len(names):
        raise InputError(f"{flag} {chosen}: a name stands twice; name each once")
    return names


def _apply(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise InputError(
            f"--set {override}: expected KEY=VALUE with a dotted key, "
            "e.g. --set models.base.pretrained=./my-model"
        )
    node = raw
    for part in parts[:-1]:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise InputError(f"--set {override}: {part!r} is a value, not a section")
        node = child
    try:
        node[parts[-1]] = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        raise InputError(f"--set {override}: the value is not valid YAML; quote it") from None
