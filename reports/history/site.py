"""A folder of runs as a static site: an index, a report for each run, a history for each suite.

Every file is self-contained HTML, so any static host serves it and no build step is needed. A site
is meant to be read by others: texts go through redaction.py, and what runs say of themselves names
no folder of the machine that made them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import InputError
from ...harness.folder.store import RunFolder, atomic_path
from .. import as_json, html
from ..card import public
from ..evidence import Fact, Stage
from ..figures.charts import draw
from ..figures.history import draw as draw_history
from ..redaction import PUBLIC, Sharing
from ..report import Report
from . import html as history_html
from .history import read_history

GENERATOR = '<meta name="generator" content="medbench">'
"""Stands in the index of every site; what has none is not replaced."""
FAILED = "The reason is in the run's folder."


@dataclass(frozen=True)
class Entry:
    """One run of the index; ``history`` is the page of its suite's history, or empty."""

    folder: str
    report: Report
    history: str = ""


def find_runs(places: Iterable[Path]) -> list[RunFolder]:
    """Every run folder at or below *places*, in alphabetical order.

    Raises:
        InputError: There is none, or one has a format that this medbench does not read.
    """
    found: dict[Path, RunFolder] = {}
    for place in places:
        if not place.is_dir():
            raise InputError(f"{place}: no such folder; name a folder of run folders")
        for folder, below, files in os.walk(place):
            below[:] = sorted(name for name in below if not name.startswith("."))
            if "manifest.json" in files and RunFolder(folder).is_run():
                below[:] = []  # no run lies inside another
                found.setdefault(Path(folder).resolve(), RunFolder.open(folder))
    if not found:
        named = ", ".join(map(str, places))
        raise InputError(f"{named}: no run folder there; make one with `medbench run --out DIR`")
    return list(found.values())


def build_site(
    runs: Sequence[RunFolder],
    out: Path,
    sharing: Sharing = PUBLIC,
    progress: Callable[[str], object] = lambda name: None,
) -> list[Entry]:
    """Write the site of *runs* into *out*, which is replaced when all of it is there.

    Args:
        progress: Called with the name of each run before its report is made.

    Raises:
        InputError: *out* holds something else than a site, or a run cannot be read.
    """
    _check_free(out)
    with atomic_path(out) as draft:
        draft.mkdir()
        entries = []
        for name, run in zip(_names(runs), runs, strict=True):
            progress(name)
            report = published(Report.read(run, sharing))
            folder = draft / name
            folder.mkdir()
            (folder / "index.html").write_text(html.render(report, draw(report)), "utf-8")
            (folder / "report.json").write_text(as_json.render(report), "utf-8")
            entries.append(Entry(name, report))
        entries = _histories(draft, runs, entries)
        entries.sort(key=lambda entry: entry.report.created, reverse=True)
        index = html.render_page("index.html.j2", entries=entries, left_out=_left_out(entries))
        (draft / "index.html").write_text(index, "utf-8")
        (draft / ".nojekyll").write_text("", "utf-8")  # else GitHub Pages would run Jekyll over it
    return entries


def published(report: Report) -> Report:
    """The report without folders of this machine, and without messages that may quote data."""
    problems = [
        f"{one.partition(': ')[0]}. {FAILED}" if one.startswith("Stage ") and ": " in one else one
        for one in report.problems
    ]
    return replace(
        report,
        command=public(report.command),
        resolved_suite=public(report.resolved_suite),
        notes=tuple(map(public, report.notes)),
        problems=tuple(map(public, problems)),
        models=tuple(replace(model, origin=public(model.origin)) for model in report.models),
        tasks=tuple(replace(task, source=public(task.source)) for task in report.tasks),
        trainings=tuple(replace(one, facts=_public(one.facts)) for one in report.trainings),
        environment=_public(report.environment),
        stages=tuple(_silent(stage) for stage in report.stages),
    )


def _public(facts: Iterable[Fact]) -> tuple[Fact, ...]:
    return tuple((label, public(value)) for label, value in facts)


def _silent(stage: Stage) -> Stage:
    return replace(stage, error=FAILED if stage.error else "")


def _check_free(out: Path) -> None:
    index = out / "index.html"
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not index.is_file() or GENERATOR not in index.read_text("utf-8", errors="replace"):
        raise InputError(
            f"--out {out}: there is something else than a site of medbench; name another folder"
        )


def _names(runs: Sequence[RunFolder]) -> list[str]:
    """A folder name for each run: its own, with a number where several have the same."""
    names: list[str] = []
    for run in runs:
        plain = re.sub(r"[^\w.-]+", "-", run.path.resolve().name).strip(".-") or "run"
        plain = f"{plain}-run" if plain == "history" else plain
        taken = (f"{plain}-{n}" if n > 1 else plain for n in range(1, len(runs) + 1))
        names.append(next(name for name in taken if name not in names))
    return names


def _histories(draft: Path, runs: Sequence[RunFolder], entries: list[Entry]) -> list[Entry]:
    """A page for each suite of which several runs have a model in common."""
    suites = dict.fromkeys(entry.report.suite for entry in entries)
    made = {}
    for number, suite in enumerate(suites, 1):
        chosen = [
            run for run, entry in zip(runs, entries, strict=True) if entry.report.suite == suite
        ]
        if len(chosen) < 2:
            continue
        try:
            history = read_history(chosen)
        except InputError:
            continue  # no model is in two of them
        safe = replace(
            history,
            runs=tuple(replace(run, report=published(run.report)) for run in history.runs),
        )
        made[suite] = f"history/{number}.html"
        path = draft / made[suite]
        path.parent.mkdir(exist_ok=True)
        path.write_text(history_html.render(safe, draw_history(safe)), "utf-8")
    return [replace(entry, history=made.get(entry.report.suite, "")) for entry in entries]


def _left_out(entries: Sequence[Entry]) -> list[str]:
    """What is left out of every report, each sentence once."""
    return list(dict.fromkeys(note for entry in entries for note in entry.report.left_out))
