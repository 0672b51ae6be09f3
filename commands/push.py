"""``medbench push``: a tuned model and its card to the Hugging Face Hub."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Literal

import typer


def push(
    run: Annotated[
        str, typer.Argument(metavar="RUN[:MODEL]", help="A tuned model of a run folder.")
    ],
    to: Annotated[str, typer.Option(help="Repository, OWNER/NAME; made where it is not there.")],
    what: Annotated[
        Literal["adapter", "merged", "both"], typer.Option(help="Which weights.")
    ] = "adapter",
    private: Annotated[bool, typer.Option("--private", help="Make it for your eyes only.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the files and the card; upload nothing.")
    ] = False,
) -> None:
    """Upload adapter or merged model, tokenizer and card; the token is HF_TOKEN or the login."""
    from ..harness.push import Parcel, check_repo, listing, staged, upload
    from ..harness.quiet import ENVIRONMENT
    from ..harness.tuned import find_tuned, public_name
    from ..reports import Report
    from ..reports.card import Subject, card
    from ..reports.formatting import size
    from ..reports.history.site import published
    from ..reports.redaction import PUBLIC

    check_repo(to)
    for key, value in ENVIRONMENT.items():
        if not (key == "HF_HUB_DISABLE_PROGRESS_BARS" and sys.stderr.isatty()):
            os.environ.setdefault(key, value)
    tuned = find_tuned(run)
    recipe = tuned.adapter / "recipe.yaml"
    config = json.loads((tuned.adapter / "adapter_config.json").read_text("utf-8"))
    subject = Subject(
        model=tuned.name,
        repo=to,
        base=public_name(tuned.base),
        kind=str(config.get("peft_type", "")).lower().replace("_", "-"),
        recipe=recipe.read_text("utf-8") if recipe.is_file() else "",
        what=what,
    )
    report = published(Report.read(tuned.run, PUBLIC))
    parcel = Parcel(tuned, what, to, card(report, subject))
    with staged(parcel) as folder:
        files = listing(folder)
        for path, count in files:
            typer.echo(f"{size(count):>10}  {path}")
        if dry_run:
            typer.echo(f"\n{parcel.card}\nNothing was uploaded to {to} (--dry-run).")
            return
        typer.echo(f"{len(files)} files: {upload(parcel, folder, private=private)}")
