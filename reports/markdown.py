"""The report as Markdown for GitHub, with its figures as files beside it.

Every value in the template passes through :func:`escape`, so nothing that a model or a data set
said becomes markup. Long texts stand in ``<pre>`` blocks, where GitHub reads no Markdown at all.
"""

from __future__ import annotations

import html
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from . import formatting
from .figures.charts import NAMES, Chart
from .html import PERCENTILES, TEMPLATES
from .report import Report
from .sections.calibration import CALIBRATION, ORDERS
from .sections.judgements import JUDGED, who_judged
from .sections.parsing import PARSING, occurring, wording
from .sections.protocols import PROTOCOLS
from .sections.subjects import SUBJECTS

WRAP = 100
"""Columns of a ``<pre>`` block, which GitHub does not wrap."""
_ACTIVE = re.compile(r"[\\`*_{}\[\]<>#|~$!]")
_START = re.compile(r"^(\s*|\s*\d+(?=[.)]))([-+=]|(?<=\d)[.)])(?=[\s=-]|$)")
_LINKS = re.compile(r":(?=//|[\w+-]+:)|(?<=www)\.", re.IGNORECASE)


def render(report: Report, charts: Sequence[Chart]) -> str:
    """The whole document; figures are referred to as ``figures/NAME.svg``."""
    return render_document(
        "report.md.j2",
        report=report,
        charts=dict.fromkeys(NAMES) | {chart.name: chart for chart in charts},
        calibration=CALIBRATION,
        judge=who_judged(report.judged),
        judged=JUDGED,
        orders=ORDERS,
        parsing=PARSING,
        problems=occurring(report.parsing),
        percentiles=PERCENTILES,
        protocols=PROTOCOLS,
        subjects=SUBJECTS,
    )


def render_document(template: str, **values: Any) -> str:
    """A document of *template*, in which every value passes through :func:`escape`."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # macros then return Markup, which `escape` leaves alone
        finalize=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "block": block,
        "count": formatting.count,
        "inline_html": inline_html,
        "percent": formatting.percent,
        "wording": wording,
    }
    text = environment.get_template(template).render(**values)
    return re.sub(r"\n{3,}", "\n\n", text)


def escape(value: Any) -> Markup:
    """*value* as text on one line: no markup, link, image, mention, table cell or block start."""
    if isinstance(value, Markup):
        return value
    text = re.sub(r"\s*\n\s*", " ", str(value)).replace("&", "&amp;")
    text = _ACTIVE.sub(r"\\\g<0>", text)
    text = _LINKS.sub(r"\\\g<0>", text)
    text = _START.sub(r"\1\\\2", text)
    # A word joiner after @ keeps GitHub from reading a mention or an address.
    return Markup(text.replace("@", "@&#8288;"))  # noqa: S704 - this is the escaping


def inline_html(text: str) -> Markup:
    """*text* as one line inside an HTML element, where Markdown's escapes mean nothing."""
    return Markup(html.escape(" ".join(text.split())))  # noqa: S704 - this is the escaping


def block(text: str) -> Markup:
    """*text* as the inside of a ``<pre>``, wrapped."""
    lines = [
        part
        for line in text.split("\n")
        for part in textwrap.wrap(
            line, WRAP, replace_whitespace=False, drop_whitespace=False, break_on_hyphens=False
        )
        or [""]
    ]
    return Markup(html.escape("\n".join(line.rstrip() for line in lines)))  # noqa: S704
