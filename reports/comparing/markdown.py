"""A comparison as Markdown for GitHub; every value passes through markdown.escape."""

from __future__ import annotations

from ..markdown import render_document
from .compare import COLUMNS, Page


def render(page: Page) -> str:
    """The whole document."""
    return render_document("compare.md.j2", page=page, columns=COLUMNS)
