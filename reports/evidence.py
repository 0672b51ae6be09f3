"""What a run says of itself beside its scores and times: export, stages, environment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .formatting import DASH, NBSP, count, duration, percent, size, small

Fact = tuple[str, str]
"""A label and what stands beside it."""


@dataclass(frozen=True)
class Stage:
    """One stage of the run."""

    name: str
    status: str
    seconds: float | None
    error: str

    @property
    def took(self) -> str:
        return duration(self.seconds)

    @property
    def problem(self) -> str:
        """Why the run is not whole; empty for a stage that is done."""
        if self.status == "done":
            return ""
        if self.status == "failed":
            return f"Stage {self.name} failed: {self.error or 'no reason was kept'}"
        return f"Stage {self.name} was not finished."


@dataclass(frozen=True)
class Export:
    """One exported graph and how well it agrees with torch."""

    model: str
    format: str
    facts: tuple[Fact, ...]


def read_stages(manifest: dict[str, Any]) -> tuple[Stage, ...]:
    return tuple(
        Stage(name, stage.get("status", ""), stage.get("seconds"), str(stage.get("error") or ""))
        for name, stage in manifest.get("stages", {}).items()
    )


def known(facts: Iterable[Fact]) -> tuple[Fact, ...]:
    """The facts that say something."""
    return tuple((label, value) for label, value in facts if value.strip(f"{DASH}→ "))


_COPIED = "copied at every step, as torch.onnx exports it; slower than one that grows in place"


def read_exports(manifest: dict[str, Any]) -> tuple[Export, ...]:
    found = []
    for name, stage in manifest.get("stages", {}).items():
        kind, _, rest = name.partition("/")
        detail = stage.get("detail") or {}
        if kind != "export" or not detail:
            continue
        model, _, form = rest.rpartition("/")
        parity = detail.get("parity") or {}
        matched, total = parity.get("greedy_matched"), parity.get("greedy_total")
        facts = (
            ("precision", str(detail.get("precision") or DASH)),
            ("provider", str(detail.get("provider") or DASH)),
            ("size", size(detail.get("bytes"))),
            ("export took", duration(detail.get("seconds"))),
            ("cache", _COPIED if detail.get("cache") == "concatenated" else DASH),
            ("prompts compared", count(parity.get("prompts"))),
            ("largest error of a logit", small(parity.get("max_abs"))),
            ("relative to the largest", small(parity.get("max_rel"))),
            ("KL divergence a token, mean", _nats(parity.get("kl_mean"))),
            ("its 95th percentile", _nats(parity.get("kl_p95"))),
            ("its largest", _nats(parity.get("kl_max"))),
            ("same most probable token", percent(parity.get("same_top"))),
            ("greedy tokens equal", f"{count(matched)} of {count(total)}" if total else DASH),
        )
        found.append(Export(model, form, known(facts)))
    return tuple(found)


def _nats(value: float | None) -> str:
    return DASH if value is None else f"{small(value)}{NBSP}nats"


def environment(manifest: dict[str, Any]) -> tuple[Fact, ...]:
    """The environment as labelled lines, nested values joined.

    It is that of the process which led the run; workers of a cluster say theirs stage by stage.
    """
    facts = []
    for key, value in (manifest.get("environment") or {}).items():
        text = _plain(value, key.endswith("_bytes"))
        if text:
            facts.append((key.removesuffix("_bytes").replace("_", " "), text))
    stages = (manifest.get("stages") or {}).values()
    if machines := dict.fromkeys(_machine(one["hardware"]) for one in stages if "hardware" in one):
        facts.append(("stages ran on", "; ".join(machines)))
    return tuple(facts)


def _machine(hardware: dict[str, Any]) -> str:
    return ", ".join([*hardware["gpus"], hardware["processor"], f"{hardware['cores']} cores"])


def _plain(value: Any, is_bytes: bool = False) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return size(value) if is_bytes else str(value)
