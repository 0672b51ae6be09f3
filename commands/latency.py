"""``medbench latency``: how fast a model answers here, in several engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from . import options


def latency(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER",
            help="A transformers checkpoint, an ONNX export, or embedded:clinic.",
        ),
    ],
    formats: Annotated[
        str, typer.Option(help="ONNX formats to export, comma-separated; auto, all.")
    ] = "auto",
    engines: Annotated[
        str, typer.Option(help="Comma-separated: onnxruntime, torch, torch-compiled, vllm.")
    ] = "onnxruntime,torch",
    override: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="A key of a suite's latency section, e.g. 'prompt_tokens=[128, 512]'."
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="One prompt a line, or a table with a column 'prompt'."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; by default latency/<name of FOLDER>.")
    ] = None,
    before: Annotated[
        Path | None, typer.Option("--against", help="An earlier measurement to compare with.")
    ] = None,
    device: options.Device = "auto",
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that the checkpoint ships.")
    ] = False,
) -> None:
    """Measure a model's latency and memory, beside torch and this machine's floor."""
    from ..harness.latency import folder as folders
    from ..harness.latency.settings import read_settings
    from ..harness.models.device import resolve_device
    from ..harness.quiet import quiet
    from ..harness.suite import EMBEDDED

    source = EMBEDDED.get(folder, Path(folder))
    name = folder.removeprefix("embedded:") if folder in EMBEDDED else source.resolve().name
    settings = read_settings(override or [], engines)
    kind = resolve_device(device)
    asked = folders.check(
        folders.Asked(
            folder=source,
            name=name,
            out=out or Path("latency") / name,
            device=kind,
            formats=folders.formats_of(formats, kind),
            prompts=prompts,
            settings=settings,
            trust_remote_code=trust_remote_code,
        )
    )
    if before is not None and not (before / "timings.parquet").is_file():
        raise InputError(
            f"--against {before}: no timings.parquet there; expected a folder that `medbench "
            "latency` or `medbench run` measured"
        )
    with quiet(asked.out / "run.log") as terminal:
        from rich.console import Console

        from ..harness.board import Board
        from ..reports.sections.latency_terminal import print_against, print_latency

        console = Console(file=terminal)
        with Board(console) as board:
            result = folders.run(asked, board)
        print_latency(result, console)
        if before is not None:
            print_against(folders.compared(asked.out, before), console)
        console.print(f"Written: {asked.out}", markup=False, highlight=False, soft_wrap=True)
