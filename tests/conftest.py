"""What several rooms' tests share."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # as the program does; see cli.main

from medbench.harness.suite import EMBEDDED

SHARED = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture
def clinic() -> Path:
    """The embedded checkpoint."""
    return EMBEDDED["embedded:clinic"]


@pytest.fixture(scope="session")
def clinic_onnx(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The embedded checkpoint exported to a format, once."""
    from medbench.harness.export import export_onnx

    root = tmp_path_factory.mktemp("exports")

    def export(form: str) -> Path:
        return export_onnx(EMBEDDED["embedded:clinic"], root / form, precision=form).path

    return cache(export)


@pytest.fixture
def real_data() -> Path:
    """A folder of real medical data sets, which is not part of the project."""
    if not SHARED.is_dir():
        pytest.skip(f"needs real data sets in {SHARED.name}/ beside the checkout")
    return SHARED


@pytest.fixture
def short_recipe(tmp_path: Path) -> Path:
    """The quickstart's recipe cut to four steps, without validation."""
    from medbench.finetune.recipe import RECIPES

    text = (RECIPES / "clinic.yaml").read_text("utf-8")
    lines = [
        "steps: 4" if line.startswith("steps:") else
        "logging_steps: 2" if line.startswith("logging_steps:") else
        "  validation_rows: 0" if line.startswith("  validation_rows:") else line
        for line in text.splitlines()
    ]  # fmt: skip
    path = tmp_path / "short.yaml"
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path
