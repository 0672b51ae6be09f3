"""The verb `medbench baseline`, over an invented run, and what it prints."""

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from medbench.cli import app
from medbench.errors import InputError
from medbench.harness.comparing.join import join
from medbench.harness.folder.store import RunFolder
from medbench.harness.gate import baseline


def call(*arguments: object) -> Result:
    done = CliRunner().invoke(app, ["baseline", *map(str, arguments)])
    if isinstance(done.exception, InputError):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture
def file(whole_run: RunFolder, tmp_path: Path) -> Path:
    path = tmp_path / "b.jsonl"
    call("update", f"{whole_run.path}:tuned", "--out", path)
    return path


def test_a_run_joins_its_own_baseline_without_a_difference(
    whole_run: RunFolder, file: Path
) -> None:
    samples = whole_run.samples()
    tuned = samples[samples["model"] == "tuned"].reset_index(drop=True)
    joined = join(baseline.read(file)[1], tuned)
    assert len(joined.pairs) == len(tuned)
    assert (joined.pairs["score_a"] == joined.pairs["score_b"]).all(), "to the last digit"
    assert len(joined.only_a) == len(joined.only_b) == 0
    assert not [text for text in joined.warnings if "prompts" in text]
    count = joined.pairs.groupby("task")["cluster"].nunique()
    assert count.to_dict() == tuned.groupby("task")["cluster"].nunique().to_dict()


def test_the_header_has_what_the_gate_needs_of_latency(whole_run: RunFolder, file: Path) -> None:
    info, _ = baseline.read(file)
    assert (info.model, info.suite) == ("tuned", "made-up")
    assert info.hardware["processor"] == "Made-up 9000"
    assert set(info.hardware) == set(baseline.HARDWARE)
    assert info.latency == [r for r in whole_run.results()["latency"] if r["model"] == "tuned"]
    assert info.latency


def test_of_a_run_it_is_the_model_that_the_gate_would_judge(
    whole_run: RunFolder, file: Path, tmp_path: Path
) -> None:
    call("update", whole_run.path, "--out", tmp_path / "default.jsonl")
    assert (tmp_path / "default.jsonl").read_bytes() == file.read_bytes()


def test_the_same_run_gives_the_same_bytes_and_no_change(whole_run: RunFolder, file: Path) -> None:
    before = file.read_bytes()
    said = call("update", f"{whole_run.path}:tuned", "--out", file).output
    assert file.read_bytes() == before
    assert [line.split()[-1] for line in said.splitlines()[1:-1]] == ["0"] * 4


def test_an_update_says_what_it_changes(whole_run: RunFolder, file: Path) -> None:
    table = baseline.read(file)[1]
    info = baseline.read(file)[0]
    text = table["task"] == "made_up_text"
    other = pd.concat([table[~text], table[text].assign(score=0.0)[:100]])
    baseline.write(other[other["task"] != "made_up_open"], info, file)
    said = call("update", f"{whole_run.path}:tuned", "--out", file).output
    lines = {line.split()[0]: line.split() for line in said.splitlines()}
    right = int(table[text]["score"][:100].sum())
    assert lines["made_up_text"][-1] == str(140 + right), "140 rows new, the others scored anew"
    assert lines["made_up_text"][1] == "0.0"
    assert lines["made_up_open"][1] == "–"
    assert lines["made_up_open"][-1] == "all"
    assert lines["made_up_letters"][-1] == "0"


def test_showing_says_whose_scores_they_are(file: Path) -> None:
    said = call("show", file).output
    for part in ("tuned", "made-up", "Made-up 9000", "made_up_letters", "960", "log-likelihood"):
        assert part in said


def test_hostile_names_are_shown_as_text(file: Path, hostile_text: str) -> None:
    table = baseline.read(file)[1]
    name = f"{hostile_text}\x1b[31m[bold]"
    hostile = baseline.BaselineInfo(name, name, name, {"device": name, "processor": name})
    baseline.write(table.assign(task=name, protocol=name), hostile, file)
    said = call("show", file).output
    assert "[bold red]rich markup[/bold red]" in " ".join(said.split())
    assert not {c for c in said if ord(c) < 32} - {"\n"}


def test_an_unfinished_run_makes_no_baseline(whole_run: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.write_table("samples.parquet", whole_run.samples())
    run.write_json("manifest.json", whole_run.manifest() | {"status": "failed"})
    with pytest.raises(InputError, match=r"results\.json: missing; finish the run"):
        call("update", f"{run.path}:tuned", "--out", tmp_path / "b.jsonl")
    run.write_json("results.json", whole_run.results())
    with pytest.raises(InputError, match="run is not finished; finish it"):
        call("update", f"{run.path}:tuned", "--out", tmp_path / "b.jsonl")
    assert not (tmp_path / "b.jsonl").exists()


def test_another_file_is_not_overwritten(whole_run: RunFolder, tmp_path: Path) -> None:
    (tmp_path / "predictions.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="is no baseline of medbench"):
        call("update", f"{whole_run.path}:tuned", "--out", tmp_path / "predictions.jsonl")
    assert json.loads((tmp_path / "predictions.jsonl").read_text()) == {}


def test_predictions_of_others_make_a_baseline(tmp_path: Path) -> None:
    rows = [{"task": "herbs", "id": n, "gold": "sage", "said": "sage"} for n in range(5)]
    source = tmp_path / "p.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = "doc_id=id,target=gold,prediction=said"
    call("update", source, "--columns", columns, "--out", tmp_path / "b.jsonl")
    info, table = baseline.read(tmp_path / "b.jsonl")
    assert info == baseline.BaselineInfo("p")
    assert table["score"].tolist() == [1.0] * 5
