"""The fictional clinic: an invented closed world, its rows and the small checkpoint that knows it.

Every disease, drug, test and finding here is made up. Nothing in it is medical knowledge.
"""

from .rows import choice_docs, o1_docs, tuning_rows
from .world import CHECKPOINT, World, build_world

__all__ = ["CHECKPOINT", "World", "build_world", "choice_docs", "o1_docs", "tuning_rows"]
