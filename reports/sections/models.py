"""The models of a run: where each comes from, and what it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Model:
    """A model of the run; ``base`` is what it is compared with, None for a base model."""

    name: str
    base: str | None
    origin: str


def read_models(manifest: dict[str, Any], suite: dict[str, Any]) -> tuple[Model, ...]:
    specs = suite.get("models") or {}
    models = []
    for name in manifest.get("models", list(specs)):
        spec = specs.get(name) or {}
        adapter = spec.get("adapter") or {}
        if spec.get("of"):
            origin = f"{spec['of']} exported to ONNX, {spec['onnx']}, run by ONNX Runtime"
        elif spec.get("base"):
            origin = (
                f"{spec['base']} with a LoRA adapter trained by recipe {adapter['recipe']}"
                if adapter.get("recipe")
                else f"{spec['base']} with the adapter {adapter.get('path', '')}"
            )
        else:
            origin = str(spec.get("pretrained", ""))
            origin += f" at revision {spec['revision']}" if spec.get("revision") else ""
        models.append(Model(name, spec.get("base") or spec.get("of"), origin))
    return tuple(models)


def title(models: tuple[Model, ...]) -> str:
    """Their names, for a report without a title of its own."""
    names = [model.name for model in models]
    return " and ".join([", ".join(names[:-1]), *names[-1:]]) if names[1:] else "".join(names)
