"""What a run says of itself beside its scores: training, export, latency, stages, environment."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ..harness.store import RunFolder
from .formatting import DASH, NBSP, count, duration, milliseconds, number, size, small

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


@dataclass(frozen=True)
class Latency:
    """One series of requests; times in milliseconds, raw values beside the percentiles."""

    model: str
    engine: str
    format: str
    provider: str
    batch: int
    prompt_tokens: int
    output_tokens: int
    n: int
    unstable: bool
    percentiles: dict[str, float | None]
    ttft_ms: tuple[float, ...]
    tpot_ms: tuple[float, ...]

    @property
    def shape(self) -> str:
        return f"{self.batch} × {self.prompt_tokens} → {self.output_tokens}".replace(" ", NBSP)

    @property
    def runtime(self) -> str:
        """Engine and format as a reader says them."""
        return f"{'ONNX Runtime' if self.engine == 'onnxruntime' else self.engine} {self.format}"

    def time(self, key: str) -> str:
        """A percentile, e.g. ``ttft_ms_p50``."""
        return milliseconds(self.percentiles.get(key))

    def against(self, other: Latency) -> str:
        """This ONNX Runtime series against *other* in torch; empty when they do not compare."""
        mine, theirs = (row.percentiles.get("tpot_ms_p50") for row in (self, other))
        engines = (self.engine, other.engine) == ("onnxruntime", "torch")
        same = (self.model, self.shape) == (other.model, other.shape)
        if not (engines and same and mine and theirs):
            return ""
        quicker = theirs >= mine
        factor = number(theirs / mine if quicker else mine / theirs, 1)
        return (
            f"{self.model} takes {milliseconds(mine)} ms a token in {self.runtime} and "
            f"{milliseconds(theirs)} ms in {other.runtime} (medians, batch {self.batch}, "
            f"{count(self.prompt_tokens)} tokens in and {count(self.output_tokens)} out): "
            f"{factor} times as {'fast' if quicker else 'slow'}"
            f"{', though the timings may be unstable' if self.unstable or other.unstable else ''}."
        )


def read_stages(manifest: dict[str, Any]) -> tuple[Stage, ...]:
    return tuple(
        Stage(name, stage.get("status", ""), stage.get("seconds"), str(stage.get("error") or ""))
        for name, stage in manifest.get("stages", {}).items()
    )


def known(facts: Iterable[Fact]) -> tuple[Fact, ...]:
    """The facts that say something."""
    return tuple((label, value) for label, value in facts if value.strip(f"{DASH}→ "))


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
            ("prompts compared", count(parity.get("prompts"))),
            ("largest error of a logit", small(parity.get("max_abs"))),
            ("relative to the largest", small(parity.get("max_rel"))),
            ("greedy tokens equal", f"{count(matched)} of {count(total)}" if total else DASH),
        )
        found.append(Export(model, form, known(facts)))
    return tuple(found)


SERIES = ("model", "engine", "format", "provider", "batch", "prompt_tokens", "output_tokens")


def read_latency(run: RunFolder, results: dict[str, Any]) -> tuple[Latency, ...]:
    """The series of results.json, each with its raw requests where timings.parquet has them."""
    rows = results.get("latency", [])
    if not rows:
        return ()
    timings = run.timings() if (run.path / "timings.parquet").is_file() else None
    return tuple(_latency(row, timings) for row in rows)


def _latency(row: dict[str, Any], timings: pd.DataFrame | None) -> Latency:
    ttft: tuple[float, ...] = ()
    tpot: tuple[float, ...] = ()
    if timings is not None:
        keep = ~timings["warmup"].astype(bool)
        for key in SERIES:
            keep &= timings[key] == row[key]
        raw = timings[keep]
        ttft = tuple(1000 * float(value) for value in raw["ttft_s"])
        if row["output_tokens"] > 1:
            gaps = (raw["e2e_s"] - raw["ttft_s"]) / (row["output_tokens"] - 1)
            tpot = tuple(1000 * float(value) for value in gaps)
    return Latency(
        **{key: row[key] for key in SERIES},
        n=int(row.get("n") or 0),
        unstable=bool(row.get("unstable")),
        percentiles={key: row[key] for key in row if "_ms_p" in key},
        ttft_ms=ttft,
        tpot_ms=tpot,
    )


def environment(manifest: dict[str, Any]) -> tuple[Fact, ...]:
    """The environment as labelled lines, nested values joined."""
    facts = []
    for key, value in (manifest.get("environment") or {}).items():
        text = _plain(value, key.endswith("_bytes"))
        if text:
            facts.append((key.removesuffix("_bytes").replace("_", " "), text))
    return tuple(facts)


def _plain(value: Any, is_bytes: bool = False) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item is not None)
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return size(value) if is_bytes else str(value)
