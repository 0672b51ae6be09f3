import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medbench.harness.gate.result import GateResult, Status, Verdict
from medbench.reports.comparing.junit import render

ATTRIBUTES = {
    "testsuites": {"name", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "skipped"},
    "testcase": {"name", "classname"},
    "failure": {"message", "type"},
    "error": {"message", "type"},
    "skipped": {"message"},
    "system-out": set(),
}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"testcase", "system-out"},
    "testcase": {"failure", "error", "skipped", "system-out"},
}
"""What junit-10.xsd of jenkinsci/xunit-plugin allows, as far as medbench writes it."""


def verdict(task: str, status: Status, sentence: str = "It is so.") -> Verdict:
    return Verdict("difference", task, status, -0.02, -0.01, -0.03, -0.01, 100, None, sentence)


RESULT = GateResult(
    (
        verdict("medqa", "pass", "medqa: not worse by more than 1 point."),
        verdict("pubmedqa", "regression", "pubmedqa: worse by 4 points."),
        verdict("medmcqa", "inconclusive", "medmcqa: 900 questions would decide."),
    ),
    "tuned",
    "main",
    ("task medqa: the prompts of 3 questions differ",),
)


def check(source: str) -> ET.Element:
    """The parsed document, once it is found to keep to the schema and to count itself right."""
    assert source.startswith('<?xml version="1.0" encoding="UTF-8"?>\n')
    root = ET.fromstring(source.encode())
    assert root.tag == "testsuites"
    for element in root.iter():
        assert set(element.attrib) == ATTRIBUTES[element.tag]
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
    for suite in [root, *root.findall("testsuite")]:
        counted = {"tests": "testcase", "failures": "failure", "errors": "error",
                   "skipped": "skipped"}  # fmt: skip
        for attribute, tag in counted.items():
            if attribute in suite.attrib:
                assert int(suite.attrib[attribute]) == len(list(suite.iter(tag)))
    return root


def test_every_verdict_is_a_test_case() -> None:
    root = check(render(RESULT))
    cases = {case.attrib["name"]: case for case in root.iter("testcase")}
    assert [next(iter(cases[name])).tag for name in ("medqa", "pubmedqa", "medmcqa")] == [
        "system-out", "failure", "error"
    ]  # fmt: skip
    assert cases["medqa"].attrib["classname"] == "medbench.gate.difference"
    assert cases["pubmedqa"][0].attrib == {
        "message": "pubmedqa: worse by 4 points.", "type": "regression"
    }  # fmt: skip
    assert cases["medqa"].findtext("system-out") == "medqa: not worse by more than 1 point."


def test_warnings_are_kept() -> None:
    assert "the prompts of 3" in (check(render(RESULT)).findtext("testsuite/system-out") or "")


@pytest.mark.parametrize("choice", ["inconclusive", "pass", "fail"])
def test_the_file_fails_when_the_exit_code_does(
    choice: Literal["inconclusive", "pass", "fail"],
) -> None:
    """A CI system that reads only the file comes to the verdict of the exit code."""
    for statuses in (["pass"], ["inconclusive", "pass"], ["inconclusive", "regression"], []):
        result = replace(RESULT, verdicts=tuple(verdict("a", status) for status in statuses))  # type: ignore[arg-type]
        root = check(render(result, choice))
        bad = int(root.attrib["failures"]) + int(root.attrib["errors"])
        assert (bad > 0) == (result.exit_code(choice) != 0), statuses


@given(text=st.text(st.characters(codec=None)))
def test_any_text_makes_a_document_that_can_be_read(text: str) -> None:
    hostile = f"{text}\x00\x1b[31m\x0b]]></failure><testcase name='x'/>&amp;\ufffe\ud800"
    result = GateResult((verdict(hostile, "regression", hostile),), hostile, hostile, (hostile,))
    root = check(render(result))
    assert len(list(root.iter("testcase"))) == 1
    shown = root.findtext("testsuite/testcase/failure") or ""
    assert "</failure><testcase name='x'/>&amp;" in shown
    assert not re.search("[\x00-\x08\x0b-\x1f\ufffe\uffff\ud800-\udfff]", shown)


def test_a_gate_without_verdicts_is_an_empty_suite() -> None:
    assert check(render(GateResult(()))).attrib["tests"] == "0"
