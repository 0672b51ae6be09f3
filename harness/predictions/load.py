"""One side of a comparison, wherever its answers come from, as a samples table.

A side is a model of a run folder, a baseline file, what lm-eval logged, or anybody's predictions
in a plain file; docs/reference/predictions.md says what may stand in one.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from ...errors import InputError
from ..folder.samples import FILE, known_by_document, of_model
from ..folder.samples import models as models_of
from ..folder.store import RunFolder
from ..gate import baseline
from .files import read_records
from .lm_eval import is_lm_eval, load_lm_eval_file, load_lm_eval_folder, model_of
from .reader import KEYS
from .rows import COLUMNS, to_samples


@dataclass(frozen=True)
class Side:
    """One model's answers.

    Attributes:
        name: What the model is called.
        samples: The samples table (docs/reference/run-folder.md), of this model alone.
        origin: Where it comes from, in words.
        notes: What a reader must know of how it was read; one sentence each.
        run: Where the texts are that :func:`numbers_of` left out of *samples*.
    """

    name: str
    samples: pd.DataFrame
    origin: str
    notes: tuple[str, ...] = ()
    run: RunFolder | None = None

    def with_texts(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The samples of the questions of *rows*, with their texts."""
        hashes = set(rows["doc_hash"])
        if self.run is None:
            return self.samples[self.samples["doc_hash"].isin(hashes)]
        return of_model(self.run, self.name, _LEFT, hashes=hashes)


def numbers_of(paths: Sequence[str], columns: dict[str, str] | None = None) -> Iterator[Side]:
    """The sides at *paths*, one at a time; without their texts where no text can matter.

    None does where all are run folders that know every question by its document's hash: then
    questions, options and generated texts are read later, of the few answers that are shown.

    Raises:
        InputError: As for :func:`load_side`.
    """
    runs = [_run_of(path) for path in paths]
    known = [found for found in runs if found and known_by_document(found[0])]
    for path, found in zip(paths, runs, strict=True):
        if found and len(known) == len(paths):
            yield _numbers_of(*found)
        else:
            yield load_side(path, columns)


_LEFT = ("prompt", "option_scores", "confidence", "output_tokens")
"""What no comparison looks at."""


def _numbers_of(run: RunFolder, model: str | None) -> Side:
    # Tasks that ask the same questions are told by the questions' words, or by names of those.
    found = _of_run(run, model, leave_out=(*_LEFT, "options", "output"), named=["question"])
    return replace(found, run=run)


def _run_of(path: str) -> tuple[RunFolder, str | None] | None:
    """The scored run that *path* names, and the model; None where it names none."""
    folder, _, model = path.rpartition(":")
    for place, name in ((path, None), (folder, model)):
        if place and (Path(place) / "manifest.json").is_file():
            run = RunFolder.open(place)
            return (run, name) if (run / FILE).is_file() else None
    return None


def load_side(path: str | Path, columns: dict[str, str] | None = None) -> Side:
    """The side at *path*.

    Args:
        path: A run folder (``RUN``, or ``RUN:model`` where it holds several), an lm-eval output
            folder, or a file: baseline, ``samples_*.jsonl`` of lm-eval, or plain predictions.
        columns: Which column of a plain file holds what, ``{"doc_id": "id", …}``; a value that
            begins with ``=`` is itself what stands in every row. For lm-eval's samples ``score``
            and ``filter`` name the metric and the filter that count.

    Raises:
        InputError: There is nothing at *path* that can be read without guessing.
    """
    columns = dict(columns or {})
    folder, _, model = str(path).rpartition(":")
    found = Path(path)
    if not found.exists() and folder and Path(folder).is_dir():
        return _of_run(RunFolder.open(folder), model)
    if not found.exists():
        raise InputError(f"{path}: no such file or folder; give a run folder or predictions")
    if found.is_dir():
        if (found / "manifest.json").is_file():
            return _of_run(RunFolder.open(found), None)
        name, samples = load_lm_eval_folder(found, columns)
        return Side(name, samples, f"lm-eval output {found}")
    if baseline.is_baseline(found):
        info, samples = baseline.read(found)
        return Side(info.model, samples, f"baseline {found}")
    with _no_collection():
        return _of_file(found, columns)


def _of_file(found: Path, columns: dict[str, str]) -> Side:
    records = read_records(found)
    if is_lm_eval(records):
        name = model_of(found.parent) or found.stem
        samples = load_lm_eval_file(records, columns).assign(model=name)
        return Side(name, samples, f"lm-eval samples {found}")
    samples, notes = to_samples(records, columns)
    return Side(found.stem, samples.assign(model=found.stem), f"predictions {found}", notes)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Garbage collection off: millions of small objects are made and none of them is a cycle.

    Reading 100,000 rows of 530 bytes takes a third longer with it.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def parse_columns(text: str) -> dict[str, str]:
    """``task=subject,doc_id=id`` as ``{"task": "subject", "doc_id": "id"}``.

    Raises:
        InputError: A part is no ``NAME=COLUMN``, a name is unknown or stands there twice.
    """
    found: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, column = part.partition("=")
        if not (name and equals and column):
            raise InputError(f"--columns {part}: expected NAME=COLUMN, such as doc_id=id")
        if name not in (*KEYS, "filter"):
            raise InputError(f"--columns {part}: unknown name {name!r}; known: {', '.join(KEYS)}")
        if name in found:
            raise InputError(f"--columns {text}: {name!r} stands there twice; keep one of them")
        found[name] = column
    return found


def _of_run(
    run: RunFolder,
    model: str | None,
    leave_out: Sequence[str] = (),
    named: Sequence[str] = (),
) -> Side:
    folder = run.path
    if not (run / FILE).is_file():
        raise InputError(
            f"{folder}/samples.parquet: missing, so no model was scored; finish the run first"
        )
    models = models_of(run)
    if model is None and len(models) > 1:
        raise InputError(
            f"{folder}: holds several models; name one as {folder}:{models[-1]} "
            f"(models: {', '.join(models)})"
        )
    name = models[0] if model is None else model
    if name not in models:
        raise InputError(f"{folder}: no model {name!r} in it; its models: {', '.join(models)}")
    chosen = of_model(run, name, leave_out, named=named)
    absent = [key for key in COLUMNS if key not in chosen and key not in leave_out]
    return Side(name, chosen.assign(**dict.fromkeys(absent)), str(folder))
