"""action.yml, its steps executed by a real bash with what a runner sets."""

import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
DOC = ROOT / "docs" / "how-to" / "ci.md"

INPUT = re.compile(r"\$\{\{ inputs\.([\w-]+) \}\}")
CONDITION = re.compile(r"inputs\.([\w-]+) (==|!=) '(\w*)'")


@dataclass(frozen=True)
class Job:
    """What a job that used the action came to."""

    code: int
    log: str
    outputs: dict[str, str]
    summary: str
    commands: list[str]

    def verdicts(self, folder: Path) -> dict[str, list[str]]:
        """``{task: [tags]}`` of the JUnit file."""
        root = ET.parse(folder / self.outputs["junit"]).getroot()
        return {case.attrib["name"]: [e.tag for e in case] for case in root.iter("testcase")}


def use(folder: Path, *programs: Path, **inputs: str) -> Job:
    """Run the action's steps in *folder*, as a runner runs a composite action's.

    *programs* are folders of programs that come before the installed ones.
    """
    given = {name.replace("_", "-"): value for name, value in inputs.items()}
    values = {name: str(of.get("default", "")) for name, of in ACTION["inputs"].items()}
    assert set(given) <= set(values)
    values |= {"install": "false"} | given
    log, code, summary, outputs = "", 0, "", {}
    for number, step in enumerate(STEPS):
        name, operator, expected = CONDITION.fullmatch(
            step.get("if", "inputs.install != 'never'")
        ).groups()  # type: ignore[union-attr]
        if (values[name] == expected) != (operator == "==") or code:
            continue
        script, files = folder / f".step-{number}.sh", {}
        script.write_text(step["run"], "utf-8")
        for file in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
            files[file] = str(folder / f".{file}-{number}")
            Path(files[file]).touch()
        environment = {
            **os.environ,
            **files,
            "PATH": ":".join(
                map(str, [*programs, Path(sys.executable).parent, os.environ["PATH"]])
            ),
            "GITHUB_ACTIONS": "true",
            "GITHUB_ACTION_PATH": str(ROOT),
            **{
                key: INPUT.sub(lambda found: values[found[1]], text)
                for key, text in step.get("env", {}).items()
            },
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)],
            cwd=folder, env=environment, text=True, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        log, code = log + done.stdout, done.returncode
        summary += Path(files["GITHUB_STEP_SUMMARY"]).read_text("utf-8")
        lines = Path(files["GITHUB_OUTPUT"]).read_text("utf-8").splitlines()
        if step.get("id") == "gate":
            outputs = dict(line.split("=", 1) for line in lines)
    return Job(code, log, outputs, summary, executed(log))


def executed(log: str) -> list[str]:
    """The workflow commands that a runner obeys: see Runner.Worker/ActionCommandManager.cs."""
    found, token = [], None
    for line in re.split("[\r\n]+", log):
        text = line.lstrip()
        if token:
            token = None if text == f"::{token}::" else token
        elif text.startswith("::stop-commands::"):
            token = text.removeprefix("::stop-commands::")
        elif re.match(r"::[\w-]+( [^:]*)?::", text) or "##[" in text:
            found.append(text)
    assert token is None, "commands were stopped and never resumed"
    return found


def predictions(path: Path, right: list[bool], task: str = "made_up") -> str:
    """A plain prediction file: the first option is right in every question."""
    rows = [
        {"task": task, "doc_id": n, "target": "camomile", "options": ["camomile", "sage"],
         "prediction": "camomile" if one else "sage", "correct": one, "protocol": "letters"}
        for n, one in enumerate(right)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path.name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout with a baseline of 300 of 400 right, kept as predictions."""
    predictions(tmp_path / "baseline.jsonl", [n % 4 > 0 for n in range(400)])
    return tmp_path


def test_a_planted_regression_fails_the_job(folder: Path) -> None:
    worse = predictions(folder / "worse.jsonl", [n % 4 > 1 for n in range(400)])
    job = use(folder, candidate=worse, baseline="baseline.jsonl")
    assert job.code == 1
    assert job.outputs["status"] == "regression"
    assert [command.partition(" ")[0] for command in job.commands] == ["::error"]
    assert "made_up" in job.commands[0]
    assert job.verdicts(folder) == {"made_up": ["failure"]}
    assert "Regression" in job.summary
    comment = (folder / job.outputs["comment"]).read_text("utf-8")
    assert comment.startswith("<!-- medbench-gate -->")
    assert job.summary.strip() in comment
    benchmark = json.loads((folder / job.outputs["benchmark"]).read_text("utf-8"))
    assert [(entry["name"], entry["value"]) for entry in benchmark] == [("made_up", 50)]


def test_what_is_as_good_passes(folder: Path) -> None:
    same = predictions(folder / "same.jsonl", [n % 4 > 0 for n in range(400)])
    job = use(folder, candidate=same, baseline="baseline.jsonl", tolerance="3")
    assert job.code == 0, job.log
    assert job.outputs["status"] == "pass"
    assert job.commands == []
    assert job.verdicts(folder) == {"made_up": ["system-out"]}
    assert "No regression" in job.summary


@pytest.mark.parametrize(
    ("choice", "code", "kind", "tag"),
    [
        ("inconclusive", 3, "::error", "error"),
        ("fail", 1, "::error", "error"),
        ("pass", 0, "::warning", "skipped"),
    ],
)
def test_the_caller_says_what_an_inconclusive_verdict_does(
    tmp_path: Path, choice: str, code: int, kind: str, tag: str
) -> None:
    before = predictions(tmp_path / "before.jsonl", [n % 4 > 0 for n in range(20)])
    after = predictions(tmp_path / "after.jsonl", [n % 4 > 0 and n != 5 for n in range(20)])
    job = use(tmp_path, candidate=after, baseline=before, inconclusive=choice)
    assert job.code == code, job.log
    assert job.outputs["status"] == "inconclusive"
    assert [command.partition(" ")[0] for command in job.commands] == [kind]
    assert job.verdicts(tmp_path) == {"made_up": [tag]}


def test_what_cannot_be_judged_is_an_error_and_no_verdict(folder: Path) -> None:
    job = use(folder, candidate="baseline.jsonl", baseline="missing.jsonl")
    assert job.code == 2
    assert job.outputs["status"] == "error"
    assert job.summary == ""
    assert len(job.commands) == 1
    assert job.commands[0].startswith("::error title=medbench could not judge::medbench: ")
    assert "missing.jsonl" in job.commands[0]


def test_no_input_is_run_as_code(tmp_path: Path) -> None:
    """Whatever the inputs hold, the program gets each as one value, as it stands."""
    fake = tmp_path / "bin" / "medbench"
    fake.parent.mkdir()
    fake.write_text('#!/bin/bash\nprintf "%s\\0" "$@" >> called\nprintf "\\0" >> called\n')
    fake.chmod(0o755)
    code = "-'; touch pwned; \" $(touch pwned) `touch pwned` | touch pwned\n%s ::error::x * \\"
    inputs = {name.replace("-", "_"): f"{name}{code}" for name in ACTION["inputs"]}
    inputs |= {"install": "false", "output": f"o{code}"}
    job = use(tmp_path, fake.parent, **inputs)
    run, gate = ((tmp_path / "called").read_text().removesuffix("\0").split("\0\0"))[:2]
    assert run.split("\0") == [
        "run", f"--suite=suite{code}", f"--out={inputs['candidate'].rpartition(':')[0]}",
        f"--models=models{code}", f"--data-dir=data-dir{code}",
    ]  # fmt: skip
    *options, end, candidate = gate.rstrip("\0").split("\0")
    assert (end, candidate) == ("--", f"candidate{code}")
    for name in ("baseline", "tolerance", "rules", "tasks", "columns", "inconclusive"):
        assert f"--{name}={name}{code}" in options
    folder = f"o{code}".replace("\n", "")
    assert f"--junit={folder}/junit.xml" in options
    assert job.outputs["junit"] == f"{folder}/junit.xml"
    assert not list(tmp_path.rglob("pwned"))


def test_names_from_data_are_no_commands_to_the_runner(tmp_path: Path) -> None:
    name = "::add-mask::a\u2028##[add-path]x"
    before = predictions(tmp_path / "b.jsonl", [True] * 300, name)
    after = predictions(tmp_path / "a.jsonl", [n % 2 > 0 for n in range(300)], name)
    job = use(tmp_path, candidate=after, baseline=before)
    assert job.outputs["status"] == "regression", job.log
    assert [command.partition(" ")[0] for command in job.commands] == ["::error"]


def test_the_baseline_of_another_branch_counts(folder: Path) -> None:
    """A pull request that changes the baseline file is judged by the one it would replace."""

    def run(*arguments: str) -> None:
        who = ["GIT_AUTHOR", "GIT_COMMITTER"]
        names = {f"{one}_{key}": "a@example.invalid" for one in who for key in ("NAME", "EMAIL")}
        subprocess.run(arguments, cwd=folder, env=os.environ | names, check=True,
                       capture_output=True)  # fmt: skip

    medbench = [sys.executable, "-m", "medbench", "baseline", "update"]
    run(*medbench, "baseline.jsonl")
    run("git", "init", "--initial-branch=main")
    run("git", "add", "medbench-baseline.jsonl")
    run("git", "commit", "--message", "Baseline")
    worse = predictions(folder / "worse.jsonl", [n % 4 > 1 for n in range(400)])
    run(*medbench, worse)
    assert use(folder, candidate=worse, tolerance="3").outputs["status"] == "pass"
    job = use(folder, candidate=worse, tolerance="3", baseline="main")
    assert (job.code, job.outputs["status"]) == (1, "regression")


def test_a_suite_is_run_first(tmp_path: Path) -> None:
    """The embedded model, scored by the action itself; its baseline is that very run."""
    suite = {
        "name": "tiny", "description": "A few questions of the clinic.", "limit": 24,
        "models": {"base": {"pretrained": "embedded:clinic"}}, "tasks": ["clinic_text"],
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(suite), "utf-8")
    inputs = {"suite": "tiny.yaml", "candidate": "runs/tiny:base", "tolerance": "20"}
    job = use(tmp_path, **inputs, baseline="runs/tiny:base")
    assert (job.code, job.outputs.get("status")) == (0, "pass"), job.log
    assert (tmp_path / "runs" / "tiny" / "report.html").is_file()


# -- the file itself ------------------------------------------------------------------------------


def test_no_expression_stands_in_a_script() -> None:
    for step in STEPS:
        assert "${{" not in step["run"]
        assert step["shell"] == "bash"


def test_no_other_action_is_used() -> None:
    assert not [step for step in STEPS if "uses" in step]


def test_every_input_is_described_and_reaches_a_step() -> None:
    text = json.dumps(STEPS)
    for name, of in ACTION["inputs"].items():
        assert of["description"]
        assert f"inputs.{name}" in text
        assert of.get("required") or isinstance(of["default"], str)
    for name in set(re.findall(r"inputs\.([\w-]+)", text)):
        assert name in ACTION["inputs"]


def test_what_installs_is_a_command_that_pip_takes(tmp_path: Path) -> None:
    """The installing step against a pip that only says how it was called."""
    fake = tmp_path / "bin" / "python"
    fake.parent.mkdir()
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$*" >> called\n')
    fake.chmod(0o755)
    (step,) = (step for step in STEPS if "pip" in step["run"])
    environment = {
        "PATH": f"{fake.parent}:{os.environ['PATH']}",
        "GITHUB_ACTION_PATH": str(ROOT),
    }
    subprocess.run(["bash", "-e", "-c", step["run"]], cwd=tmp_path, env=environment, check=True)
    calls = (tmp_path / "called").read_text().splitlines()
    assert len(calls) == 2
    assert calls[0].endswith(f"{ROOT}/constraints.txt torch")
    assert calls[1].endswith(f"{ROOT}/constraints.txt {ROOT}")
    assert (ROOT / "constraints.txt").is_file()


# -- docs/how-to/ci.md ----------------------------------------------------------------------------


def snippets() -> list[Any]:
    found = re.findall(r"^```yaml\n(.*?)^```", DOC.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(text) for text in found]


def nodes(value: Any) -> list[dict[str, Any]]:
    """Every mapping in a YAML value."""
    children = value.values() if isinstance(value, dict) else value
    inner = [n for child in children if isinstance(child, dict | list) for n in nodes(child)]
    return [value, *inner] if isinstance(value, dict) else inner


def test_documented_workflows_use_inputs_that_exist() -> None:
    used = [n for s in snippets() for n in nodes(s) if "medbench@" in str(n.get("uses"))]
    assert len(used) == 2
    for step in used:
        assert set(step["with"]) <= set(ACTION["inputs"])
        assert all(isinstance(value, str) for value in step["with"].values())
        required = {name for name, of in ACTION["inputs"].items() if of.get("required")}
        assert required <= set(step["with"])


def test_the_table_of_inputs_and_the_action_agree() -> None:
    cells = re.findall(r"^\| (`.*?) \| (.*?) \|", DOC.read_text("utf-8"), re.MULTILINE)
    listed = {name: default for names, default in cells for name in re.findall("`(.*?)`", names)}
    assert set(listed) == set(ACTION["inputs"])
    for name in ("baseline", "inconclusive", "output", "install"):
        assert listed[name] == f"`{ACTION['inputs'][name]['default']}`"


def test_documented_jobs_may_do_no_more_than_they_need() -> None:
    (workflow,) = (s for s in snippets() if isinstance(s, dict) and "jobs" in s)
    assert workflow["permissions"] == {"contents": "read"}
    assert "permissions" not in workflow["jobs"]["gate"]
    assert workflow["jobs"]["comment"]["permissions"] == {"pull-requests": "write"}
    assert True in workflow, "YAML 1.1 reads the key `on` so"
    assert "pull_request_target" not in DOC.read_text("utf-8")


def test_documented_scripts_are_bash_without_expressions() -> None:
    scripts = [n["run"] for s in snippets() for n in nodes(s) if "run" in n]
    scripts += ["\n".join(n["script"]) for s in snippets() for n in nodes(s) if "script" in n]
    assert len(scripts) == 2
    for script in scripts:
        assert "${{" not in script
        subprocess.run(["bash", "-n", "-c", script], check=True)


def test_documented_commands_exist(tmp_path: Path) -> None:
    """Every option that the page gives to a verb is one that the verb has."""
    from typer.main import get_command

    from medbench.cli import app

    text = DOC.read_text("utf-8")
    verbs = get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"^\s*(?:- )?medbench (run|gate|baseline \w+)(.*)$", text, re.MULTILINE)
    assert {verb for verb, _ in lines} == {"run", "gate", "baseline update", "baseline show"}
    for verb, rest in lines:
        command = verbs[verb.split()[0]]
        if " " in verb:
            command = command.commands[verb.split()[1]]
        options = {option for param in command.params for option in param.opts}
        assert set(re.findall(r"--[a-z-]+", rest.partition("#")[0])) <= options


def test_the_documented_comment_is_updated_rather_than_repeated(tmp_path: Path) -> None:
    """The job's script against a gh that has a comment, and one that has none."""
    (script,) = (n["run"] for s in snippets() for n in nodes(s) if "run" in n)
    fake = tmp_path / "gh"
    fake.write_text(
        '#!/bin/bash\nprintf "%s\\n" "$*" >> "$CALLS"\n'
        'if [[ "$*" == *--paginate* ]]; then printf "%s" "$FOUND"; fi\n'
    )
    fake.chmod(0o755)
    for found, last in (
        ("41\n57\n", "--method PATCH repos/o/r/issues/comments/41 --field body=@comment.md"),
        ("", "repos/o/r/issues/7/comments --field body=@comment.md"),
    ):
        environment = {
            "PATH": f"{tmp_path}:{os.environ['PATH']}", "CALLS": str(tmp_path / "calls"),
            "FOUND": found, "COMMENTS": "repos/o/r/issues/7/comments", "REPOSITORY": "repos/o/r",
        }  # fmt: skip
        subprocess.run(["bash", "-e", "-o", "pipefail", "-c", script], env=environment, check=True)
        assert (tmp_path / "calls").read_text().splitlines()[-1] == f"api {last}"
