"""Latency as a reader sees it: percentiles, intervals, the floor, ratios to torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from ...harness.folder.store import RunFolder
from ..formatting import DASH, NBSP, count, milliseconds, missing, number, percent, size

SERIES = ("model", "engine", "format", "provider", "batch", "prompt_tokens", "output_tokens")
FLOORS = (
    "The floor is the least time that this machine's peaks, measured beside the requests, allow "
    "for the bytes that must be moved and the arithmetic that must be done; beside it the share "
    "that the median reaches. Integer formats have no floor for the first token on a CPU."
)
RUNTIMES = {"onnxruntime": "ONNX Runtime", "torch-compiled": "torch compiled", "vllm": "vLLM"}


@dataclass(frozen=True)
class Ratio:
    """How many times as fast as another engine, on the same requests in turn."""

    figure: str
    engine: str
    format: str
    ratio: float
    low: float | None
    high: float | None

    @property
    def interval(self) -> str:
        """``, 95 % interval 1.9 to 2.3``; empty where so few requests give none."""
        if self.low is None or self.high is None:
            return ""
        return f", 95{NBSP}% interval {number(self.low, 1)} to {number(self.high, 1)}"


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
    ratios: tuple[Ratio, ...] = ()
    intervals: dict[str, list[float | None]] | None = None
    tokens_per_s: float | None = None
    peak_bytes: float | None = None
    ttft_floor_ms: float | None = None
    token_floor_ms: float | None = None
    load_1m: float | None = None
    hardware: str | None = None
    threads: int | None = None

    @property
    def shape(self) -> str:
        return f"{self.batch} × {self.prompt_tokens} → {self.output_tokens}".replace(" ", NBSP)

    @property
    def runtime(self) -> str:
        """Engine and format as a reader says them."""
        return f"{RUNTIMES.get(self.engine, self.engine)} {self.format}"

    @property
    def memory(self) -> str:
        return size(self.peak_bytes)

    @property
    def throughput(self) -> str:
        """Output tokens of all rows a second."""
        return number(self.tokens_per_s, 0)

    def time(self, key: str) -> str:
        """A percentile, e.g. ``ttft_ms_p50``."""
        return milliseconds(self.percentiles.get(key))

    def interval(self, key: str) -> str:
        """Its 95 % interval; a dash where an end is not known."""
        low, high = (self.intervals or {}).get(key) or (None, None)
        if missing(low) or missing(high):
            return DASH
        return f"{milliseconds(low)} to {milliseconds(high)}"

    def floor(self, label: str) -> str:
        """The floor of ``ttft`` or ``tpot`` and the share of it that the median reaches."""
        least = self.ttft_floor_ms if label == "ttft" else self.token_floor_ms
        median = self.percentiles.get(f"{label}_ms_p50")
        if least is None or missing(least) or not median:
            return DASH
        return f"{milliseconds(least)} ({percent(least / median, 0)})"

    def against(self, other: Latency) -> str:
        """This ONNX Runtime series against *other* in torch; empty when they do not compare."""
        mine, theirs = (row.percentiles.get("tpot_ms_p50") for row in (self, other))
        engines = self.engine == "onnxruntime" != other.engine
        same = (self.model, self.shape) == (other.model, other.shape)
        if not (engines and same and mine and theirs):
            return ""
        quicker = theirs >= mine
        factor = number(theirs / mine if quicker else mine / theirs, 1)
        interval = self._interval_against(other) if quicker else ""
        return (
            f"{self.model} takes {milliseconds(mine)} ms a token in {self.runtime} and "
            f"{milliseconds(theirs)} ms in {other.runtime} (medians, batch {self.batch}, "
            f"{count(self.prompt_tokens)} tokens in and {count(self.output_tokens)} out): "
            f"{factor} times as {'fast' if quicker else 'slow'}{interval}"
            f"{', though the timings may be unstable' if self.unstable or other.unstable else ''}."
        )

    def _interval_against(self, other: Latency) -> str:
        for one in self.ratios:
            if (one.figure, one.engine, one.format) == ("tpot", other.engine, other.format):
                return one.interval
        return ""


def read_latency(run: RunFolder, results: dict[str, Any]) -> tuple[Latency, ...]:
    """The series of results.json, each with its raw requests where timings.parquet has them."""
    rows = results.get("latency", [])
    if not rows:
        return ()
    timings = run.timings() if (run.path / "timings.parquet").is_file() else None
    return tuple(read_series(row, timings) for row in rows)


def read_series(row: dict[str, Any], timings: pd.DataFrame | None = None) -> Latency:
    """One row of ``latency`` in results.json or latency.json."""
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
    newer = (
        "intervals", "tokens_per_s", "peak_bytes", "ttft_floor_ms", "token_floor_ms", "load_1m",
        "hardware", "threads",
    )  # fmt: skip
    optional: dict[str, Any] = {key: row.get(key) for key in newer}
    return Latency(
        **{key: row[key] for key in SERIES},
        n=int(row.get("n") or 0),
        unstable=bool(row.get("unstable")),
        percentiles={key: row[key] for key in row if "_ms_p" in key},
        ttft_ms=ttft,
        tpot_ms=tpot,
        ratios=tuple(Ratio(**one) for one in row.get("ratios") or []),
        **optional,
    )


def read_skipped(manifest: dict[str, Any]) -> tuple[str, ...]:
    """A sentence for each engine that a model was to be timed in and was not."""
    found = []
    for name, stage in manifest.get("stages", {}).items():
        kind, _, model = name.partition("/")
        for engine, why in ((stage.get("detail") or {}).get("skipped") or {}).items():
            if kind == "latency":
                runtime = RUNTIMES.get(engine, engine)
                found.append(f"{model} was not timed in {runtime}: {why}.")
    return tuple(found)


def detail(latency: Iterable[Latency]) -> str:
    """What stands under the table of floors and memory; empty where no series has them."""
    rows = list(latency)
    if not any(row.token_floor_ms or row.peak_bytes for row in rows):
        return ""
    machines = dict.fromkeys(row.hardware for row in rows if row.hardware)
    threads = dict.fromkeys(row.threads for row in rows if row.threads)
    loads = [row.load_1m for row in rows if row.load_1m is not None]
    parts = [
        FLOORS,
        "Peak memory is that of a process with this engine alone, its libraries aside.",
    ]
    if machines:
        parts.append(f"Measured on {'; '.join(machines)}")
        parts[-1] += "".join(f", {count(n, 'thread')} of each engine" for n in threads)
        parts[-1] += f", load average {number(max(loads), 1)} at most." if loads else "."
    return " ".join(parts)
