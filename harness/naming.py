"""Names of models. ``tuned@onnx-int4`` is the model ``tuned`` as it was exported to int4."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
"""Names become folder names, so they hold no separator and no leading dot."""

Name = Annotated[str, Field(pattern=f"^{NAME}$")]

Format = Literal["fp32", "fp16", "bf16", "int8", "int4"]
"""Of an ONNX export's weights."""

MARK = "@onnx-"
"""What stands between model and format in the name of an export."""

ModelName = Annotated[str, Field(pattern=f"^{NAME}({MARK}[a-z0-9]+)?$")]


def exported(name: Any) -> dict[str, str] | None:
    """``{of, onnx}``, the model and the format, of an export's name; None for any other name."""
    model, mark, form = str(name).partition(MARK)
    return {"of": model, "onnx": form} if mark else None
