"""Memory and time of tuning: what was predicted, and beside it what a run measured.

A forecast is what harness/planning/forecast.py makes; a run's manifest keeps it with the stage
``tune``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...harness.folder.store import RunFolder
from ..formatting import DASH, count, duration, number, percent, size

CLAIM = 0.71
"""Less memory by QLoRA, as the tutorial behind medical-o1-qlora claims."""
HEADS = ("precision", "weights", "adapter", "optimizer", "activations", "total")


@dataclass(frozen=True)
class Line:
    """One precision; bytes and seconds. ``measured`` is the peak of the run that tuned in it."""

    precision: str
    weights: int
    adapter: int
    optimizer: int
    activations: int
    peak: int
    fits: tuple[tuple[str, int], ...]
    step_seconds: float | None
    seconds: float | None
    measured: int | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """Precision, weights, adapter with its gradients, optimizer, activations, total."""
        parts = (self.weights, self.adapter, self.optimizer, self.activations, self.peak)
        return (self.precision, *map(size, parts))

    @property
    def measured_shown(self) -> str:
        return size(self.measured)

    @property
    def difference(self) -> str:
        """How far the prediction is from what was measured."""
        if not self.measured:
            return DASH
        share = (self.peak - self.measured) / self.measured
        return f"{number(100 * share, 1, signed=True)}\u00a0%"


@dataclass(frozen=True)
class Forecast:
    """What tuning one model needs, in sentences and a line for each precision."""

    model: str
    precision: str
    batch: int
    lines: tuple[Line, ...]
    facts: tuple[str, ...]
    gpu: str
    later: str = ""
    step_measured: float | None = None
    ran: bool = False

    @property
    def own(self) -> Line | None:
        """The line of the precision that the recipe has."""
        return next((line for line in self.lines if line.precision == self.precision), None)

    @property
    def has_measured(self) -> bool:
        return any(line.measured for line in self.lines)

    @property
    def measured(self) -> str:
        """Predicted beside measured; empty before a run."""
        line = self.own
        if line is None or not self.ran:
            return ""
        if not line.measured:
            return "Predicted for a GPU. This run tuned without one, where nothing is measured."
        text = (
            f"Peak memory in {line.precision}: predicted {size(line.peak)}, measured "
            f"{size(line.measured)} ({line.difference})."
        )
        if line.step_seconds and self.step_measured:
            text += (
                f" Time of a step: predicted {duration(line.step_seconds)}, measured "
                f"{duration(self.step_measured)}."
            )
        return text

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is said under the table."""
        later = "" if self.ran else self.later
        said = (self.measured, *self.facts, later, self.kept, self.claim)
        return tuple(text for text in said if text)

    @property
    def kept(self) -> str:
        """Why int8 needs more than 16 bits, where it does."""
        found = {line.precision: line.peak for line in self.lines}
        half = next((name for name in ("bf16", "fp16") if name in found), "")
        if not half or found.get("int8", 0) <= found[half]:
            return ""
        return (
            f"int8 needs more than {half}: its weights are smaller, but bitsandbytes' products "
            "keep the inputs of every layer, whatever gradient checkpointing drops."
        )

    @property
    def claim(self) -> str:
        """The claim of 71 % less memory beside these figures; empty without nf4 among them."""
        found = {line.precision: line for line in self.lines}
        small = found.get("nf4")
        if small is None:
            return ""
        mine = small.measured or small.peak
        known = "measured" if small.measured else "predicted"
        others = []
        for name, line in found.items():
            if name in ("fp32", "bf16", "fp16"):
                theirs = line.measured or line.peak
                other = "measured" if line.measured else "predicted"
                others.append(f"{percent(1 - mine / theirs, 0)} less than {name} ({other})")
        return (
            f"QLoRA's claim of {percent(CLAIM, 0)} less memory: nf4 takes {size(mine)} ({known}), "
            f"{' and '.join(others)}, adapter, optimizer and activations included."
        )


def read_forecast(
    model: str, one: dict[str, Any], detail: dict[str, Any] | None = None
) -> Forecast:
    """*one* as it is shown, with the measured peak of a tuning's *detail*."""
    peak = (detail or {}).get("peak_bytes")
    lines = tuple(
        Line(
            precision=name,
            weights=line["weights"],
            adapter=line["adapter"] + line["gradients"],
            optimizer=line["optimizer"],
            activations=line["activations"],
            peak=line["peak"],
            fits=tuple(line["fits"].items()),
            step_seconds=line.get("step_seconds"),
            seconds=line.get("seconds"),
            measured=peak if name == one["precision"] else None,
        )
        for name, line in one["precisions"].items()
    )
    return Forecast(
        model=model,
        precision=one["precision"],
        batch=one["batch_size"] // one.get("shards", 1),
        lines=lines,
        facts=_facts(one),
        gpu=(one.get("gpu") or {}).get("name", ""),
        later=_later(one.get("later") or {}),
        step_measured=(detail or {}).get("step_seconds"),
        ran=detail is not None,
    )


def read_memory(run: RunFolder, manifest: dict[str, Any]) -> tuple[Forecast, ...]:
    """The forecasts that a run kept, each with what it measured."""
    found = []
    for name, stage in manifest.get("stages", {}).items():
        detail = stage.get("detail") or {}
        if name.startswith("tune/") and detail.get("predicted"):
            model = name.removeprefix("tune/")
            seconds = {"step_seconds": _step_seconds(run, model)}
            found.append(read_forecast(model, detail["predicted"], detail | seconds))
    return tuple(found)


def _step_seconds(run: RunFolder, model: str) -> float | None:
    """Median of the logged times of a step."""
    table = run.losses(model)
    if table is None or "seconds_per_step" not in table:
        return None
    middle = float(table["seconds_per_step"].median())
    return middle if middle == middle else None


def _facts(one: dict[str, Any]) -> tuple[str, ...]:
    lengths, gpu = one["lengths"], one.get("gpu")
    laid = "end to end" if one["end_to_end"] else "padded to the longest"
    facts = [
        f"{count(one['parameters'], 'parameter')}; a step has {count(one['batch_size'], 'row')}, "
        f"{count(one['rows_at_once'])} at once, {laid}: up to "
        f"{count(one['tokens_at_once'], 'token')}.",
        f"Row lengths: median {count(lengths['median'])}, longest "
        f"{count(lengths['longest'], 'token')} ({lengths['source']}).",
    ]
    if one.get("shards", 1) > 1:
        facts.insert(
            1,
            f"{count(one['shards'])} GPUs hold the base between them (FSDP): memory is that of "
            "each. A step's rows are shared; weights: its share, and the layers that are whole at "
            "a time.",
        )
    if gpu:
        shares = one["efficiency"]
        facts.append(
            f"Times: {gpu['name']} ({gpu['source']}) at {percent(shares['nf4'], 0)} of its matmul "
            f"peak over nf4, {percent(shares['none'], 0)} over 16-bit and "
            f"{percent(shares['int8'], 0)} over int8 weights, as measured with an 8B on one H200; "
            "for anything else that is an assumption."
        )
    return tuple(facts)


def _later(later: dict[str, int]) -> str:
    rough = [
        f"{name} about {size(later[key])}"
        for key, name in (
            ("scoring_bytes", "scoring"),
            ("latency_bytes", "parity and latency"),
            ("export_disk_bytes", "merged model and exports on disk"),
        )
        if key in later
    ]
    return f"Later stages, roughly: {', '.join(rough)}." if rough else ""


def headings(one: Forecast) -> list[str]:
    """Of the table of :func:`cells`."""
    heads = [*HEADS, *(f"on {name} GB" for name, _ in (one.lines[0].fits if one.lines else ()))]
    return [*heads, f"step, {one.gpu}", "all steps"] if one.gpu else heads


def cells(one: Forecast, line: Line) -> list[str]:
    """A line of the table; what a GPU has room for is rows at once."""
    fits = [_room(rows, one.batch) for _, rows in line.fits]
    times = [duration(line.step_seconds), duration(line.seconds)] if one.gpu else []
    return [*line.cells, *fits, *times]


def _room(rows: int, batch: int) -> str:
    return "no" if rows == 0 else "yes" if rows == batch else f"{rows} at once"


def print_forecast(one: Forecast, console: Console) -> None:
    """Two tables, memory and what follows from it, and the facts; fits 80 columns."""
    console.print(Text.assemble((one.model, "bold"), (f"  recipe in {one.precision}", "dim")))
    split = len(HEADS)
    for part in (slice(0, split), slice(split, None)):
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
        heads = headings(one)[part]
        for head in heads if part.start == 0 else (HEADS[0], *heads):
            table.add_column(Text(head), justify="left" if head == HEADS[0] else "right")
        for line in one.lines:
            shown = cells(one, line)[part]
            style = "bold" if line.precision == one.precision else ""
            row = shown if part.start == 0 else [line.precision, *shown]
            table.add_row(*(Text(cell, style) for cell in row))
        console.print(table)
    for sentence in one.sentences:
        console.print(Text(sentence))
    console.print()


def markdown(one: Forecast) -> str:
    """The same as Markdown."""
    from ..markdown import escape

    heads = headings(one)
    lines = [f"### {escape(one.model)}", "", f"| {' | '.join(map(escape, heads))} |"]
    lines.append(f"| :-- | {' | '.join(['--:'] * (len(heads) - 1))} |")
    lines += [
        f"| {' | '.join(escape(cell or DASH) for cell in cells(one, line))} |" for line in one.lines
    ]
    return "\n".join([*lines, "", *map(escape, one.sentences), ""])
