"""Options that several commands take: their types and their words, each written once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError

Suite = Annotated[str, typer.Option(help="Built-in suite (quickstart, medical-o1) or a YAML file.")]
Models = Annotated[
    str | None, typer.Option(help="Models of the suite, comma-separated; all by default.")
]
Override = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override a key of the suite, e.g. models.base.pretrained=./my-model."
    ),
]
DataDir = Annotated[
    Path | None, typer.Option(help="Read data sets from DIR/<source>/ instead of the Hub.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Columns = Annotated[
    str | None, typer.Option(help="Columns of prediction files, e.g. doc_id=id,target=answer.")
]
Counting = Annotated[
    str | None, typer.Option(help="Tasks that count, comma-separated; all by default.")
]
Licensed = Annotated[
    str | None,
    typer.Option(help="Tasks whose text you may pass on whatever their licence, comma-separated."),
]


def read_data_from(folder: Path | None) -> None:
    """Let data sets be read from *folder*, in this process and those that it starts.

    Raises:
        InputError: It is no folder.
    """
    from ..tasks import sources

    if folder is None:
        return
    if not folder.is_dir():
        raise InputError(f"--data-dir {folder}: no such folder")
    os.environ[sources.DATA_DIR] = str(folder.resolve())
