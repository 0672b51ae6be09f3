"""Shows a run on a terminal: one line a finished stage, a bar under the one that runs."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from .progress import Tick


class Board:
    """A :class:`~medbench.harness.run.Watcher` for people.

    Off a terminal (a CI log) it prints the finished stages only.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            # By default rich takes what libraries print, bars and all, and shows it above its own.
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Board:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def begin(self, stage: str) -> Tick:
        """Put a bar up for *stage*, beside those of others that run."""
        self._take_down(stage)
        task = self._tasks[stage] = self._bar.add_task(escape(stage), total=None, note="")

        def tick(done: int, total: int, note: str = "") -> None:
            self._bar.update(task, completed=done, total=total, note=escape(note))

        return tick

    def end(self, stage: str, seconds: float | None, detail: dict[str, Any]) -> None:
        """Print the line of a finished stage, or of one that failed beside others."""
        self._bar.refresh()  # a quick stage would be gone before it was seen to be full
        self._take_down(stage)
        if failed := detail.get("failed"):
            self._console.print(f"[red]✗[/] {escape(failed)}", highlight=False, soft_wrap=True)
            return
        redone = detail.get("redone")
        again = f"  [yellow]again: {escape(redone)}[/]" if redone else ""
        time = "done before" if seconds is None else f"{seconds:7.1f} s"
        said = f"[dim]{escape(remark(stage, detail))}[/]{again}"
        self._console.print(
            f"[green]✓[/] {escape(stage):<26} {time:>11}  {said}",
            highlight=False,
            soft_wrap=True,
        )

    def _take_down(self, stage: str) -> None:
        if stage in self._tasks:
            self._bar.remove_task(self._tasks.pop(stage))


def remark(stage: str, detail: dict[str, Any]) -> str:
    """What is worth saying of a finished stage in a few words."""
    kind = stage.split("/")[0]
    if kind == "tune":
        return (
            f"loss {detail['loss_first']:.2f} → {detail['loss_last']:.2f}, "
            f"{detail['rows']} rows, {detail['steps']} steps{_beside(detail)}"
        )
    if kind == "overlap":
        return f"{detail['pairs']} pairs to read in {detail['checks']} checks"
    if kind == "score":
        return f"{detail['value']:.3f} over {detail['n']}{_taken_up(detail)}"
    if kind == "export":
        parity = detail["parity"]
        return (
            f"{detail['bytes'] / 1e6:.1f} MB, {parity['greedy_matched']} of "
            f"{parity['greedy_total']} greedy tokens as torch"
        )
    if kind == "latency":
        return f"{detail['requests']} requests"
    return ""


def _taken_up(detail: dict[str, Any]) -> str:
    """What a run before this one had answered, and what of that was lost."""
    before, damaged = detail.get("answered_before"), detail.get("damaged_parts")
    said = f", {before:,} requests answered before" if before else ""
    return said + (f", {damaged} parts of answers were damaged" if damaged else "")


def _beside(detail: dict[str, Any]) -> str:
    """What went unlike it should while tuning."""
    said = [f"on from {detail['resumed_from']}"] if detail.get("resumed_from") else []
    said += [f"{name} was damaged" for name in detail.get("damaged_checkpoints", [])]
    said += [f"{detail['too_long']} rows too long"] if detail.get("too_long") else []
    said += [f"alarm: {alarm['kind']}" for alarm in detail.get("alarms", [])]
    return "".join(f", {one}" for one in said)
