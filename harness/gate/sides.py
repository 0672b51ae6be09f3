"""Which two sides a comparison or a gate is about, from what stands on the command line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ...errors import InputError
from ..config import explain
from ..folder.store import RunFolder
from ..predictions.load import Side, load_side, numbers_of
from . import baseline, measured
from .measured import Measured
from .rules import GateRules, load_rules


@dataclass(frozen=True)
class Gated:
    """One side of a gate: its answers, and what else was measured of it."""

    side: Side
    measured: Measured


def bases_of(run: RunFolder) -> dict[str, str]:
    """``{tuned: base}`` of the models of a run, in its order."""
    manifest = run.manifest()
    specs = manifest["suite"]["models"]
    return {name: specs[name]["base"] for name in manifest["models"] if specs[name].get("base")}


def tuned_pairs(path: str) -> Iterator[tuple[Side, Side]]:
    """(base, tuned) for every tuned model of the run folder *path*, one pair at a time.

    Raises:
        InputError: *path* is no run folder, or no tuned model was scored there beside its base.
    """
    if not (Path(path) / "manifest.json").is_file():
        raise InputError(
            f"{path}: nothing to compare it with; name a second side, or a run folder that holds a "
            "tuned model and its base"
        )
    run = RunFolder.open(path)
    pairs = bases_of(run)
    if not pairs:
        raise InputError(
            f"{path}: holds no tuned model to compare with its base; name a second side"
        )
    base: Side | None = None
    for tuned, name in pairs.items():
        if base is None or base.name != name:
            base, other = numbers_of([f"{path}:{name}", f"{path}:{tuned}"])
        else:
            (other,) = numbers_of([f"{path}:{tuned}"])
        yield base, other


def rules_of(candidate: str, path: Path | None) -> GateRules:
    """The rules in *path*, else those of the suite of the run folder *candidate*, else the default.

    Raises:
        InputError: The rules cannot be read.
    """
    if path is not None:
        return load_rules(path)
    folder, _ = _run(candidate)
    if folder is None:
        return GateRules()
    given = RunFolder.open(folder).manifest()["suite"].get("gate")
    try:
        return GateRules() if given is None else GateRules.model_validate(given)
    except ValidationError as error:
        raise InputError(explain(f"{folder}/manifest.json: gate", error, GateRules)) from None


def candidate_and_baseline(
    candidate: str, against: str | None, columns: dict[str, str] | None, compared: bool
) -> tuple[Gated, Gated | None]:
    """The two sides of a gate.

    Args:
        candidate: A run folder, ``RUN:model``, or predictions. Of a run folder with several models
            the only tuned one is meant.
        against: The same, or a baseline file, or a git commit, ``REF`` or ``REF:PATH``, that holds
            one. None: the candidate's own base.
        columns: Of plain prediction files; see predictions.load_side.
        compared: Whether the rules compare at all; where not, no baseline is needed.

    Raises:
        InputError: One of the two cannot be told.
    """
    folder, model = _run(candidate)
    if folder is None:
        one = load_side(candidate, columns)
        found = Gated(one, Measured(one.name))
        if against is None and compared:
            raise InputError(
                f"{candidate}: nothing to compare it with; give --baseline, "
                "a run folder, a file or a git commit"
            )
        return found, None if against is None else _baseline(against, None, columns)
    run = RunFolder.open(folder)
    bases = bases_of(run)
    if model is None:
        model = _only(folder, list(bases) or run.manifest()["models"])
    found = _of_run(run, model)
    if against is not None:
        return found, _baseline(against, model, columns)
    if model in bases:
        return found, _of_run(run, bases[model])
    if compared:
        raise InputError(
            f"{candidate}: {model} was not tuned there, so it has no base to be compared with; "
            "give --baseline, a run folder, a file or a git commit"
        )
    return found, None


def _baseline(against: str, model: str | None, columns: dict[str, str] | None) -> Gated:
    folder, named = _run(against)
    if folder is not None:
        run = RunFolder.open(folder)
        models = run.manifest()["models"]
        if named is None and model in models:
            named = model
        if named is None:
            named = _only(folder, list(bases_of(run)) or models)
        return _of_run(run, named)
    path = Path(against)
    if path.exists() and not baseline.is_baseline(path):
        side = load_side(against, columns)
        return Gated(side, Measured(side.name))
    if path.exists():
        info, samples = baseline.read(path)
    else:
        ref, _, inside = against.partition(":")
        info, samples = baseline.read_at_ref(ref, inside or baseline.FILE)
    side = Side(info.model, samples, f"baseline {against}")
    return Gated(side, measured.of_baseline(info, against))


def _run(argument: str) -> tuple[str | None, str | None]:
    """(folder, model) where *argument* names a run folder, else (None, None)."""
    if (Path(argument) / "manifest.json").is_file():
        return argument, None
    folder, _, model = argument.rpartition(":")
    if folder and not Path(argument).exists() and (Path(folder) / "manifest.json").is_file():
        return folder, model
    return None, None


def _of_run(run: RunFolder, model: str) -> Gated:
    return Gated(load_side(f"{run.path}:{model}"), measured.of_run(run, model))


def _only(folder: str, models: list[str]) -> str:
    if len(models) != 1:
        raise InputError(
            f"{folder}: holds several models; name one as {folder}:{models[-1]} "
            f"(models: {', '.join(models)})"
        )
    return models[0]
