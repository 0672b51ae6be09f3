"""A merged checkpoint as an ONNX graph: built, tried, known by its content."""

from .artifact import Artifact as ExportInfo
from .artifact import as_detail
from .build import MAX_POSITIONS, PAIRS, export_onnx

__all__ = ["MAX_POSITIONS", "PAIRS", "ExportInfo", "as_detail", "export_onnx"]
