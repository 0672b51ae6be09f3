"""Several runs: the history of their models, and the static site."""

import json
import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from medbench.cli import app
from medbench.errors import InputError
from medbench.harness.folder.store import RunFolder
from medbench.harness.results import task_score
from medbench.reports.history.history import _judged, read_history
from medbench.reports.history.site import build_site, find_runs
from medbench.reports.history.write import write_history
from medbench.reports.redaction import Sharing

from .sources import score
from .tables import Row, disagreements, figures, tables
from .test_hostile import Tags, tags_of_markdown

MakeRun = Callable[..., RunFolder]


def clone(run: RunFolder, path: Path, day: int, wrong: int = 0) -> RunFolder:
    """The same run on another day, its tuned model wrong on so many more of made_up_text."""
    other = RunFolder(path)
    table = run.samples()
    mine = (table["model"] == "tuned") & (table["task"] == "made_up_text") & (table["score"] == 1)
    table.loc[table.index[mine][:wrong], "score"] = 0.0
    other.write_table("samples.parquet", table)
    results: dict[str, Any] = run.results()
    changed = table[(table["model"] == "tuned") & (table["task"] == "made_up_text")]
    results["tasks"]["made_up_text"]["scores"]["tuned"] = task_score(changed)
    other.write_json("results.json", results)
    manifest = run.manifest() | {"created": f"2026-03-{day:02d}T00:00:00+00:00"}
    manifest["suite"]["gate"] = {"tolerance": 5.0}
    other.write_json("manifest.json", manifest)
    return other


@pytest.fixture(scope="module")
def runs(whole_run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    """Three runs; the third is worse, and the second bears the first's date and more."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        clone(whole_run, folder / "third", 12, wrong=60),
        clone(whole_run, folder / "first", 10),
        clone(whole_run, folder / "second", 11),
    ]


def test_a_history_is_in_the_order_of_time(runs: list[RunFolder]) -> None:
    history = read_history(runs)
    assert [run.label for run in history.runs] == ["first", "second", "third"]
    assert history.models == ("tuned",)
    assert history.title == "tuned over 3 runs"
    values = {
        line.task.name: [point.score and point.score.value for point in line.points]
        for line in history.lines
    }
    for task, found in values.items():
        wanted = [
            run.results()["tasks"][task]["scores"]["tuned"]["value"]
            for run in (runs[1], runs[2], runs[0])
        ]
        assert found == wanted


def test_each_run_is_gated_against_the_one_before(runs: list[RunFolder]) -> None:
    same, worse = read_history(runs).gates
    assert (same.before, same.run, same.status) == ("first", "second", "pass")
    assert (worse.before, worse.run, worse.status) == ("second", "third", "regression")
    assert worse.said[0].startswith("made_up_text: −25.0\u00a0points")


def test_what_cannot_be_gated_says_why(runs: list[RunFolder], tmp_path: Path) -> None:
    other = clone(runs[1], tmp_path / "other", 20)
    table = other.samples()
    other.write_table("samples.parquet", table[table["task"] != "made_up_open"])
    [gate] = read_history([runs[0], other]).gates
    assert gate.status is None
    assert "made_up_open" in gate.said[0]


def test_a_history_needs_a_model_in_two_runs(runs: list[RunFolder], make_run: MakeRun) -> None:
    with pytest.raises(InputError, match="named twice"):
        read_history([runs[0], runs[0]])
    other = make_run(("other",))
    with pytest.raises(InputError, match="no model is in two"):
        read_history([runs[0], other])


def test_every_form_of_a_history_has_every_score(runs: list[RunFolder], tmp_path: Path) -> None:
    history = read_history(runs)
    written = write_history(history, RunFolder(tmp_path))
    names = [path.relative_to(tmp_path).as_posix() for path in written]
    assert names == ["history.html", "history.md", "history.json", "figures/history.svg"]
    page, document, told = (path.read_text("utf-8") for path in written[:3])
    [said] = re.findall(r'<desc id="history-desc">(.*?)</desc>', page)
    for line in history.lines:
        for point in line.points:
            assert point.score is not None
            assert f"{point.shown} <small>{point.interval}</small>" in page
            assert point.shown in said
            assert f" {point.shown} | {point.interval} |" in document
    assert "<script" not in page
    assert "](figures/history.svg)" in document
    for gate in history.gates:
        for sentence in gate.said:
            assert sentence.split(" (")[0] in document.replace("\\", "")
    value = json.loads(told)
    assert [one["label"] for one in value["runs"]] == ["first", "second", "third"]
    for one in value["scores"]:
        for run, point in zip((runs[1], runs[2], runs[0]), one["points"], strict=True):
            source = run.results()["tasks"][one["task"]]["scores"][one["model"]]
            assert point == {key: source[key] for key in ("value", "low", "high", "n")}
    assert [gate["status"] for gate in value["gates"]] == ["pass", "regression"]


def test_every_figure_of_a_history_is_that_of_its_runs(
    runs: list[RunFolder], tmp_path: Path
) -> None:
    history = read_history(runs)
    write_history(history, RunFolder(tmp_path))
    ((table),) = tables((tmp_path / "history.html").read_text("utf-8"))
    results = [run.results() for run in (runs[1], runs[2], runs[0])]
    rows: list[Row] = [
        [
            [line.task.name], [line.model],
            *(
                score(one["tasks"][line.task.name]["scores"][line.model], line.task.metric)
                for one in results
            ),
        ]
        for line in history.lines
    ]  # fmt: skip
    assert disagreements(table, rows) == []
    page = (tmp_path / "history.html").read_text("utf-8")
    for before, run, gate in zip(history.runs, history.runs[1:], history.gates, strict=False):
        verdicts = _judged("tuned", before.path, run.path).verdicts
        assert gate.passed == sum(one.status == "pass" for one in verdicts)
        assert f"{gate.passed}\u00a0verdicts passed" in page
        for one in (one for one in verdicts if one.status != "pass"):
            assert one.sentence in unescape(page)
            shown = figures(one.sentence.replace(one.task, ""))
            for value in (100 * one.observed, 100 * abs(one.limit), one.n):
                assert any(one.says(value or 0) for one in shown), value


class Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value or "" for name, value in attrs if name in ("href", "src")]


def test_every_link_of_a_site_arrives(runs: list[RunFolder], tmp_path: Path) -> None:
    out = tmp_path / "site"
    entries = build_site(runs, out)
    assert [entry.folder for entry in entries] == ["third", "second", "first"]
    for path in out.rglob("*.html"):
        for link in Links(path.read_text("utf-8")).found:
            assert link.startswith("#") or (path.parent / link).is_file(), link
    report = json.loads((out / "first/report.json").read_text("utf-8"))
    assert report["title"] == "base and tuned"
    assert (out / ".nojekyll").is_file()


def test_a_site_names_no_folder_of_this_machine_and_no_text(
    whole_run: RunFolder, tmp_path: Path
) -> None:
    run = clone(whole_run, tmp_path / "runs/one", 3)
    manifest = run.manifest()
    manifest["command"] = "medbench run --suite /home/somebody/private/suite.yaml --out ../x/run"
    manifest["suite"]["models"]["base"]["pretrained"] = "/data/hospital/model"
    manifest["stages"]["latency/tuned"] |= {"status": "failed", "error": "row 3: Jane Doe has it"}
    run.write_json("manifest.json", manifest)
    build_site([run], tmp_path / "site")
    for path in (tmp_path / "site").rglob("*.*"):
        if path.is_file():
            text = path.read_text("utf-8")
            for private in ("somebody", "hospital", "Jane Doe", "itis asks which", str(tmp_path)):
                assert private not in text


def test_a_site_is_replaced_and_anything_else_is_not(runs: list[RunFolder], tmp_path: Path) -> None:
    out = tmp_path / "site"
    build_site(runs[:2], out)
    build_site(runs[:1], out)
    assert sorted(path.name for path in out.iterdir()) == [".nojekyll", "index.html", "third"]
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "index.html").write_text("<h1>Mine</h1>")
    with pytest.raises(InputError, match="something else than a site"):
        build_site(runs, other)
    assert (other / "index.html").read_text() == "<h1>Mine</h1>"


def test_runs_are_found_at_any_depth_and_once(runs: list[RunFolder], tmp_path: Path) -> None:
    folder = runs[0].path.parent
    found = find_runs([folder, folder / "first"])
    assert [run.path.name for run in found] == ["first", "second", "third"]
    with pytest.raises(InputError, match="no run folder there"):
        find_runs([tmp_path])
    with pytest.raises(InputError, match="no such folder"):
        find_runs([tmp_path / "none"])


def test_runs_of_one_name_get_folders_of_their_own(runs: list[RunFolder], tmp_path: Path) -> None:
    twins = [clone(runs[1], tmp_path / place / "a run/../run ü", 3) for place in ("a", "b")]
    entries = build_site(twins, tmp_path / "site")
    assert sorted(entry.folder for entry in entries) == ["run-ü", "run-ü-2"]


def test_the_verbs(runs: list[RunFolder], tmp_path: Path) -> None:
    runner = CliRunner()
    folders = [str(run.path) for run in runs]
    done = runner.invoke(app, ["site", *folders, "--out", str(tmp_path / "site")])
    assert (done.exit_code, "3 runs: " in done.stdout) == (0, True)
    done = runner.invoke(app, ["report", *folders, "--out", str(tmp_path / "pages")])
    assert (done.exit_code, "regression" in done.stdout) == (0, True)
    assert (tmp_path / "pages/history.html").is_file()
    done = runner.invoke(
        app, ["report", folders[0], "--samples", "hashes", "--out", str(tmp_path / "one")]
    )
    assert done.exit_code == 0
    assert "itis asks which" not in (tmp_path / "one/report.md").read_text("utf-8")
    assert not (runs[0] / "report.md").exists()


def test_the_documented_commands_and_workflows_are_what_they_say(
    runs: list[RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (Path(__file__).parents[2] / "docs/how-to/publish.md").read_text("utf-8")
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        assert isinstance(yaml.safe_load(block), dict)
    commands = set(re.findall(r"medbench (site runs .*?)(?: {2,}#.*)?$", text, re.MULTILINE))
    assert len(commands) == 3
    monkeypatch.chdir(tmp_path)
    Path("runs").symlink_to(runs[0].path.parent)
    for command in sorted(commands):
        done = CliRunner().invoke(app, command.split())
        assert done.exit_code == 0, done.output


def test_hostile_text_stays_text_on_every_page(hostile_run: RunFolder, tmp_path: Path) -> None:
    twins = [clone(hostile_run, tmp_path / f"runs/{day}", day) for day in (3, 4)]
    build_site(twins, tmp_path / "site", Sharing("all", published=True))
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) == 4
    for path in pages:
        found = Tags(path.read_text("utf-8")).found
        scripts = [attributes.get("type") for tag, attributes in found if tag == "script"]
        assert [kind for kind in scripts if kind is None] == [None] * (path.parent.name in "34")
        for tag, attributes in found:
            assert tag not in ("img", "iframe", "base", "object", "embed", "link")
            assert not [name for name in attributes if name.startswith("on")]
            assert "javascript:" not in (attributes.get("href") or "")


def test_hostile_text_stays_text_in_every_form_of_a_history(
    hostile_run: RunFolder, tmp_path: Path
) -> None:
    twins = [clone(hostile_run, tmp_path / f"runs/{day}", day) for day in (3, 4)]
    page, document, told, figure = (
        path.read_text("utf-8")
        for path in write_history(read_history(twins), RunFolder(tmp_path / "out"))
    )
    ours = {
        "h1", "h2", "p", "strong", "em", "ol", "ul", "li", "img", "table", "thead", "tbody", "tr",
        "th", "td",
    }  # fmt: skip
    found = tags_of_markdown(document)
    assert {tag for tag, _ in found} <= ours
    assert [one["src"] for tag, one in found if tag == "img"] == ["figures/history.svg"]
    for source in (page, figure):
        for tag, attributes in Tags(source).found:
            assert tag not in ("script", "img", "iframe", "foreignobject")
            assert not [name for name in attributes if name.startswith("on")]
    assert told.isascii()
    assert not {"\x1b", "\x00", "\u202e"} & {*json.dumps(json.loads(told), ensure_ascii=False)}
