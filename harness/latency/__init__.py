"""How fast the first and the following tokens come, of several engines on the same prompts."""

from .measure import measure
from .settings import COLUMNS, LatencyJob, LatencySettings
from .statistics import UNSTABLE_SPREAD, summarise

__all__ = ["COLUMNS", "UNSTABLE_SPREAD", "LatencyJob", "LatencySettings", "measure", "summarise"]
