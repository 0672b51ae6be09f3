"""``medbench plan``: will it fit, and how long will it take?"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ..errors import InputError
from . import options


def plan(
    suite: options.Suite = "quickstart",
    models: options.Models = None,
    gpu: Annotated[
        str | None, typer.Option(help="Predict times, too: H200, H100, A100, L4, 4090 or T4.")
    ] = None,
    shards: Annotated[
        int, typer.Option(min=1, help="So many GPUs hold the base between them (FSDP).")
    ] = 1,
    form: Annotated[
        Literal["terminal", "md", "json"], typer.Option("--format", help="What is printed.")
    ] = "terminal",
    data_dir: options.DataDir = None,
    override: options.Override = None,
) -> None:
    """Predict memory and time of a suite's tuning, by precision; no weights are loaded."""
    import json

    from huggingface_hub.utils import logging as hub_logging
    from rich.console import Console
    from transformers.utils import logging as transformers_logging

    from ..harness.planning import forecast
    from ..harness.planning.plan import make_plan
    from ..harness.suite import load_suite
    from ..reports.sections.memory import markdown, print_forecast, read_forecast

    options.read_data_from(data_dir)
    chosen = make_plan(
        load_suite(suite, override),
        models=models,
        tasks=None,
        device="cuda",
        command="",
        weightless=True,
    )
    if not chosen.recipes:
        raise InputError(
            f"--suite {suite}: no model of it is tuned by a recipe; name one with --models, e.g. "
            "one that has adapter: {recipe: medical-o1-qlora}"
        )
    hub_logging.set_verbosity_error()
    transformers_logging.set_verbosity_error()
    with Console(stderr=True).status("Reading configs and rows, tracing two layers…"):
        found = forecast.of_plan(chosen, gpu, shards)
    if form == "json":
        typer.echo(json.dumps(found, indent=2, allow_nan=False))
        return
    shown = [read_forecast(one["model"], one) for one in found]
    if form == "md":
        typer.echo("\n".join(markdown(one) for one in shown), nl=False)
        return
    for one in shown:
        print_forecast(one, Console())
