"""`medbench compare` and `medbench gate` on a made-up run, in every format."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from medbench.cli import app
from medbench.errors import InputError
from medbench.harness.folder.store import RunFolder

FORMATS = ("terminal", "md", "html", "json")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(one) for one in arguments])


def compared(run: RunFolder, form: str, *more: object) -> str:
    done = call("compare", run.path, "--format", form, *more)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_a_run_alone_compares_tuned_with_base(whole_run: RunFolder) -> None:
    found = json.loads(compared(whole_run, "json"))
    tasks = [one["task"] for one in found["comparisons"]]
    assert tasks == list(whole_run.results()["tasks"])
    first = found["comparisons"][0]
    keys = "task n a b difference low high p discordant p_holm smallest_detectable verdict sentence"
    assert {*keys.split(), "name_a", "name_b"} <= set(first)
    assert (first["name_a"], first["name_b"], first["verdict"]) == ("base", "tuned", "better")
    [pooled] = found["pooled"]
    assert pooled["task"] == "3 of 4 tasks pooled"
    assert pooled["n"] < 600, "some questions of these tasks are the same"
    assert f"{pooled['n']} questions in all; each counts once" in " ".join(found["warnings"])
    assert sum(first["discordant"]) == sum(f["task"] == first["task"] for f in found["flips"])
    stored = whole_run.results()["comparisons"][0]
    assert first["difference"] == pytest.approx(stored["difference"])


def test_all_formats_say_the_same_sentence(whole_run: RunFolder) -> None:
    sentence = json.loads(compared(whole_run, "json"))["comparisons"][0]["sentence"]
    words = re.findall(r"[\d.]+", sentence)
    for form in ("terminal", "md", "html"):
        text = " ".join(compared(whole_run, form).split())
        for word in words:
            assert word in text


@pytest.mark.parametrize("form", FORMATS)
def test_flips_are_as_many_as_asked_for(whole_run: RunFolder, form: str) -> None:
    none = compared(whole_run, form, "--flips", 0, "--tasks", "made_up_text")
    some = compared(whole_run, form, "--flips", 2, "--tasks", "made_up_text")
    question = "asks which medicine is tried first"
    assert none.count(question) == 0
    times = {"html": 8}.get(form, 4)  # html: the line that opens, and the whole text
    assert len(re.findall(r"asks\s+which\s+medicine\s+is\s+tried\s+first", some)) == times


def test_html_is_one_file_that_allows_nothing(whole_run: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "c.html"
    assert compared(whole_run, "html", "--out", out) == ""
    text = out.read_text("utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r"<script|(src|href)=.?https?:| style=|@import|url\((?!#)", text)
    assert "<svg" in text


@pytest.mark.parametrize("form", ["md", "html"])
def test_hostile_texts_stay_texts(hostile_run: RunFolder, form: str) -> None:
    text = compared(hostile_run, form)
    assert "script ran" in text, "the text is shown"
    for tag in ("script", "img", "svg onload", "a href='javascript"):
        assert not re.search(rf"(?<!\\)<{tag}", text), "Markdown's escape is the backslash"
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_hostile_texts_in_the_terminal_and_json(hostile_run: RunFolder) -> None:
    shown = compared(hostile_run, "terminal")
    assert "\x1b]8" not in shown
    assert "\u202e" not in shown
    raw = compared(hostile_run, "json")
    assert raw.isascii()
    assert "\x1b" not in raw
    assert json.loads(raw)["flips"]


def test_confidence_is_that_of_the_words_too(whole_run: RunFolder) -> None:
    found = json.loads(compared(whole_run, "json", "--confidence", 0.99))["comparisons"]
    usual = json.loads(compared(whole_run, "json"))["comparisons"]
    assert found[0]["low"] < usual[0]["low"]
    assert "99\u00a0% interval" in found[0]["sentence"]


def test_several_sides_are_compared_with_the_first(whole_run: RunFolder) -> None:
    base, tuned = f"{whole_run.path}:base", f"{whole_run.path}:tuned"
    done = call("compare", base, tuned, base, "--format", "json", "--tasks", "made_up_text")
    found = json.loads(done.stdout)["comparisons"]
    assert [one["difference"] for one in found][1] == 0
    assert "(first)" in found[1]["name_a"]
    assert "(second)" in found[1]["name_b"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{run}", "nope"], "several models"),
        (["{run}:base", "nope"], "no such file"),
        (["{run}:base", "{run}:nobody"], "nobody"),
        (["{run}", "--tasks", "a,,b"], "comma-separated"),
        (["{run}", "--tasks", "nope"], "'nope' is not in"),
        (["{run}", "--out", "x"], "needs --format"),
        (["{run}", "--columns", "x"], "NAME=COLUMN"),
    ],
)
def test_wrong_input_of_compare(whole_run: RunFolder, arguments: list[str], said: str) -> None:
    done = call("compare", *(one.replace("{run}", str(whole_run.path)) for one in arguments))
    assert isinstance(done.exception, InputError)
    assert said in str(done.exception)
    assert "\n" not in str(done.exception)


# -- gate ----------------------------------------------------------------------------------------


def test_tuned_is_held_to_its_own_base(whole_run: RunFolder) -> None:
    done = call("gate", whole_run.path, "--format", "json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert (found["status"], found["candidate"], found["baseline"]) == ("pass", "tuned", "base")


def reversed_gate(run: RunFolder, *more: object) -> Result:
    return call("gate", f"{run.path}:base", "--baseline", f"{run.path}:tuned", *more)


def test_a_planted_regression_is_exit_1(whole_run: RunFolder) -> None:
    done = reversed_gate(whole_run)
    assert done.exit_code == 1
    assert "regression" in done.stdout
    assert done.stdout.rstrip().endswith("Regression.")
    assert reversed_gate(whole_run, "--inconclusive", "pass").exit_code == 1


@pytest.mark.parametrize(("then", "code"), [("inconclusive", 3), ("pass", 0), ("fail", 1)])
def test_inconclusive_is_exit_3_or_what_was_asked_for(
    whole_run: RunFolder, then: str, code: int
) -> None:
    same = f"{whole_run.path}:tuned"
    more = ("--tasks", "made_up_text", "--tolerance", 0.5, "--inconclusive", then)
    done = call("gate", same, "--baseline", same, *more)
    assert done.exit_code == code
    assert "questions would decide it" in " ".join(done.stdout.split())


def test_every_file_is_written_and_agrees(
    whole_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    names = {"--junit": "j.xml", "--comment": "c.md", "--benchmark-json": "b.json"}
    files = [part for flag, name in names.items() for part in (flag, tmp_path / name)]
    done = reversed_gate(whole_run, *files, "--github", "--format", "json")
    assert json.loads(done.stdout)["exit_code"] == done.exit_code == 1
    assert "::error" in done.stderr
    tree = ElementTree.fromstring((tmp_path / "j.xml").read_text("utf-8"))
    assert len(tree.findall(".//failure")) >= 3
    assert "Regression" in (tmp_path / "c.md").read_text("utf-8")
    assert "Regression" in (tmp_path / "summary.md").read_text("utf-8")
    assert "status=regression" in (tmp_path / "output").read_text("utf-8")
    assert len(json.loads((tmp_path / "b.json").read_text("utf-8"))) == 3


def test_the_scores_written_are_of_the_tasks_that_count(
    whole_run: RunFolder, tmp_path: Path
) -> None:
    path = tmp_path / "b.json"
    reversed_gate(whole_run, "--tasks", "made_up_text", "--benchmark-json", path)
    assert [one["name"] for one in json.loads(path.read_text("utf-8"))] == ["made_up_text"]


def test_rules_come_from_the_file_or_the_suite(whole_run: RunFolder, tmp_path: Path) -> None:
    rules = tmp_path / "gate.yaml"
    rules.write_text("tolerance: null\nrules: [{tasks: [made_up_open], floor: 0.99}]\n", "utf-8")
    done = call("gate", whole_run.path, "--rules", rules)
    assert done.exit_code == 1
    assert "below the floor of 99\u00a0%" in done.stdout
    copy = RunFolder(tmp_path / "run")
    shutil.copytree(whole_run.path, copy.path)
    manifest: dict[str, Any] = copy.manifest()
    manifest["suite"]["gate"] = {"tolerance": None, "parity": {"greedy": 1}}
    copy.write_json("manifest.json", manifest)
    done = call("gate", copy.path)
    assert done.exit_code == 0
    assert "greedy tokens" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{run}:base"], "give --baseline"),
        (["{run}", "--baseline", "no-such-ref"], "no-such-ref"),
        (["{run}", "--rules", "nope.yaml"], "no such file"),
        (["{run}", "--confidence", "95"], "confidence"),
        (["{run}", "--tasks", "nope"], "'nope' is not in"),
        (["nope"], "no such file"),
    ],
)
def test_wrong_input_of_gate(
    whole_run: RunFolder, tmp_path: Path, arguments: list[str], said: str
) -> None:
    junit = tmp_path / "j.xml"
    given = [one.replace("{run}", str(whole_run.path)) for one in arguments]
    done = call("gate", *given, "--junit", junit)
    assert isinstance(done.exception, InputError)
    assert said in str(done.exception)
    assert not junit.exists(), "wrong input leaves nothing behind"


def test_a_baseline_in_a_commit_is_read_there(
    whole_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = shutil.which("git")
    if git is None:
        pytest.skip("needs git")
    monkeypatch.chdir(tmp_path)
    tuned = f"{whole_run.path}:tuned"
    assert call("baseline", "update", tuned, "--out", "base.jsonl").exit_code == 0
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.invalid")
    for command in (("init", "-b", "main"), ("add", "-A"), (*who, "commit", "-m", "baseline")):
        subprocess.run([git, *command], check=True, capture_output=True)
    Path("base.jsonl").unlink()
    done = call("gate", tuned, "--baseline", "main:base.jsonl", "--tolerance", 15)
    assert done.exit_code == 0, done.output
    worse = call("gate", f"{whole_run.path}:base", "--baseline", "main:base.jsonl")
    assert worse.exit_code == 1
