"""The rules of a gate that are not about answers: parity of exports, latency, memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ..environment import timed_on
from .result import Status, Verdict
from .rules import GateRules, LatencyRule, MemoryRule, ParityRule

if TYPE_CHECKING:
    from ..folder.store import RunFolder
    from .baseline import BaselineInfo

SAME = ("device", "processor", "cores", "gpus")
"""What must be the same of two machines for their times to be compared."""

_SERIES = ("engine", "format", "provider", "batch", "prompt_tokens", "output_tokens")
_PEAK = "peak_bytes"
_GIGABYTE = 1e9


@dataclass(frozen=True)
class Measured:
    """What is known of one model besides its answers.

    Attributes:
        name: What messages call it.
        hardware: Of the manifest's environment, the keys :data:`SAME` at least; empty: unknown.
        latency: Its rows of ``latency`` in results.json.
        parity: By export format, what the export measured of itself (docs/reference/run-folder.md).
        memory: Peak memory in bytes, by stage. Tuning on a GPU is the stage that measures it.
    """

    name: str
    hardware: dict[str, Any] = field(default_factory=dict)
    latency: list[dict[str, Any]] = field(default_factory=list)
    parity: dict[str, dict[str, Any]] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)


def of_run(run: RunFolder, model: str) -> Measured:
    """What *run* measured of *model*."""
    manifest = run.manifest()
    stages = {name: stage.get("detail") or {} for name, stage in manifest["stages"].items()}
    own = {name: detail for name, detail in stages.items() if model in name.split("/")[1:2]}
    return Measured(
        name=f"{run.path}:{model}",
        hardware=timed_on(manifest),
        latency=[row for row in run.results().get("latency", []) if row["model"] == model],
        parity={
            name.rsplit("/", 1)[1]: detail["parity"]
            for name, detail in own.items()
            if name.startswith("export/") and detail.get("parity")
        },
        memory={_stage(name): detail[_PEAK] for name, detail in own.items() if detail.get(_PEAK)},
    )


def of_baseline(info: BaselineInfo, name: str) -> Measured:
    """What a baseline file keeps of it: its times, neither parity nor memory."""
    return Measured(name, info.hardware, info.latency)


def judge_measured(
    rules: GateRules, candidate: Measured, baseline: Measured | None
) -> Iterator[Verdict]:
    """The verdicts on parity, latency and memory, where there are rules for them.

    Raises:
        InputError: A rule is about something that was not measured, or on another machine.
    """
    if rules.parity:
        yield from _parity(rules.parity, candidate)
    if rules.latency:
        yield from _latency(rules.latency, candidate, _required(baseline, "latency"))
    if rules.memory:
        yield from _memory(rules.memory, candidate, baseline)


def _parity(rule: ParityRule, candidate: Measured) -> Iterator[Verdict]:
    if not candidate.parity:
        raise InputError(
            f"gate: parity: {candidate.name} has no export whose parity was measured; name a run "
            "folder with exports, or leave the rule out"
        )
    for kind, found in candidate.parity.items():
        for key in ("max_abs", "max_rel"):
            limit = getattr(rule, key)
            if limit is not None:
                said = f"largest difference of a logit {found[key]:.3g}"
                said += " of the largest logit" if key == "max_rel" else ""
                yield _plain("parity", f"{kind}, {key}", found[key], limit, said, None)
        if rule.greedy is not None:
            matched, total = found["greedy_matched"], found["greedy_total"]
            share = matched / total if total else 0.0
            yield Verdict(
                "parity", f"{kind}, greedy", "pass" if share >= rule.greedy else "regression",
                share, rule.greedy, None, None, total, None,
                f"{kind}: {matched} of {total} greedy tokens are torch's; "
                f"at least {100 * rule.greedy:g} % must be.",
            )  # fmt: skip


def _latency(rule: LatencyRule, candidate: Measured, baseline: Measured) -> Iterator[Verdict]:
    for side in (candidate, baseline):
        if not side.latency:
            raise InputError(
                f"gate: latency: no timings of {side.name}; measure them in the suite's section "
                "latency, or leave the rule out"
            )
    _same_hardware(candidate, baseline)
    before = {_key(row): row for row in baseline.latency}
    shared = [(before[_key(row)], row) for row in candidate.latency if _key(row) in before]
    if not shared:
        raise InputError(
            f"gate: latency: {candidate.name} and {baseline.name} timed no request of the same "
            "engine, format, provider, batch and lengths; measure both by the same suite"
        )
    for old, new in shared:
        for figure in rule.figures:
            yield _ratio(rule, figure, old, new)


def _ratio(rule: LatencyRule, figure: str, old: dict[str, Any], new: dict[str, Any]) -> Verdict:
    """Unstable series decide nothing, in either direction."""
    ratio = new[figure] / old[figure]
    unstable = bool(old.get("unstable") or new.get("unstable"))
    decided: Status = "pass" if ratio <= rule.ratio else "regression"
    label = f"{_series(new)}, {figure}"
    said = (
        f"{label}: {new[figure]:.3g} ms, baseline {old[figure]:.3g} ms, ratio {ratio:.3g}; "
        f"at most {rule.ratio:g} is allowed"
    )
    said += "; a series is unstable, so measure again on a quiet machine" if unstable else ""
    return Verdict(
        "latency", label, "inconclusive" if unstable else decided, ratio, rule.ratio, None, None,
        int(new["n"]), None, f"{said}.",
    )  # fmt: skip


def _same_hardware(candidate: Measured, baseline: Measured) -> None:
    for side in (candidate, baseline):
        if not side.hardware:
            raise InputError(
                f"gate: latency: on what {side.name} was measured is unknown, so its times cannot "
                "be compared; measure both on one machine, or leave the rule out"
            )
    for key in SAME:
        one, other = (side.hardware.get(key) for side in (baseline, candidate))
        if one != other:
            raise InputError(
                f"gate: latency: the baseline was measured on other hardware ({key}: {one!r}, now "
                f"{other!r}), so a ratio would compare machines; measure both on one, or leave the "
                "rule out"
            )


def _memory(rule: MemoryRule, candidate: Measured, baseline: Measured | None) -> Iterator[Verdict]:
    if not candidate.memory:
        raise InputError(
            f"gate: memory: no peak memory of {candidate.name} was measured (tuning on a GPU "
            "measures it); name a run that was tuned there, or leave the rule out"
        )
    if rule.gigabytes is not None:
        for name, peak in candidate.memory.items():
            size = peak / _GIGABYTE
            yield _plain("memory", name, size, rule.gigabytes, f"peak memory {size:.3g} GB", None)
    if rule.ratio is None:
        return
    before = _required(baseline, "memory").memory
    shared = [name for name in candidate.memory if name in before]
    if not shared:
        raise InputError(
            f"gate: memory: {candidate.name} and its baseline measured no stage in common; "
            "use 'gigabytes', or name as baseline a run folder whose model was tuned on a GPU"
        )
    for name in shared:
        ratio = candidate.memory[name] / before[name]
        said = f"peak memory {ratio:.3g} of the baseline's"
        yield _plain("memory", name, ratio, rule.ratio, said, None)


def _plain(
    rule: str, label: str, observed: float, limit: float, said: str, n: int | None
) -> Verdict:
    """A value that is no estimate and must not exceed its limit."""
    return Verdict(
        rule, label, "pass" if observed <= limit else "regression", observed, limit, None, None, n,
        None, f"{label}: {said}; at most {limit:g} is allowed.",
    )  # fmt: skip


def _required(baseline: Measured | None, rule: str) -> Measured:
    if baseline is None:
        raise InputError(f"gate: {rule}: a ratio needs something to compare with; give --baseline")
    return baseline


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in _SERIES)


def _series(row: dict[str, Any]) -> str:
    engine, kind, provider, batch, prompt, output = _key(row)
    return f"{engine} {kind} {provider} {batch} × {prompt} → {output}"


def _stage(name: str) -> str:
    """``score/tuned/medqa`` without the model, which the baseline's stage does not share."""
    first, _, *rest = name.split("/")
    return "/".join([first, *rest])
