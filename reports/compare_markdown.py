"""A comparison as Markdown for GitHub; every value passes through markdown.escape."""

from __future__ import annotations

import re

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import formatting
from .compare import COLUMNS, Page
from .html import TEMPLATES
from .markdown import block, escape, inline_html


def render(page: Page) -> str:
    """The whole document."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
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
    }
    text = environment.get_template("compare.md.j2").render(page=page, columns=COLUMNS)
    return re.sub(r"\n{3,}", "\n\n", text)
