"""``medbench baseline``: the scores a model is held to, as a file for the repository."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError

if TYPE_CHECKING:
    from ..harness.gate.baseline import BaselineInfo

baseline = typer.Typer(
    help="Keep the scores that `medbench gate` compares with in a small file.",
    no_args_is_help=True,
)


@baseline.command()
def update(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE",
            help="What `medbench gate` would judge: a run folder or predictions.",
        ),
    ],
    out: Annotated[Path, typer.Option(dir_okay=False, help="The baseline file.")] = Path(
        "medbench-baseline.jsonl"
    ),
    columns: Annotated[
        str,
        typer.Option(
            metavar="NAME=COLUMN,…", help="Which column of a plain file holds what: doc_id=id."
        ),
    ] = "",
) -> None:
    """Write the baseline file and say what changed; commit it in a pull request of its own."""
    from rich.console import Console

    from ..harness.gate import baseline as files
    from ..harness.gate.sides import candidate_and_baseline
    from ..harness.predictions.load import parse_columns
    from ..reports.comparing.baseline import changes

    before = None
    if out.exists():
        if not files.is_baseline(out):
            raise InputError(f"--out {out}: is no baseline of medbench; choose another name")
        before = files.read(out)[1]
    side = candidate_and_baseline(source, None, parse_columns(columns), compared=False)[0].side
    files.write(side.samples, _info(source, side.name), out)
    console = Console()
    console.print(changes(before, files.read(out)[1]))
    console.print(f"Baseline: {out}", highlight=False, markup=False, soft_wrap=True)


@baseline.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A baseline file.")] = Path(
        "medbench-baseline.jsonl"
    ),
    ref: Annotated[
        str | None, typer.Option(help="Read it from this branch, tag or commit instead.")
    ] = None,
) -> None:
    """Say whose scores a baseline file holds, and which."""
    from rich.console import Console

    from ..harness.gate import baseline as files
    from ..reports.comparing.baseline import description

    info, samples = files.read_at_ref(ref, file) if ref else files.read(file)
    Console().print(description(info, samples))


def _info(source: str, model: str) -> BaselineInfo:
    """What is known of *model*: more where *source* is a run folder."""
    from ..harness.folder.store import RunFolder
    from ..harness.gate.baseline import BaselineInfo, info_of_run

    for folder in (source, source.rpartition(":")[0]):
        if folder and (Path(folder) / "manifest.json").is_file():
            run = RunFolder.open(folder)
            if run.manifest().get("status") != "done":
                raise InputError(
                    f"{folder}: the run is not finished; finish it with the command that started "
                    "it, then make the baseline"
                )
            return info_of_run(run, model)
    return BaselineInfo(model)
