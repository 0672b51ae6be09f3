"""The report of a run, told to the experiment trackers that its recipes name in ``watch``.

A tracker gets numbers, sentences and figures, and nothing of a single question or answer. Each
tuned model's report goes where its training curves are: the same run of TensorBoard, MLflow and
trackio; in W&B, which cannot go on with a run offline, a run of its own in the same group.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..finetune.watch import watching
from ..harness.folder.store import RunFolder
from .figures.charts import Chart, draw
from .formatting import missing
from .history.site import published
from .markdown import escape
from .redaction import Sharing
from .report import Report
from .sections.scores import Group, Score, Task

Cell = str | float | int | None

COLUMNS = (
    "task", "metric", "model", "score", "low", "high", "n",
    "base", "difference", "difference_low", "difference_high", "p", "p_holm", "verdict",
)  # fmt: skip
SILENT = Sharing("none", published=True)
"""No tracker shows single questions, so none are read."""
TOLD = "watch/reports.json"
"""A digest of what each tracker was told: the same command given again tells nothing twice."""


@dataclass(frozen=True)
class Account:
    """What a tracker is told of one tuned model.

    Attributes:
        name: The tuned model, which trackers know as a run.
        config: What the run was: suite, base, date, command.
        rows: A row of :data:`COLUMNS` for each model on each task, groups of tasks first. Scores
            as results.json has them (accuracies are shares of 1), None where there is none.
        values: The tuned model's own scores and differences by ``<what>/<task>``, finite.
        text: Headlines and the table, as Markdown.
        charts: The figures of the whole run.
    """

    name: str
    config: dict[str, str]
    rows: tuple[tuple[Cell, ...], ...]
    values: dict[str, float]
    text: str
    charts: tuple[Chart, ...]

    @property
    def digest(self) -> str:
        said = [self.rows, self.values, [chart.svg for chart in self.charts]]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def tell(run: RunFolder, trackers: Mapping[str, Sequence[str]]) -> list[str]:
    """Tell trackers of the report of *run*; their files are in its ``watch/``.

    Args:
        run: A run that is done.
        trackers: The trackers of each tuned model.

    Returns:
        A warning for each tracker that failed; the traceback goes to stderr. A run that is done
        does not fail because of one.
    """
    if not any(trackers.values()):
        return []
    report = published(Report.read(run, SILENT))
    charts = draw(report)
    told, warnings = _told(run / TOLD), []
    for model, names in trackers.items():
        account = account_of(report, model, charts)
        for tracker in names:
            if told.get(f"{tracker}/{model}") == account.digest:
                continue
            try:
                with watching([tracker], run / "watch", model):
                    _TRACKERS[tracker](account)
                told[f"{tracker}/{model}"] = account.digest
                run.write_json(TOLD, told)
            except Exception as error:
                traceback.print_exc()
                cause = " ".join(str(error).split())[:160] or type(error).__name__
                warnings.append(
                    f"{tracker} was not told of {model}'s report: {cause}. The run is whole, and "
                    f"the same command tries again (traceback in {run / 'run.log'})"
                )
    return warnings


def account_of(report: Report, model: str, charts: Sequence[Chart] = ()) -> Account:
    """What *report* says, as a tracker takes it; *model* is the tuned model that it is told of."""
    parts = _parts(report)
    base = next((one.base for one in report.models if one.name == model), None)
    config = {
        "suite": report.suite, "model": model, "base": base or "", "created": report.created,
        "command": report.command,
    }  # fmt: skip
    return Account(
        name=model,
        config=config,
        rows=tuple(_row(part, score) for part in parts for score in part.scores),
        values={
            f"{what}/{part.name}": float(value)
            for part in parts
            for score in part.scores
            if score.model == model
            for what, value in _values(score)
            if value is not None and not missing(value)
        },
        text=_markdown(report),
        charts=tuple(charts),
    )


def _parts(report: Report) -> list[Task | Group]:
    return [*report.groups, *report.tasks]


def _row(part: Task | Group, score: Score) -> tuple[Cell, ...]:
    one = score.comparison
    paired: tuple[Cell, ...] = (None,) * 7
    if one:
        paired = (
            one.base, one.difference, one.low, one.high, one.p, one.p_holm, one.verdict,
        )  # fmt: skip
    cells = (
        part.name, part.metric, score.model, score.value, score.low, score.high, score.n, *paired,
    )  # fmt: skip
    return tuple(None if isinstance(cell, float) and missing(cell) else cell for cell in cells)


def _values(score: Score) -> Iterator[tuple[str, float | None]]:
    yield "score", score.value
    if one := score.comparison:
        yield "base_score", one.a
        yield "difference", one.difference
        yield "difference_low", one.low
        yield "difference_high", one.high
        yield "p_holm", one.p if one.p_holm is None else one.p_holm


def _markdown(report: Report) -> str:
    head = (
        "Task", "Model", "Score", "95 % interval", "Difference", "95 % interval", "p",
        "Detectable", "Verdict",
    )  # fmt: skip
    lines = [f"**{escape(one)}**\n" for one in report.headlines]
    lines += [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for part in _parts(report):
        for score in part.scores:
            one = score.comparison
            paired = ("",) * 5
            if one:
                paired = (
                    one.shown, one.interval, one.p_shown, score.detectable, one.verdict,
                )  # fmt: skip
            cells = (f"{part.name}, {part.about}", score.model, score.shown, score.interval)
            lines.append(f"| {' | '.join(map(escape, (*cells, *paired)))} |")
    return "\n".join([*lines, "", escape(report.method), "", escape(report.disclaimer), ""])


def _tensorboard(account: Account) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(os.environ["TENSORBOARD_LOGGING_DIR"]) as writer:
        writer.add_text("report", account.text)
        for name, value in account.values.items():
            writer.add_scalar(f"report/{name}", value)
        for chart in account.charts:
            # Transparency does not outlive the way into a picture here.
            chart.figure.patch.set(visible=True, facecolor="white")
            chart.figure.set_dpi(144)
            writer.add_figure(f"report/{chart.name}", chart.figure, close=False)


def _wandb(account: Account) -> None:
    import wandb

    with wandb.init(name=f"{account.name}-report", job_type="report", config=account.config) as run:
        figures = {
            f"report/{chart.name}": wandb.Html(chart.svg, inject=False) for chart in account.charts
        }
        table = wandb.Table(columns=list(COLUMNS), data=[list(row) for row in account.rows])
        run.log({"report/table": table, **figures})
        run.summary.update(account.values)


def _mlflow(account: Account) -> None:
    import mlflow

    mlflow.set_experiment(os.environ["MLFLOW_EXPERIMENT_NAME"])
    curves = mlflow.search_runs(
        filter_string=f"attributes.run_name = '{account.name}'", max_results=1,
        order_by=["attributes.start_time DESC"], output_format="list",
    )  # fmt: skip
    table = io.StringIO()
    csv.writer(table).writerows([COLUMNS, *account.rows])
    values = {
        # What MLflow allows in a name; tasks of your own may be called otherwise.
        re.sub(r"[^\w\-./]", "_", f"report/{name}", flags=re.ASCII): value
        for name, value in account.values.items()
    }
    known = curves[0].info.run_id if curves else None
    with mlflow.start_run(run_id=known, run_name=account.name):
        mlflow.set_tags({f"medbench.{key}": value for key, value in account.config.items()})
        mlflow.log_metrics(values)
        mlflow.log_text(account.text, "report/report.md")
        mlflow.log_text(table.getvalue(), "report/table.csv")
        for chart in account.charts:
            mlflow.log_text(chart.svg, f"report/{chart.name}.svg")


def _trackio(account: Account) -> None:
    import trackio

    trackio.init(
        project="medbench", name=account.name, config=account.config, resume="allow", embed=False,
        auto_log_cpu=False, auto_log_gpu=False,
    )  # fmt: skip
    figures = {f"report/{chart.name}": trackio.Html(chart.svg) for chart in account.charts}
    table = trackio.Table(columns=list(COLUMNS), data=[list(row) for row in account.rows])
    values = {f"report/{name}": value for name, value in account.values.items()}
    text = trackio.Markdown(account.text)
    trackio.log({"report/text": text, "report/table": table, **figures, **values})


_TRACKERS: dict[str, Callable[[Account], None]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
    "trackio": _trackio,
}


def _told(path: Path) -> dict[str, str]:
    """What an earlier call left; a damaged file is as none."""
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
