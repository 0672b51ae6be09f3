"""The stages of a plan: what each depends on, what it leaves, and how it is done.

Heavy libraries are imported where a stage's work begins, so that a run that has nothing to do loads
none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import StageError
from ..tasks.catalog import Task
from . import fingerprint
from .plan import Plan, identity
from .progress import Tick
from .results import samples_part, timings_part
from .store import RunFolder

PARITY_FP32 = 1e-3
"""Largest relative logit difference that float32 rounding explains; measured exports show 1e-5."""


@dataclass(frozen=True)
class Stage:
    """One unit of work that is done or not done.

    Attributes:
        name: Its key in the manifest.
        fingerprint: Hash of everything its outcome depends on.
        outputs: What it leaves in the run folder, relative to it.
        work: Does it, and returns what the manifest keeps of it.
    """

    name: str
    fingerprint: str
    outputs: list[str]
    work: Callable[[Tick], dict[str, Any]]


class Pipeline:
    """The stages of one plan over one run folder, and the models they share."""

    def __init__(self, plan: Plan, run: RunFolder) -> None:
        from .environment import versions
        from .models import ScoringPool

        self._versions = versions()
        self._plan = plan
        self._run = run
        self._adapters = {name: self._adapter(name) for name in plan.models if plan.spec(name).base}
        self._pool = ScoringPool(plan.suite.models, self._adapters, plan.device)
        self._identity = {
            name: identity(plan.spec(name)) for name in {plan.base_of(m) for m in plan.models}
        }

    def close(self) -> None:
        self._pool.close()

    def stages(self) -> list[Stage]:
        """All stages in the order they run."""
        plan = self._plan
        stages = [self._tune(name) for name in plan.recipes]
        stages += [self._score(name, task) for name in plan.models for task in plan.tasks]
        for name in plan.timed():
            if plan.spec(name).base:
                stages.append(self._merge(name))
            stages += [self._export(name, kind) for kind in plan.formats()]
            stages.append(self._latency(name))
        return stages

    def _adapter(self, name: str) -> Path:
        adapter = self._plan.spec(name).adapter
        return Path(adapter.path) if adapter and adapter.path else self._run / f"adapters/{name}"

    def _weights(self, name: str) -> str:
        """Hash of what model *name* is made of."""
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
            ]
        elif name in self._adapters:
            parts.append(fingerprint.of_path(self._adapters[name]))
        return fingerprint.of(parts)

    def _data(self, source: str) -> str:
        """Hash of what a data source is: the code that makes or reads it, and its local file."""
        from ..tasks import sources

        if source in sources.SOURCES:
            local = sources.local_file(source)
        else:
            local = Path(source) if Path(source).is_file() else None
        return fingerprint.of_code("tasks") + (fingerprint.of_path(local) if local else "")

    def _tune(self, name: str) -> Stage:
        plan, recipe = self._plan, self._plan.recipes[name]

        def work(tick: Tick) -> dict[str, Any]:
            from ..finetune.train import tune

            base = plan.spec(plan.base_of(name))
            return tune(base, recipe, self._adapters[name], device=plan.device, tick=tick)

        return Stage(f"tune/{name}", self._weights(name), [f"adapters/{name}"], work)

    def _score(self, name: str, task: Task) -> Stage:
        suite = self._plan.suite
        part = samples_part(name, task.name)

        def work(tick: Tick) -> dict[str, Any]:
            from .evaluate import Asking, score

            asking = Asking(suite.limit, suite.orders, suite.batch_size)
            with self._pool.use(name) as (model, tokenizer):
                samples = score(name, model, tokenizer, task, asking, tick)
            self._run.write_table(part, samples)
            return {
                "n": len(samples),
                "value": samples["score"].sum() / samples["weight"].sum(),
                "adapter_change": self._pool.changes.get(name),
            }

        depends = [
            self._weights(name),
            fingerprint.of_code("harness"),
            fingerprint.of_path(task.spec),
            self._data(task.data),
            [suite.limit, suite.orders, suite.batch_size],
        ]
        return Stage(f"score/{name}/{task.name}", fingerprint.of(depends), [part], work)

    def _merge(self, name: str) -> Stage:
        plan = self._plan
        base = plan.spec(plan.base_of(name))

        def work(tick: Tick) -> dict[str, Any]:
            from ..finetune.merge import merge_adapter

            self._pool.close()
            merge_adapter(
                base.source,
                self._adapters[name],
                self._run / f"merged/{name}",
                dtype="float32" if plan.device == "cpu" else "auto",
                revision=base.revision,
                trust_remote_code=base.trust_remote_code,
            )
            return {}

        return Stage(f"merge/{name}", self._weights(name), [f"merged/{name}"], work)

    def _checkpoint(self, name: str) -> Path:
        """The folder of model *name* in full precision, without an adapter beside it."""
        if name in self._adapters:
            return self._run / f"merged/{name}"
        spec = self._plan.spec(name)
        if Path(spec.source).is_dir():
            return Path(spec.source)
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(spec.source, revision=spec.revision))

    def _export(self, name: str, kind: str) -> Stage:
        out = f"exports/{name}-{kind}"

        def work(tick: Tick) -> dict[str, Any]:
            from .export import check_parity, export_onnx

            self._pool.close()
            checkpoint = self._checkpoint(name)
            info = export_onnx(
                checkpoint, self._run / out, precision=kind, provider=self._plan.device
            )
            prompts = self._tokens(checkpoint)
            parity = check_parity(checkpoint, info.path, prompts, device=self._plan.device)
            if kind == "fp32" and parity.max_rel > PARITY_FP32:
                raise StageError(
                    f"export of {name} to fp32 differs from torch by {parity.max_rel:.2g} of the "
                    f"largest logit (at most {PARITY_FP32:g} is rounding); do not deploy it, and "
                    "report the architecture"
                )
            return {
                "seconds": info.seconds,
                "bytes": info.bytes,
                "precision": info.precision,
                "provider": info.provider,
                "builder": info.builder,
                "parity": vars(parity),
            }

        return Stage(
            f"export/{name}/{kind}",
            fingerprint.of([self._weights(name), kind]),
            [out],
            work,
        )

    def _latency(self, name: str) -> Stage:
        plan = self._plan
        latency = plan.suite.latency
        part = timings_part(name)

        def work(tick: Tick) -> dict[str, Any]:
            from .latency import LatencyJob, LatencySettings, measure

            assert latency is not None  # noqa: S101  (a stage of a suite with latency)
            settings = LatencySettings.model_validate(
                latency.model_dump(include=set(LatencySettings.model_fields))
            )
            job = LatencyJob(
                model=name,
                model_dir=self._checkpoint(name),
                onnx={kind: self._run / f"exports/{name}-{kind}" for kind in plan.formats()},
                prompts=self._prompts(),
                settings=settings,
                device=plan.device,
            )
            timings = measure(job, tick)
            self._run.write_table(part, timings)
            return {"requests": len(timings)}

        depends = [
            self._weights(name),
            plan.formats(),
            latency.model_dump() if latency else None,
            self._asked(),
        ]
        return Stage(f"latency/{name}", fingerprint.of(depends), [part], work)

    def _asked(self) -> list[Any]:
        """What decides which prompts there are."""
        suite = self._plan.suite
        return [[task.name for task in self._plan.tasks], suite.limit, suite.orders]

    def _prompts(self) -> list[str]:
        """The prompts that the models were scored on, each once, in order."""
        first = self._plan.models[0]
        tables = [
            self._run.table(samples_part(first, task.name))["prompt"] for task in self._plan.tasks
        ]
        return list(dict.fromkeys(prompt for table in tables for prompt in table))

    def _tokens(self, checkpoint: Path, count: int = 4) -> list[list[int]]:
        """The first prompts as token ids, for the parity check; at most 512 tokens each."""
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        ids: list[list[int]] = [tokenizer(text)["input_ids"] for text in self._prompts()[:count]]
        return [one[:512] for one in ids]
