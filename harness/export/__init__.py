"""A merged checkpoint as an ONNX graph: built, tried, known by its content."""

from .artifact import Artifact as ExportInfo
from .artifact import as_detail
from .build import PAIRS, export_onnx
from .checkpoint import MAX_POSITIONS

__all__ = ["MAX_POSITIONS", "PAIRS", "ExportInfo", "as_detail", "export_onnx"]
