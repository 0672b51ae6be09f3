"""``medbench serve``: a tuned model behind the OpenAI format."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from . import options


def serve(
    run: Annotated[
        str, typer.Argument(metavar="RUN[:MODEL]", help="A tuned model of a run folder.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "localhost",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 8000,
    engine: Annotated[
        Literal["auto", "vllm", "transformers"],
        typer.Option(help="vLLM where it is installed and there is a GPU, else transformers."),
    ] = "auto",
    device: options.Device = "auto",
) -> None:
    """Serve a tuned model; evaluate it there with `medbench run --models NAME@http://HOST:PORT`."""
    import os
    import subprocess
    import sys
    import tempfile
    from pathlib import Path

    from ..harness.models import serving
    from ..harness.models.device import resolve_device
    from ..harness.quiet import ENVIRONMENT
    from ..harness.signals import stopped_in_order
    from ..harness.tuned import find_tuned

    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    tuned, at = find_tuned(run), serving.Address(host, port)
    device = resolve_device(device)
    chosen = serving.choose(engine, device)
    # The programs of this environment, also where it is not the shell's.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = os.environ | {"PATH": path}
    typer.echo(
        f"{tuned.name} by {chosen} at {at.url}; when it is ready:\n  {serving.said(tuned, at)}"
    )
    if chosen == "vllm":
        command = serving.vllm_command(tuned, at)
        os.execvpe(command[0], command, environment)  # noqa: S606
    with tempfile.TemporaryDirectory(prefix="medbench-serve-") as name:
        folder = serving.merged(tuned, Path(name))
        command = serving.transformers_command(tuned, at, device)
        with stopped_in_order(), subprocess.Popen(command, cwd=folder, env=environment) as server:
            try:
                raise typer.Exit(server.wait())
            finally:
                server.terminate()
