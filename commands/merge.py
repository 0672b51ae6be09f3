"""``medbench merge``: an adapter folded into its base, one plain checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import InputError


def merge(
    out: Annotated[Path, typer.Option(help="Folder to make; replaced when it exists.")],
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN[:MODEL]]", help="A tuned model of a run folder."),
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="Instead of RUN: the base, a folder or a Hub id.")
    ] = None,
    adapter: Annotated[Path | None, typer.Option(help="Instead of RUN: the adapter.")] = None,
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        typer.Option(help="Of the merged weights; auto is the base's own."),
    ] = "auto",
    from_quantized: Annotated[
        bool,
        typer.Option(
            "--from-quantized",
            help="Merge into the dequantised weights of a base that is stored quantised.",
        ),
    ] = False,
) -> None:
    """Merge an adapter into its 16-bit base, and say how well merged and unmerged agree."""
    if (run is None) == (base is None and adapter is None) or (base is None) != (adapter is None):
        raise InputError("expected either RUN[:MODEL] or both --base and --adapter")
    from rich.console import Console

    from ..finetune.merge import RECORD, merge_adapter
    from ..harness.suite import ModelSpec
    from ..harness.tuned import find_tuned

    if run is not None:
        found = find_tuned(run)
        spec, folder = found.base, found.adapter
    else:
        assert base is not None  # noqa: S101  (checked above)
        assert adapter is not None  # noqa: S101
        spec, folder = ModelSpec(pretrained=base), adapter
    if out.exists() and not (out / RECORD).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(
            f"--out {out}: holds something that `medbench merge` did not write; choose another name"
        )
    with Console(stderr=True).status("Merging, and comparing the answers before and after…"):
        parity = merge_adapter(spec, folder, out, dtype=dtype, from_quantized=from_quantized)
    typer.echo(
        f"{out}: logits differ from base and adapter by at most {parity.max_rel:.2g} of the "
        f"largest, {parity.greedy_matched} of {parity.greedy_total} greedy tokens are the same "
        f"({parity.prompts} prompts; kept in {RECORD})"
    )
