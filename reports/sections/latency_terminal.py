"""Latency on a terminal. Everything is :class:`rich.text.Text`, in which rich reads no markup."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from ..formatting import number
from .latency import RUNTIMES, Latency, read_series


def latency_table(rows: Iterable[Latency]) -> Table:
    """Medians and 90th percentiles, one line a series; fits 80 columns."""
    table = _table("model", "runtime", "batch × prompt → output")
    for name in ("first token, ms", "per token, ms"):
        table.add_column(Text(name), justify="right")
    for row in rows:
        unstable = " (may be unstable)" if row.unstable else ""
        table.add_row(
            Text(row.model),
            Text(row.runtime + unstable),
            Text(row.shape),
            Text(f"{row.time('ttft_ms_p50')}, {row.time('ttft_ms_p90')}"),
            Text(f"{row.time('tpot_ms_p50')}, {row.time('tpot_ms_p90')}"),
        )
    return table


def print_latency(result: dict[str, Any], console: Console) -> None:
    """What `medbench latency` found: times, floors and memory, ratios, what was left out."""
    rows = [read_series(row) for row in result["latency"]]
    console.print(Text.assemble(("Latency", "bold"), (", medians, then 90th percentiles", "dim")))
    console.print(Padding(latency_table(rows), (0, 0, 1, 2)))
    console.print(
        Text.assemble(
            ("Floors", "bold"), (", of this machine's measured peaks; share reached", "dim")
        )
    )
    table = _table("runtime", "batch × prompt → output")
    for name in ("first token, ms", "per token, ms", "tokens/s", "memory"):
        table.add_column(Text(name), justify="right")
    for row in rows:
        cells = (row.floor("ttft"), row.floor("tpot"), row.throughput, row.memory)
        table.add_row(Text(row.runtime), Text(row.shape), *map(Text, cells))
    console.print(Padding(table, (0, 0, 1, 2)))
    for row in rows:
        for other in rows:
            if sentence := row.against(other):
                console.print(Text(sentence))
    for name, why in result["skipped"].items():
        console.print(Text(f"{RUNTIMES.get(name, name)} was left out: {why}."))
    busy = [row.load_1m for row in rows if row.load_1m is not None]
    cores = result["environment"].get("cores") or 1
    if busy and max(busy) > cores:
        console.print(
            Text(
                f"The machine was busy (load average {number(max(busy), 1)} on {cores} cores): "
                "times are longer than on a quiet one, and ratios may be others.",
                "yellow",
            )
        )


def print_against(found: list[dict[str, Any]], console: Console) -> None:
    """Each series beside its earlier measurement."""
    console.print(Text("\nAgainst the earlier measurement (medians, now over then)", "bold"))
    table = _table("runtime", "batch × prompt → output", "figure")
    table.add_column(Text("ratio"), justify="right")
    table.add_column(Text("95 % interval"))
    for one in found:
        shape = f"{one['batch']} × {one['prompt_tokens']} → {one['output_tokens']}"
        known = one["low"] is not None and one["high"] is not None
        interval = f"{number(one['low'], 2)} to {number(one['high'], 2)}" if known else ""
        unstable = " (may be unstable)" if one["unstable"] else ""
        table.add_row(
            Text(f"{RUNTIMES.get(one['engine'], one['engine'])} {one['format']}"), Text(shape),
            Text(one["figure"].upper()), Text(number(one["ratio"], 2)), Text(interval + unstable),
        )  # fmt: skip
    console.print(Padding(table, (0, 0, 0, 2)))


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for name in columns:
        table.add_column(Text(name), overflow="fold")
    return table
