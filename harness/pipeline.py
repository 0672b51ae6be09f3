"""The stages of a plan, each with its fingerprint and how it is done.

What stages there are stands in graph.py, what each depends on in depends.py. Heavy libraries are
imported where a stage's work begins, so that a run that has nothing to do loads none of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import StageError
from . import graph
from .depends import Depends
from .folder import fingerprint
from .folder.journal import Journal
from .folder.store import RunFolder
from .graph import Node, export_folder
from .planning.plan import Plan
from .progress import Tick
from .results import samples_part

if TYPE_CHECKING:
    from .judge import Judge

Work = Callable[[Tick], dict[str, Any]]
"""Does a stage, and returns what the manifest keeps of it."""

PARITY_FP32 = 1e-3
"""Largest relative logit difference that float32 rounding explains; measured exports show 1e-5."""


@dataclass(frozen=True)
class Stage:
    """A node of the graph with what it takes to do it.

    Attributes:
        node: What it is.
        fingerprint: Hash of everything its outcome depends on.
        work: Does it.
    """

    node: Node
    fingerprint: str
    work: Work

    @property
    def name(self) -> str:
        return self.node.name


class Pipeline:
    """The stages of one plan over one run folder, and the models they share."""

    def __init__(self, plan: Plan, run: RunFolder) -> None:
        from .models.load import ScoringPool

        self._plan = plan
        self._run = run
        self._tasks = {task.name: task for task in plan.tasks}
        self._depends = Depends(plan, run)
        self._adapters = self._depends.adapters
        self._judging: Judge | None = None
        self._exports = {
            name: run / export_folder(spec.of, spec.onnx)
            for name in plan.models
            if (spec := plan.spec(name)).of and spec.onnx
        }
        self._pool = ScoringPool(plan.suite.models, self._adapters, plan.device, self._exports)

    def close(self) -> None:
        self._judging = None
        self._pool.close()

    def stages(self) -> list[Stage]:
        """All stages in the order they run."""
        return [self.stage(node) for node in graph.nodes(self._plan)]

    def stage(self, node: Node) -> Stage:
        """The stage of *node*, a node of the plan's graph."""
        work = {
            "overlap": self._overlap,
            "tune": self._tune,
            "score": self._score,
            "judge": self._judge,
            "merge": self._merge,
            "export": self._export,
            "latency": self._latency,
        }
        return Stage(node, self._depends.fingerprint(node), work[node.kind](node))

    def _overlap(self, node: Node) -> Work:
        def work(tick: Tick) -> dict[str, Any]:
            from . import overlap

            checks = overlap.checks(self._plan, tick)
            self._run.write_json(overlap.FILE, {"format": overlap.FORMAT, "checks": checks})
            return {"checks": len(checks), "pairs": sum(one["n_pairs"] for one in checks)}

        return work

    def _tune(self, node: Node) -> Work:
        plan, name = self._plan, node.model
        recipe = plan.recipes[name]
        # Named by what it goes on with: checkpoints of another recipe are never taken up.
        scratch = f"parts/tune/{name}-{self._depends.fingerprint(node)[:12]}"

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

        return work

    def _score(self, node: Node) -> Work:
        name, task = node.model, self._tasks[node.part]
        suite = self._plan.suite
        (part,) = node.outputs
        backend = self._plan.backend(name)

        def work(tick: Tick) -> dict[str, Any]:
            from ..tasks import datasets
            from .evaluate import Asking, score
            from .models.answered import answered

            journal = self._journal(node, self._adapters.get(name) or self._exports.get(name))
            asking = Asking(suite.limit, suite.orders, self._plan.prompt(name), backend.chat)
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

        return work

    def _judge(self, node: Node) -> Work:
        section = self._plan.suite.judge
        assert section is not None  # noqa: S101  (a stage of a suite with a judge)
        (part,) = node.outputs

        def work(tick: Tick) -> dict[str, Any]:
            from .judge import judgements, make_judge

            journal = self._journal(node)
            if self._judging is None:
                self.close()
                self._judging = make_judge(section, self._plan.device)
            samples = self._run.table(samples_part(node.model, node.part))
            table = judgements(samples, self._judging, journal, tick)
            self._run.write_table(part, table)
            return {"verdicts": table["verdict"].value_counts().to_dict()}

        return work

    def _journal(self, node: Node, weights: Path | None = None) -> Journal:
        """What is known of a stage that is not done.

        Args:
            node: The stage; answers of another fingerprint are not its own.
            weights: What was made in this run and answers: made again, on a GPU, it is another one.
        """
        made = fingerprint.of_path(weights) if weights else ""
        return Journal(self._run / str(node.scratch) / self._depends.fingerprint(node) / made)

    def _merge(self, node: Node) -> Work:
        plan, name = self._plan, node.model
        base = plan.spec(plan.base_of(name))

        def work(tick: Tick) -> dict[str, Any]:
            from ..finetune.merge import merge_adapter

            self.close()
            parity = merge_adapter(
                base,
                self._adapters[name],
                self._run / node.outputs[0],
                dtype="float32" if plan.device == "cpu" else "auto",
            )
            return {"parity": vars(parity)}

        return work

    def _checkpoint(self, name: str) -> Path:
        """The folder of model *name* in full precision, without an adapter beside it."""
        if name in self._adapters:
            return self._run / f"merged/{name}"
        spec = self._plan.spec(name)
        if Path(spec.source).is_dir():
            return Path(spec.source)
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(spec.source, revision=spec.revision))

    def _export(self, node: Node) -> Work:
        name, kind = node.model, node.part

        def work(tick: Tick) -> dict[str, Any]:
            from .export import as_detail, export_onnx
            from .ort.fidelity import measure

            self.close()
            checkpoint = self._checkpoint(name)
            trusted = self._plan.spec(self._plan.base_of(name)).trust_remote_code
            info = export_onnx(
                checkpoint,
                self._run / node.outputs[0],
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

        return work

    def _latency(self, node: Node) -> Work:
        plan, name = self._plan, node.model
        latency = plan.suite.latency

        def work(tick: Tick) -> dict[str, Any]:
            from .latency import LatencyJob, LatencySettings, measure

            assert latency is not None  # noqa: S101  (a stage of a suite with latency)
            settings = LatencySettings.model_validate(
                latency.model_dump(include=set(LatencySettings.model_fields))
            )
            job = LatencyJob(
                model=name,
                model_dir=self._checkpoint(name),
                onnx={kind: self._run / export_folder(name, kind) for kind in plan.formats()},
                prompts=self._prompts(name),
                settings=settings,
                device=plan.device,
                trust_remote_code=plan.spec(plan.base_of(name)).trust_remote_code,
            )
            timings = measure(job, tick)
            found = {str(name): value for name, value in timings.attrs.items()}
            self._run.write_table(node.outputs[0], timings)
            return {"requests": len(timings), **found}

        return work

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
