"""What stages a plan has, what each leaves and needs, and which of them share a worker: pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from .planning.plan import Plan
from .ranks import sharded
from .results import judgements_part, samples_part, timings_part
from .suite import ModelSpec

OWN_KINDS = ("score", "judge")
"""Kinds of which one model's stages are done by one worker, so that weights are loaded once."""

PARALLEL = ("tensor_parallel_size", "pipeline_parallel_size", "tp_size", "dp_size")
"""Arguments of vLLM and SGLang whose product is the number of GPUs that they take."""


@dataclass(frozen=True)
class Node:
    """One unit of work that is done or not done.

    Attributes:
        kind: overlap, tune, score, judge, merge, export or latency.
        model: Whose; empty for ``overlap``.
        part: The task or the ONNX format, where there is one.
        outputs: What it leaves in the run folder, relative to it.
        needs: Names of the stages whose outputs it reads.
        shared: All processes of ``accelerate launch`` do it together; else the first does it alone.
        gpus: How many it takes, on a machine that has some.
        scratch: What it needs until it is known to be done, relative to the run folder.
    """

    kind: str
    model: str = ""
    part: str = ""
    outputs: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    shared: bool = False
    gpus: int = 0
    scratch: str | None = None

    @property
    def name(self) -> str:
        """Its key in the manifest."""
        return "/".join(filter(None, (self.kind, self.model, self.part)))


@dataclass(frozen=True)
class Unit:
    """Stages that one worker does one after another.

    Attributes:
        name: The stage's, or what the names of several begin with.
        nodes: In order; all take the same number of GPUs.
        needs: Names of the stages of other units that must be done before.
    """

    name: str
    nodes: tuple[Node, ...]
    needs: frozenset[str]

    @property
    def gpus(self) -> int:
        return max(node.gpus for node in self.nodes)

    @property
    def alone(self) -> bool:
        """Whether nothing else may run meanwhile, for it takes time."""
        return self.nodes[0].kind == "latency"


def export_folder(model: str, kind: str) -> str:
    """Where the export of *model* to ONNX format *kind* lies in the run folder."""
    return f"exports/{model}-{kind}"


def nodes(plan: Plan) -> list[Node]:
    """All stages of *plan*, each after those that it needs."""
    overlap = Node("overlap", outputs=("overlap.json",))
    found = [overlap] if plan.recipes or len(plan.tasks) > 1 else []
    found += [_tune(plan, name) for name in plan.recipes]
    whole = [name for name in plan.models if plan.whole(name) == name]
    found += _scores(plan, whole)
    for name, formats in plan.exports().items():
        found += [_merge(plan, name)] if plan.spec(name).base else []
        found += [_export(plan, name, kind) for kind in formats]
    found += _scores(plan, [name for name in plan.models if name not in whole])
    return found + [_latency(plan, name) for name in plan.timed()]


def units(stages: Iterable[Node]) -> list[Unit]:
    """*stages* as what one worker each does, in the order of their first stages."""
    grouped: dict[str, list[Node]] = {}
    for node in stages:
        own = node.kind in OWN_KINDS
        grouped.setdefault(f"{node.kind}/{node.model}" if own else node.name, []).append(node)
    return [
        Unit(
            name,
            tuple(members),
            frozenset(need for node in members for need in node.needs)
            - {node.name for node in members},
        )
        for name, members in grouped.items()
    ]


def _tune(plan: Plan, name: str) -> Node:
    return Node(
        "tune",
        name,
        outputs=(f"adapters/{name}",),
        needs=("overlap",),
        shared=True,
        gpus=_gpus(plan, 1),
    )


def _scores(plan: Plan, names: list[str]) -> list[Node]:
    asked = [_score(plan, name, task.name) for name in names for task in plan.tasks]
    return asked + [_judge(plan, name, task.name) for name in names for task in plan.judged()]


def _score(plan: Plan, name: str, task: str) -> Node:
    spec, backend = plan.spec(name), plan.backend(name)
    if spec.of and spec.onnx:
        needs: tuple[str, ...] = (f"export/{spec.of}/{spec.onnx}",)
    else:
        needs = (f"tune/{name}",) if name in plan.recipes else ()
    return Node(
        "score",
        name,
        task,
        outputs=(samples_part(name, task),),
        scratch=f"parts/answers/{name}/{task}",
        needs=needs,
        shared=backend.name == "medbench" and not spec.of and not sharded(),
        gpus=_gpus(plan, 0 if backend.remote else _spread(plan.spec(plan.base_of(name)))),
    )


def _judge(plan: Plan, name: str, task: str) -> Node:
    judge = plan.suite.judge
    local = judge is not None and judge.kind == "verifier"
    return Node(
        "judge",
        name,
        task,
        outputs=(judgements_part(name, task),),
        scratch=f"parts/opinions/{name}/{task}",
        needs=(f"score/{name}/{task}",),
        gpus=_gpus(plan, 1) if local else 0,
    )


def _merge(plan: Plan, name: str) -> Node:
    needs = (f"tune/{name}",) if name in plan.recipes else ()
    return Node("merge", name, outputs=(f"merged/{name}",), needs=needs)  # done on the CPU


def _export(plan: Plan, name: str, kind: str) -> Node:
    return Node(
        "export",
        name,
        kind,
        outputs=(export_folder(name, kind),),
        needs=_prompts_and_weights(plan, name),
        gpus=_gpus(plan, 1),
    )


def _latency(plan: Plan, name: str) -> Node:
    exports = tuple(f"export/{name}/{kind}" for kind in plan.formats())
    return Node(
        "latency",
        name,
        outputs=(timings_part(name),),
        needs=_prompts_and_weights(plan, name) + exports,
        gpus=_gpus(plan, 1),
    )


def _prompts_and_weights(plan: Plan, name: str) -> tuple[str, ...]:
    """The stages that leave the prompts of model *name* and, of a tuned one, its own weights."""
    merged = (f"merge/{name}",) if plan.spec(name).base else ()
    return merged + tuple(f"score/{name}/{task.name}" for task in plan.tasks)


def _gpus(plan: Plan, count: int) -> int:
    return count if plan.device == "cuda" else 0


def _spread(spec: ModelSpec) -> int:
    """Over how many GPUs the back end of *spec* spreads the model by itself."""
    count = 1
    for key in PARALLEL:
        given = spec.args.get(key, 1)
        count *= given if isinstance(given, int) and given > 0 else 1
    return count
