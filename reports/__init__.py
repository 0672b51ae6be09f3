"""Reports of a run folder: one :class:`Report`, and one file for each format that shows it."""

from .report import Report
from .terminal import print_summary
from .write import write_reports

__all__ = ["Report", "print_summary", "write_reports"]
