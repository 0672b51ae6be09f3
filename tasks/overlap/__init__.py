"""Overlap: which training texts are the same question as a test text, copied or in other words."""

from .estimate import Estimate, estimate, statement
from .find import Found, Pair, find
from .held_out import resembles
from .result import as_json

__all__ = ["Estimate", "Found", "Pair", "as_json", "estimate", "find", "resembles", "statement"]
