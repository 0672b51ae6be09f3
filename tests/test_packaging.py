"""What ships: every sub-package, the data beside it, and nothing by accident."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_every_sub_package_is_listed() -> None:
    found = {
        "medbench." + ".".join(path.parent.relative_to(ROOT).parts)
        for folder in ("commands", "finetune", "harness", "reports", "tasks")
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert {"medbench", *found} == set(PROJECT["tool"]["setuptools"]["packages"])


def test_every_data_file_is_matched_by_package_data() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]
    for folder in ("commands", "finetune", "harness", "reports", "tasks"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts:
                package = ROOT / folder
                shipped = any(
                    path in (ROOT / Path(*name.split(".")[1:])).glob(pattern)
                    for name, found in patterns.items()
                    for pattern in found
                )
                assert shipped, f"{path.relative_to(package.parent)} is not in package-data"


def test_only_the_program_lies_at_the_root() -> None:
    shipped = {path.name for path in ROOT.glob("*.py")}
    assert shipped == {"__init__.py", "__main__.py", "cli.py", "errors.py"}


def test_constraints_fit_the_ranges() -> None:
    from packaging.requirements import Requirement

    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    ranges = [Requirement(text) for text in PROJECT["project"]["dependencies"]]
    for requirement in ranges:
        if requirement.name in pins:
            assert requirement.specifier.contains(pins[requirement.name]), requirement
