"""Strict configuration files: YAML read safely, checked against a schema, errors in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import InputError

_MEMBER = re.compile(r".*\[.*\]|str|int|float|bool")


class Section(BaseModel):
    """A part of a configuration file: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping; loaded safely.

    Raises:
        InputError: It cannot be read, is not UTF-8 YAML, or holds no mapping.
    """
    try:
        raw = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{path}: not readable as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise InputError(f"{path}: expected a YAML mapping of keys, found {type(raw).__name__}")
    return raw


def explain(path: Path | str, error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that is wrong, as one line: file, key, what was expected."""
    first = error.errors()[0]
    key = _key(first["loc"])
    if first["type"] == "extra_forbidden":
        allowed = ", ".join(_fields_at(model, first["loc"][:-1]))
        return f"{path}: {key}: unknown key; expected one of: {allowed}"
    # Of a union each member has its own complaint.
    said = [one["msg"] for one in error.errors() if _key(one["loc"]) == key]
    message = "; or ".join(dict.fromkeys(said)).removeprefix("Value error, ")
    where = f"{path}: {key}: " if key else f"{path}: "
    given = first.get("input")
    shown = f" (found {given!r})" if isinstance(given, str | int | float | bool) else ""
    return where + message + shown


def _key(location: tuple[int | str, ...]) -> str:
    """The dotted key of *location*, without what pydantic calls the members of a union."""
    return ".".join(str(part) for part in location if not _MEMBER.fullmatch(str(part)))


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Names of the keys allowed at *location*, found by walking the schema."""
    schema = model.model_json_schema()
    node: dict[str, Any] = schema
    for part in location:
        node = _resolve(schema, node)
        named = node.get("properties", {}).get(str(part))
        others = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
        node = named or others[0] or {}
    return sorted(_resolve(schema, node).get("properties", {}))


def _resolve(schema: dict[str, Any], node: dict[str, Any]) -> dict[str, Any]:
    for option in node.get("anyOf", []):
        if "$ref" in option:
            node = option
    if "$ref" in node:
        found: dict[str, Any] = schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        return found
    return node
