"""A comparison as one HTML file that asks nobody for anything, in the style of the report."""

from __future__ import annotations

from ..figures.compare import differences
from ..html import render_page
from .compare import COLUMNS, Page


def render(page: Page) -> str:
    """The whole page; the Content-Security-Policy allows its style and nothing else."""
    return render_page(
        "compare.html.j2",
        page=page,
        columns=COLUMNS,
        charts=[differences(pair, place) for place, pair in enumerate(page.pairs)],
    )
