"""What a run says of its tunings: rows, how a step was laid out, the curves, the alarms."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

from ...harness.folder.store import RunFolder
from ..evidence import Fact, known
from ..formatting import NBSP, count, duration, number, percent, size

Curve = tuple[tuple[float, float], ...]
"""(step, value)."""

_LAID = {True: " (end to end)", False: " (padded)", None: ""}


@dataclass(frozen=True)
class Training:
    """How one model was tuned.

    Attributes:
        losses, validation, norms: Training loss, validation loss and gradient norm by step; empty
            where none was logged.
    """

    model: str
    facts: tuple[Fact, ...]
    losses: Curve
    validation: Curve = ()
    norms: Curve = ()


def read_trainings(run: RunFolder, manifest: dict[str, Any]) -> tuple[Training, ...]:
    """The models tuned in this run, with what of their log was kept."""
    found = []
    for name, stage in manifest.get("stages", {}).items():
        if not name.startswith("tune/"):
            continue
        model = name.removeprefix("tune/")
        table = run.losses(model)
        losses, validation, norms = (
            _curve(table, column) for column in ("loss", "validation_loss", "grad_norm")
        )
        detail = stage.get("detail") or {}
        facts = known([
            *_rows(detail),
            *_layout(detail),
            *_curves(detail, validation, norms),
            *_cost(detail, table),
            *_weights(detail, _change(manifest, model)),
            *_incidents(detail),
        ])  # fmt: skip
        if losses or facts:
            found.append(Training(model, facts, losses, validation, norms))
    return tuple(found)


def alarms(detail: dict[str, Any]) -> list[str]:
    """What the loss curve said had gone wrong, a sentence each."""
    return [
        f"{one.get('sentence')} (step {number(one.get('step'), 0)})"
        for one in detail.get("alarms") or []
    ]


def _curve(table: pd.DataFrame | None, column: str) -> Curve:
    if table is None or not {"step", column} <= set(table.columns):
        return ()
    kept = table[["step", column]].apply(pd.to_numeric, errors="coerce").dropna()
    return tuple((float(step), float(value)) for step, value in kept.to_numpy())


def _rows(detail: dict[str, Any]) -> list[Fact]:
    validation, too_long = detail.get("validation_rows"), detail.get("too_long")
    left_out = f"{count(too_long, 'row')} longer than the recipe's max_length"
    return [
        ("rows", count(detail.get("rows"))),
        ("rows kept for validation", count(validation) if validation else ""),
        ("left out", left_out if too_long else ""),
    ]


def _layout(detail: dict[str, Any]) -> list[Fact]:
    rows, repeated, processes = (
        detail.get(key) for key in ("rows_at_once", "accumulation", "processes")
    )
    chosen = (detail.get("backend"), detail.get("backend_why"))
    layout = epoch = ""
    if rows and repeated and processes:
        batch = rows * repeated * processes
        layout = (
            f"{count(batch, 'row')} = {number(rows, 0)} at once{_LAID[detail.get('end_to_end')]} × "
            f"{number(repeated, 0)} accumulated × {count(processes, 'process', 'processes')}"
        )
        if detail.get("sharded"):
            layout += ", which hold the base between them"
        if all_rows := detail.get("rows"):
            epoch = f"{count(-(-all_rows // batch))} = {count(all_rows, 'row')} / {count(batch)}"
            epoch += ", rounded up" if all_rows % batch else ""
    return [
        ("steps", count(detail.get("steps"))),
        ("rows a step", layout),
        ("steps an epoch", epoch),
        ("back end", ": ".join(str(word) for word in chosen if word)),
    ]


def _curves(detail: dict[str, Any], validation: Curve, norms: Curve) -> list[Fact]:
    facts = [
        ("loss", f"{number(detail.get('loss_first'), 3)} → {number(detail.get('loss_last'), 3)}")
    ]
    if validation:
        (_, first), (_, last) = validation[0], validation[-1]
        step, lowest = min(validation, key=lambda point: point[1])
        words = f"{number(first, 3)} → {number(last, 3)}"
        words += f", lowest {number(lowest, 3)} at step {number(step, 0)}"
        facts.append(("validation loss", words))
    if norms:
        step, largest = max(norms, key=lambda point: point[1])
        middle = median(value for _, value in norms)
        words = f"median {number(middle, 2)}, largest {number(largest, 2)} at step "
        facts.append(("gradient norm", words + number(step, 0)))
    return facts


def _cost(detail: dict[str, Any], table: pd.DataFrame | None) -> list[Fact]:
    step, tokens = _median(table, "seconds_per_step"), _median(table, "tokens_per_second")
    pace = [f"{number(step, 2)}{NBSP}s"] if step else []
    pace += [f"{count(round(tokens), 'token')} a second"] if tokens else []
    return [
        ("time", duration(detail.get("seconds"))),
        ("a step", ", ".join(pace)),
        ("peak memory of the GPU", size(detail.get("peak_bytes"))),
    ]


def _median(table: pd.DataFrame | None, column: str) -> float | None:
    values = [value for _, value in _curve(table, column)]
    return median(values) if values else None


def _weights(detail: dict[str, Any], change: float | None) -> list[Fact]:
    trainable, parameters = detail.get("trainable_parameters"), detail.get("parameters")
    trained = count(trainable)
    if trainable and parameters:
        trained = f"{trained} ({percent(trainable / parameters)})"
    return [
        ("parameters", count(parameters)),
        ("of these trained", trained),
        ("quantisation of the base", str(detail.get("quantization") or "")),
        ("changes a log-probability by up to", f"{number(change, 2)} nats" if change else ""),
        ("data, sha256", str(detail.get("data_sha256") or "")),
    ]


def _incidents(detail: dict[str, Any]) -> list[Fact]:
    facts = [("went on after a break from", str(detail.get("resumed_from") or ""))]
    damaged = ", ".join(map(str, detail.get("damaged_checkpoints") or []))
    facts.append(("damaged checkpoints passed over", damaged))
    return facts + [("alarm", sentence) for sentence in alarms(detail)]


def _change(manifest: dict[str, Any], model: str) -> float | None:
    """The largest difference the adapter makes to a log-probability, as its scoring found it."""
    for name, stage in manifest.get("stages", {}).items():
        if name.startswith(f"score/{model}/"):
            change: float | None = (stage.get("detail") or {}).get("adapter_change")
            return change
    return None
