"""Merged checkpoint → ONNX: by the Model Builder of onnxruntime-genai, or else by torch.onnx.

The builder writes its own graph for each architecture that it knows, with fused attention over a
cache that grows in place. torch.onnx traces the model that transformers has, whatever it is; such a
graph hands its cache on at every step, which takes longer, so it is the second choice.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import InputError, MedbenchError, StageError
from ..folder.store import atomic_path
from ..ort.runtime import OrtModel
from ..ort.session import require_device
from . import artifact, checkpoint, estimate, process
from .artifact import Artifact
from .checkpoint import MAX_POSITIONS
from .process import UnsupportedError

PAIRS = {"cpu": ("fp32", "int8", "int4"), "cuda": ("fp16", "bf16", "int4")}
"""Precisions that are known to work, by provider. For others the builder exits with success and
leaves a graph that is invalid (fp32/cuda) or fails when it runs (fp16/cpu, bf16/cpu)."""


@dataclass(frozen=True)
class Exporter:
    """One way from a checkpoint to a graph.

    Attributes:
        name: What messages call it.
        module: The module that does it, in a process of its own.
        then: Modules that go on with the graph, by precision.
        pairs: Precisions that are known to work, by provider.
        needs: Modules it imports.
        packages: Distributions whose versions make a difference, each with its alternatives.
    """

    name: str
    module: str
    pairs: Mapping[str, tuple[str, ...]]
    needs: tuple[str, ...]
    packages: tuple[tuple[str, ...], ...]
    then: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def version(self) -> str:
        return ", ".join(_version(names) for names in self.packages)


BUILDER = Exporter(
    name="the ONNX Model Builder",
    module="builder",
    pairs=PAIRS,
    needs=("onnxruntime_genai", "onnx", "onnx_ir", "safetensors", "torch", "tqdm"),
    packages=(("onnxruntime-genai-cuda", "onnxruntime-genai"),),
)
TRACER = Exporter(
    name="torch.onnx",
    module="tracer",
    pairs={"cpu": ("fp32", "int8", "int4"), "cuda": ("fp16",)},
    needs=("onnxscript", "onnx", "onnx_ir", "onnxruntime", "torch"),
    packages=(("torch",), ("onnxscript",), ("transformers",)),
    then={"int8": ("nbits",), "int4": ("nbits",)},
)


def export_onnx(
    model_dir: Path,
    out: Path,
    *,
    precision: str = "fp32",
    provider: str = "cpu",
    trust_remote_code: bool = False,
) -> Artifact:
    """Export the checkpoint in *model_dir*, with its key-value cache, and run two steps of it.

    An export of the same content in *out*, or beside it, is taken instead of making another.

    Args:
        model_dir: A merged full-precision checkpoint with its tokenizer.
        out: Folder to make; replaced when it exists. It appears complete and working or not at all.
        precision: Of the weights; see :data:`PAIRS`.
        provider: ``cpu`` or ``cuda``; this machine must have it, as the export is run once.
        trust_remote_code: Run model code that the checkpoint ships.

    Returns:
        What was made, or found.

    Raises:
        InputError: The pair is not known to work, the checkpoint is incomplete, or there is no such
            device.
        StageError: Disk or memory have no room; an exporter is not installed, was killed, or
            failed; none can export this model right; or its graph does not run.
    """
    if precision not in PAIRS.get(provider, ()):
        raise InputError(f"export {precision}/{provider}: not known to work; use {_known(BUILDER)}")
    config = checkpoint.read(model_dir, trust_remote_code)
    require_device(provider)
    job = _Job(model_dir, out, precision, provider, trust_remote_code)
    lacks = checkpoint.builder_lacks(config)
    for exporter in (TRACER,) if lacks else (BUILDER, TRACER):
        if found := job.found(exporter):
            return found
    if lacks is None:
        try:
            return job.make(BUILDER)
        except UnsupportedError as error:  # it knows so when it has seen the architecture's name
            lacks = str(error)
    reason = checkpoint.trace_lacks(config)
    if reason is None and precision not in TRACER.pairs[provider]:
        reason = f"{precision}/{provider} is not known to work there; use {_known(TRACER)}"
    if reason is None:
        try:
            return job.make(TRACER)
        except UnsupportedError as error:
            reason = str(error)
    raise StageError(
        f"{model_dir}: {BUILDER.name} ({BUILDER.version}) cannot export this model ({lacks}), nor "
        f"can {TRACER.name} ({reason}); take it out of the suite's latency.models, or time it in "
        "torch alone (latency.engines: [torch])"
    )


@dataclass(frozen=True)
class _Job:
    """What is exported to what; see :func:`export_onnx`."""

    model_dir: Path
    out: Path
    precision: str
    provider: str
    trust_remote_code: bool

    def recipe(self, exporter: Exporter) -> dict[str, Any]:
        return {
            "precision": self.precision,
            "provider": self.provider,
            "builder": exporter.version,
            "max_positions": MAX_POSITIONS,
        }

    def key(self, exporter: Exporter) -> str:
        # A newer builder may know the model, so its version is part of what a trace depends on.
        instead = {} if exporter is BUILDER else {"instead_of": BUILDER.version}
        return artifact.key_of(self.model_dir, self.recipe(exporter) | instead)

    def found(self, exporter: Exporter) -> Artifact | None:
        """An export that is there already, put in its place."""
        key = self.key(exporter)
        if (found := artifact.read(self.out)) and found.key == key:
            return dataclasses.replace(found, reused=True)
        if found := artifact.find(self.out.parent, key):
            artifact.place(found, self.out)
            return dataclasses.replace(found, path=self.out, reused=True)
        return None

    def make(self, exporter: Exporter) -> Artifact:
        expected = estimate.estimate(
            self.model_dir, self.precision, self.provider, traced=exporter is TRACER
        )
        estimate.check(expected, self.out)
        _check_installed(exporter)
        start = time.perf_counter()
        with atomic_path(self.out) as draft:
            arguments = (self.precision, self.provider, str(self.trust_remote_code).lower())
            peaks = [
                process.run(exporter.name, module, self.model_dir, draft, *arguments)
                for module in (exporter.module, *exporter.then.get(self.precision, ()))
            ]
            _try(draft, self.provider)
            config = json.loads((draft / "genai_config.json").read_text("utf-8"))
            context = int(config["model"]["context_length"])
            shared = config["search"]["past_present_share_buffer"]
            artifact.seal(
                draft,
                key=self.key(exporter),
                **(self.recipe(exporter) | {"max_positions": context}),
                seconds=time.perf_counter() - start,
                builder_bytes=max((peak for peak in peaks if peak is not None), default=None),
                cache="shared" if shared else "concatenated",
                estimate=dataclasses.asdict(expected),
            )
        made = artifact.read(self.out)
        if made is None:
            raise StageError(f"{self.out}: changed while it was written; export it again")
        return made


def _known(exporter: Exporter) -> str:
    pairs = ", ".join(f"{kind}/{name}" for name, kinds in exporter.pairs.items() for kind in kinds)
    return f"one of {pairs} (precision/provider)"


def _version(names: tuple[str, ...]) -> str:
    for name in names:
        try:
            return f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{names[-1]}, version unknown"


def _check_installed(exporter: Exporter) -> None:
    missing = [name for name in exporter.needs if importlib.util.find_spec(name) is None]
    if missing:
        raise StageError(
            f"export: {exporter.name} needs modules that are not installed: "
            f"{', '.join(missing)}; install medbench again with its dependencies"
        )


def _try(folder: Path, provider: str) -> None:
    """Load a new export and run a prompt and one step: a broken graph shows only then."""
    import torch

    try:
        model = OrtModel(folder, device=provider, max_len=4)
        ids = torch.tensor([[0, 1, 0]])
        logits = model.prefill(ids)
        finite = bool(logits.isfinite().all() and model.step(ids[:, :1]).isfinite().all())
    except MedbenchError:
        raise
    except Exception as error:  # the runtime's own exceptions share no narrower base
        raise StageError(
            f"export for {provider}: the graph loads but fails in its first steps; try another "
            "precision, or take the model out of the suite's latency.models. "
            f"ONNX Runtime said: {str(error).splitlines()[0]}"
        ) from error
    if not finite:
        raise StageError(
            f"export for {provider}: the graph's logits are not finite; use another precision"
        )
