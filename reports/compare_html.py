"""A comparison as one HTML file that asks nobody for anything, in the style of the report."""

from __future__ import annotations

import base64
import hashlib

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import formatting
from .compare import COLUMNS, Page
from .compare_chart import forest
from .html import TEMPLATES


def render(page: Page) -> str:
    """The whole page; the Content-Security-Policy allows its style and nothing else."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": formatting.count}
    css = (TEMPLATES / "report.css").read_text("utf-8")
    digest = hashlib.sha256(css.encode("utf-8")).digest()
    return environment.get_template("compare.html.j2").render(
        page=page,
        columns=COLUMNS,
        charts=[forest(pair, place, page.confidence) for place, pair in enumerate(page.pairs)],
        css=css,
        css_hash=base64.b64encode(digest).decode("ascii"),
    )
