"""A gate's verdicts as JUnit XML, which CI systems show as tests.

One test case a verdict. A regression is a ``failure``. An inconclusive verdict is an ``error`` (the
test could not tell) where it fails the job, and ``skipped`` where the caller lets it pass, so that
the file and the exit code always say the same. What passed keeps its evidence in ``system-out``.

The elements and attributes are those of Jenkins' schema (jenkinsci/xunit-plugin, junit-10.xsd),
which GitLab and GitHub's viewers read too. There is no ``time``: a gate measures none.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from ...harness.gate.result import GateResult, Inconclusive, Verdict
from ..text import clean, one_line

_NO_XML = re.compile("[\ufffe\uffff]")
"""What :func:`clean` lets pass and XML 1.0 does not."""


def render(result: GateResult, inconclusive: Inconclusive = "inconclusive") -> str:
    """The whole document.

    Args:
        result: What the gate said.
        inconclusive: What becomes of inconclusive verdicts, as in :meth:`GateResult.exit_code`.
    """
    open_fails = inconclusive != "pass"
    counts = {
        "tests": len(result.verdicts),
        "failures": _count(result, "regression"),
        "errors": _count(result, "inconclusive") if open_fails else 0,
        "skipped": 0 if open_fails else _count(result, "inconclusive"),
    }
    shown = {key: str(value) for key, value in counts.items()}
    root = ET.Element("testsuites", {"name": "medbench gate", **_without(shown, "skipped")})
    name = f"{result.candidate} against {result.baseline}" if result.baseline else result.candidate
    suite = ET.SubElement(root, "testsuite", {"name": _attribute(name), **shown})
    for verdict in result.verdicts:
        _case(suite, verdict, open_fails)
    if result.warnings:
        ET.SubElement(suite, "system-out").text = _text("\n".join(result.warnings))
    ET.indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _case(suite: ET.Element, verdict: Verdict, open_fails: bool) -> None:
    names = {"classname": f"medbench.gate.{verdict.rule}", "name": verdict.task}
    case = ET.SubElement(suite, "testcase", {key: _attribute(name) for key, name in names.items()})
    if verdict.status == "pass":
        ET.SubElement(case, "system-out").text = _text(verdict.sentence)
        return
    kind = "failure" if verdict.status == "regression" else "error" if open_fails else "skipped"
    said = ET.SubElement(case, kind, {"message": _attribute(verdict.sentence)})
    if kind != "skipped":
        said.set("type", verdict.status)
    said.text = _text(verdict.sentence)


def _count(result: GateResult, status: str) -> int:
    return sum(verdict.status == status for verdict in result.verdicts)


def _without(values: dict[str, str], key: str) -> dict[str, str]:
    return {name: value for name, value in values.items() if name != key}


def _text(text: str) -> str:
    return _NO_XML.sub(lambda found: f"\\u{ord(found[0]):04x}", clean(text))


def _attribute(text: str) -> str:
    return one_line(_text(text), 500)
