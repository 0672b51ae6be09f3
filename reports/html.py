"""The report as one HTML file that asks nobody for anything.

Everything is inline. The Content-Security-Policy allows no request, and of styles and scripts only
the one style and the one script whose hashes it names. Jinja escapes every value; the questions
stand in the page compressed, and the script shows them as text and nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import formatting
from .figures.charts import NAMES, Chart
from .questions import Packed, packed
from .report import Report
from .sections.calibration import CALIBRATION, ORDERS
from .sections.judgements import JUDGED, who_judged
from .sections.parsing import PARSING, occurring, wording
from .sections.protocols import PROTOCOLS
from .sections.subjects import SUBJECTS

TEMPLATES = Path(__file__).parent / "templates"
PERCENTILES = [f"{part}_ms_p{share}" for part in ("ttft", "tpot") for share in (50, 90, 99)]


def render(report: Report, charts: Sequence[Chart]) -> str:
    """The whole page."""
    js = (TEMPLATES / "report.js").read_text("utf-8")
    return render_page(
        "report.html.j2",
        report=report,
        about=_about(report),
        charts=dict.fromkeys(NAMES) | {chart.name: chart for chart in charts},
        calibration=CALIBRATION,
        js=js,
        js_hash=source_hash(js),
        judge=who_judged(report.judged),
        judged=JUDGED,
        orders=ORDERS,
        packed=packed(report.questions) if report.questions else Packed((), 0),
        parsing=PARSING,
        problems=occurring(report.parsing),
        percentiles=PERCENTILES,
        protocols=PROTOCOLS,
        sections=_sections(report),
        slowest=max([stage.seconds or 0 for stage in report.stages], default=0) or 1,
        subjects=SUBJECTS,
        tone=lambda model: tone(model, report.tuned),
    )


def render_page(template: str, **values: Any) -> str:
    """A page of *template* in the style of the report, which is given as css and css_hash."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": formatting.count,
        "percent": formatting.percent,
        "wording": wording,
    }
    css = (TEMPLATES / "report.css").read_text("utf-8")
    return environment.get_template(template).render(
        css=css, css_hash=source_hash(css), **values
    )  # fmt: skip


def source_hash(text: str) -> str:
    """What a Content-Security-Policy calls this style or script: base64 of its SHA-256."""
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def tone(model: str, tuned: Sequence[str]) -> str:
    """Classes that draw a model as the charts do; empty for a base."""
    return f" tuned t{tuned.index(model) % 4}" if model in tuned else ""


def _about(report: Report) -> str:
    """What the browser needs besides the rows, as JSON that no HTML parser reads as a tag."""
    found = report.questions
    if found is None:
        return ""
    value = {
        "tasks": found.tasks,
        "models": found.models,
        "tones": [tone(model, report.tuned) for model in found.models],
        "subjects": found.subjects,
        "orders": found.orders,
        "couples": found.couples,
    }
    return json.dumps(value).replace("<", "\\u003c")


def _sections(report: Report) -> list[tuple[str, str]]:
    """Anchors and names of the sections that this report has."""
    sections = (
        ("results", "Results", report.comparisons),
        ("subjects", "By subject", report.subjects),
        ("tasks", "How it was asked", report.tasks),
        ("judge", "Judge", report.judged),
        ("calibration", report.beyond_scores, report.beyond_scores),
        ("overlap", "Overlap", report.overlap),
        ("training", "Training", report.trainings),
        ("latency", "Latency", report.latency or report.exports),
        ("samples", "Questions", report.questions or report.left_out),
        ("reproduce", "Reproduce", True),
    )
    return [(anchor, name) for anchor, name, present in sections if present]
