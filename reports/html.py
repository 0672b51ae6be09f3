"""The report as one HTML file that asks nobody for anything.

Everything is inline, the Content-Security-Policy allows no script and no request, and the only
style allowed is the one whose hash it names. Jinja escapes every value.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import formatting
from .calibration import CALIBRATION, ORDERS
from .charts import NAMES, Chart
from .judgements import JUDGED, who_judged
from .parsing import PARSING, occurring, wording
from .protocols import PROTOCOLS
from .report import Report
from .subjects import SUBJECTS

TEMPLATES = Path(__file__).parent / "templates"
PERCENTILES = [f"{part}_ms_p{share}" for part in ("ttft", "tpot") for share in (50, 90, 99)]


def render(report: Report, charts: Sequence[Chart]) -> str:
    """The whole page."""
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
    digest = hashlib.sha256(css.encode("utf-8")).digest()
    return environment.get_template("report.html.j2").render(
        report=report,
        charts=dict.fromkeys(NAMES) | {chart.name: chart for chart in charts},
        calibration=CALIBRATION,
        css=css,
        css_hash=base64.b64encode(digest).decode("ascii"),
        judge=who_judged(report.judged),
        judged=JUDGED,
        orders=ORDERS,
        parsing=PARSING,
        problems=occurring(report.parsing),
        percentiles=PERCENTILES,
        protocols=PROTOCOLS,
        sections=_sections(report),
        slowest=max([stage.seconds or 0 for stage in report.stages], default=0) or 1,
        subjects=SUBJECTS,
        tuned=report.tuned,
    )


def _sections(report: Report) -> list[tuple[str, str]]:
    """Anchors and names of the sections that this report has."""
    sections = (
        ("results", "Results", report.tasks),
        ("subjects", "By subject", report.subjects),
        ("tasks", "How it was asked", report.tasks),
        ("judge", "Judge", report.judged),
        ("calibration", report.beyond_scores, report.beyond_scores),
        ("overlap", "Overlap", report.overlap),
        ("training", "Training", report.trainings),
        ("latency", "Latency", report.latency or report.exports),
        ("samples", "Questions side by side", report.samples),
        ("reproduce", "Reproduce", True),
    )
    return [(anchor, name) for anchor, name, present in sections if present]
