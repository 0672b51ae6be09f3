"""``medbench ask``: one question, the answers of several models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from . import options

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def ask(
    question: Annotated[str, typer.Argument(help="What the models are asked.")],
    models: options.Models = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder with the adapters; by default runs/<suite>.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Built-in suite or a YAML file, instead of the run's own.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 512,
    show_reasoning: Annotated[
        bool, typer.Option("--show-reasoning", help="Show what stands before </think>, too.")
    ] = False,
    device: options.Device = "auto",
) -> None:
    """Ask models of a run one question; they answer greedily, in the words they were tuned by."""
    import os
    from contextlib import redirect_stderr

    from rich.console import Console
    from rich.live import Live

    from ..harness import ask as asking
    from ..harness.folder.store import RunFolder
    from ..harness.models.device import resolve_device
    from ..harness.quiet import ENVIRONMENT
    from ..harness.suite import load_suite, select
    from ..harness.tuned import suite_of

    if not question.strip():
        raise InputError("the question is empty")
    if run is None and suite is None:
        suite = "quickstart"
    chosen = suite_of(RunFolder.open(run)) if run and not suite else load_suite(str(suite))
    folder = RunFolder(run or Path("runs") / chosen.name)
    whole = [name for name, spec in chosen.models.items() if spec.of is None]
    names = select(models, whole, "--models")
    device = resolve_device(device)
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    said = dict.fromkeys(names, "")
    console = Console()
    with (
        Path(os.devnull).open("w") as nowhere,
        Live(console=console, transient=True, redirect_stderr=False) as live,
        redirect_stderr(nowhere),
    ):

        def hear(name: str, text: str) -> None:
            said[name] += text
            live.update(_columns(said, show_reasoning, height=console.height - 2))

        said = asking.ask(
            question, names, chosen, folder, hear, device=device, max_tokens=max_tokens
        )
    console.print(_columns(said, show_reasoning))


def _columns(said: dict[str, str], show_reasoning: bool, height: int | None = None) -> Table:
    """A column for each model; of a longer answer its last *height* lines while it grows."""
    from rich.table import Table
    from rich.text import Text

    table = Table(expand=True)
    for name in said:
        table.add_column(Text(name), ratio=1, overflow="fold", vertical="top")
    table.add_row(*(_shown(text, show_reasoning, height) for text in said.values()))
    return table


def _shown(said: str, show_reasoning: bool, height: int | None) -> Text:
    from rich.text import Text

    from ..reports.text import clean, split_reasoning

    reasoning, answer = split_reasoning(said)
    text = Text()
    if reasoning and show_reasoning:
        text.append(f"{clean(reasoning, len(reasoning))}\n\n", "dim")
    elif reasoning:
        words = f"{len(reasoning.split()):,}".replace(",", "\u00a0")
        text.append(f"reasoned for {words} words; --show-reasoning\n\n", "dim italic")
    text.append(clean(answer, len(answer)))
    if not answer and height is None:
        text.append(
            "no answer: cut off by --max-tokens" if reasoning else "no answer", "dim italic"
        )
    if height is not None and len(lines := text.split("\n")) > height:
        return Text("\n").join(lines[-height:])
    return text
