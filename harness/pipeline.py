"""The stages of a plan: what each depends on, what it leaves, and how it is done.

Heavy libraries are imported where a stage's work begins, so that a run that has nothing to do loads
none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StageError
from ..tasks.catalog import Task
from .folder import fingerprint
from .folder.store import RunFolder
from .planning.plan import Plan, identity
from .progress import Tick
from .ranks import sharded
from .results import judgements_part, samples_part, timings_part

if TYPE_CHECKING:
    from .judge import Judge

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
        shared: All processes of the run do it together; else the first does it alone.
        scratch: What it needs until it is known to be done, relative to the run folder.
    """

    name: str
    fingerprint: str
    outputs: list[str]
    work: Callable[[Tick], dict[str, Any]]
    shared: bool = False
    scratch: str | None = None


class Pipeline:
    """The stages of one plan over one run folder, and the models they share."""

    def __init__(self, plan: Plan, run: RunFolder) -> None:
        from .environment import versions
        from .models.load import ScoringPool

        self._versions = versions()
        self._plan = plan
        self._run = run
        self._adapters = {name: self._adapter(name) for name in plan.models if plan.spec(name).base}
        self._judging: Judge | None = None
        exports = {
            name: self._exported(spec.of, spec.onnx)
            for name in plan.models
            if (spec := plan.spec(name)).of and spec.onnx
        }
        self._pool = ScoringPool(plan.suite.models, self._adapters, plan.device, exports)
        self._identity = {
            name: identity(plan.spec(name)) for name in {plan.base_of(m) for m in plan.models}
        }

    def close(self) -> None:
        self._judging = None
        self._pool.close()

    def stages(self) -> list[Stage]:
        """All stages in the order they run."""
        plan = self._plan
        stages = [self._overlap()] if plan.recipes or len(plan.tasks) > 1 else []
        stages += [self._tune(name) for name in plan.recipes]
        whole = [name for name in plan.models if plan.whole(name) == name]
        stages += self._scores(whole)
        for name, formats in plan.exports().items():
            if plan.spec(name).base:
                stages.append(self._merge(name))
            stages += [self._export(name, kind) for kind in formats]
        stages += self._scores([name for name in plan.models if name not in whole])
        return stages + [self._latency(name) for name in plan.timed()]

    def _scores(self, names: list[str]) -> list[Stage]:
        plan = self._plan
        stages = [self._score(name, task) for name in names for task in plan.tasks]
        return stages + [self._judge(name, task) for name in names for task in plan.judged()]

    def _adapter(self, name: str) -> Path:
        adapter = self._plan.spec(name).adapter
        return Path(adapter.path) if adapter and adapter.path else self._run / f"adapters/{name}"

    def _weights(self, name: str) -> str:
        """Hash of what model *name* is made of."""
        spec = self._plan.spec(name)
        if spec.of and spec.onnx:
            return self._export(spec.of, spec.onnx).fingerprint
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
        elif name in self._adapters:
            parts.append(fingerprint.of_path(self._adapters[name]))
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

    def _overlap(self) -> Stage:
        def work(tick: Tick) -> dict[str, Any]:
            from . import overlap

            checks = overlap.checks(self._plan, tick)
            self._run.write_json(overlap.FILE, {"format": overlap.FORMAT, "checks": checks})
            return {"checks": len(checks), "pairs": sum(one["n_pairs"] for one in checks)}

        depends = [
            [[name, recipe.model_dump()] for name, recipe in self._plan.recipes.items()],
            [self._data(recipe.data.source) for recipe in self._plan.recipes.values()],
            [fingerprint.of_code("finetune"), fingerprint.of_code("harness")],
            self._questions(),
        ]
        return Stage("overlap", fingerprint.of(depends), ["overlap.json"], work)

    def _tune(self, name: str) -> Stage:
        plan, recipe = self._plan, self._plan.recipes[name]

        def work(tick: Tick) -> dict[str, Any]:
            from ..finetune.train import Job, tune
            from .overlap import dropped
            from .planning import forecast

            base = plan.spec(plan.base_of(name))
            out = self._adapters[name]
            left_out = dropped(self._run, name)
            watch = self._run / "watch"
            job = Job(base, recipe, out, self._run / scratch, plan.device, left_out, watch)
            return forecast.beside(tune(job, tick), base, recipe, left_out)

        weights = self._weights(name)
        # Named by what it goes on with: checkpoints of another recipe are never taken up.
        scratch = f"parts/tune/{name}-{weights[:12]}"
        return Stage(f"tune/{name}", weights, [f"adapters/{name}"], work, shared=True)

    def _score(self, name: str, task: Task) -> Stage:
        suite = self._plan.suite
        part = samples_part(name, task.name)
        backend = self._plan.backend(name)
        scratch = f"parts/answers/{name}/{task.name}"

        def work(tick: Tick) -> dict[str, Any]:
            from ..tasks import datasets
            from .evaluate import Asking, score
            from .folder.journal import Journal
            from .models.answered import answered

            asking = Asking(suite.limit, suite.orders, self._plan.prompt(name), backend.chat)
            journal = Journal(self._run / scratch / mark)
            with (
                self._pool.use(name, suite.batch_size) as lm,
                answered(lm, journal, tick, remote=backend.remote) as known,
            ):
                samples = score(name, lm, self._plan.put(task, name), asking, known.tick)
            if samples.empty:
                return {}  # the first process has them all
            self._run.write_table(part, samples)
            documents = fingerprint.of(samples["doc_hash"].tolist())
            return {
                "n": len(samples),
                "value": samples["score"].sum() / samples["weight"].sum(),
                "adapter_change": self._pool.changes.get(name),
                "data": datasets.provenance(task.data) | {"documents": documents},
                **known.about,
            }

        depends = [
            self._weights(name),
            fingerprint.of_code("harness"),
            fingerprint.of_path(task.spec),
            self._data(task.data),
            [suite.limit, suite.orders, suite.batch_size, suite.prompt.model_dump()],
            self._shots(task),
        ]
        mark = fingerprint.of(depends)
        packed = backend.name == "medbench" and not self._plan.spec(name).of
        shared = packed and not sharded()
        return Stage(f"score/{name}/{task.name}", mark, [part], work, shared, scratch)

    def _judge(self, name: str, task: Task) -> Stage:
        section = self._plan.suite.judge
        assert section is not None  # noqa: S101  (a stage of a suite with a judge)
        part = judgements_part(name, task.name)
        scratch = f"parts/opinions/{name}/{task.name}"

        def work(tick: Tick) -> dict[str, Any]:
            from .folder.journal import Journal
            from .judge import judgements, make_judge

            if self._judging is None:
                self.close()
                self._judging = make_judge(section, self._plan.device)
            samples = self._run.table(samples_part(name, task.name))
            journal = Journal(self._run / scratch / mark)
            table = judgements(samples, self._judging, journal, tick)
            self._run.write_table(part, table)
            return {"verdicts": table["verdict"].value_counts().to_dict()}

        depends = [
            self._score(name, task).fingerprint,
            identity(section.model),
            section.kind,
        ]
        mark = fingerprint.of(depends)
        return Stage(f"judge/{name}/{task.name}", mark, [part], work, scratch=scratch)

    def _merge(self, name: str) -> Stage:
        plan = self._plan
        base = plan.spec(plan.base_of(name))

        def work(tick: Tick) -> dict[str, Any]:
            from ..finetune.merge import merge_adapter

            self.close()
            parity = merge_adapter(
                base,
                self._adapters[name],
                self._run / f"merged/{name}",
                dtype="float32" if plan.device == "cpu" else "auto",
            )
            return {"parity": vars(parity)}

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

    def _exported(self, name: str, kind: str) -> Path:
        """Where the export of model *name* lies."""
        return self._run / f"exports/{name}-{kind}"

    def _export(self, name: str, kind: str) -> Stage:
        out = f"exports/{name}-{kind}"

        def work(tick: Tick) -> dict[str, Any]:
            from .export import as_detail, export_onnx
            from .ort.fidelity import measure

            self.close()
            checkpoint = self._checkpoint(name)
            trusted = self._plan.spec(self._plan.base_of(name)).trust_remote_code
            info = export_onnx(
                checkpoint,
                self._run / out,
                precision=kind,
                provider=self._plan.device,
                trust_remote_code=trusted,
            )
            prompts = self._tokens(name, checkpoint)
            parity = measure(
                checkpoint,
                info.path,
                prompts,
                device=self._plan.device,
                trust_remote_code=trusted,
            )
            if kind == "fp32" and parity.max_rel > PARITY_FP32:
                raise StageError(
                    f"export of {name} to fp32 differs from torch by {parity.max_rel:.2g} of the "
                    f"largest logit (at most {PARITY_FP32:g} is rounding); do not deploy it, and "
                    "report the architecture"
                )
            return as_detail(info) | {"parity": vars(parity)}

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
                prompts=self._prompts(name),
                settings=settings,
                device=plan.device,
                trust_remote_code=plan.spec(plan.base_of(name)).trust_remote_code,
            )
            timings = measure(job, tick)
            found = {str(name): value for name, value in timings.attrs.items()}
            self._run.write_table(part, timings)
            return {"requests": len(timings), **found}

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

    def _prompts(self, name: str) -> list[str]:
        """The prompts that model *name* was scored on, each once, in order."""
        tables = [
            self._run.table(samples_part(name, task.name))["prompt"] for task in self._plan.tasks
        ]
        return list(dict.fromkeys(prompt for table in tables for prompt in table))

    def _tokens(self, name: str, checkpoint: Path, count: int = 8) -> list[list[int]]:
        """Prompts from all over the tasks as token ids, for the parity check; at most 512 each."""
        from transformers import AutoTokenizer

        trusted = self._plan.spec(self._plan.base_of(name)).trust_remote_code
        tokenizer = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=trusted)
        prompts = self._prompts(name)
        places = {len(prompts) * place // count: None for place in range(count)}
        ids: list[list[int]] = [tokenizer(prompts[place])["input_ids"] for place in places]
        return [one[:512] for one in ids]
