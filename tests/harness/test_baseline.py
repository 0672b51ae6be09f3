import json
import subprocess
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from medbench.errors import InputError
from medbench.harness.gate import baseline
from medbench.harness.gate.baseline import BaselineInfo, read, read_at_ref, write

SECRET = "Which herb does the miller's aunt take?"


def row(task: str, doc_id: int, **changed: Any) -> dict[str, Any]:
    return {
        "model": "tuned", "task": task, "doc_id": doc_id, "order": 0, "score": doc_id % 2,
        "weight": 1.0, "cluster": f"{SECRET} {doc_id}", "metric": "acc", "protocol": "letters",
        "doc_hash": f"d{doc_id:063}", "target_hash": f"t{doc_id % 4:063}",
        "prompt_hash": f"p{doc_id:063}", "question": SECRET, "prompt": SECRET, "target": SECRET,
        "output": SECRET, "prediction": SECRET, "options": [SECRET],
    } | changed  # fmt: skip


@pytest.fixture
def samples() -> pd.DataFrame:
    bits = {"metric": "bits_per_byte", "protocol": "bits – 0-shot", "score": 1 / 3, "weight": 7}
    return pd.DataFrame(
        [row("letters", number) for number in (10, 9, 2)]
        + [row("letters", 2, order=1, doc_hash="e" * 64)]
        + [row("bits", number, **bits) for number in (0, 1)]
    )


@pytest.fixture
def info() -> BaselineInfo:
    return BaselineInfo(
        "tuned", "quickstart", "2026-03-04T05:06:07+00:00",
        {"device": "cpu", "processor": "Made-up 9000"}, [{"format": "fp32", "ttft_ms_p50": 8.1}],
    )  # fmt: skip


@pytest.fixture
def file(tmp_path: Path, samples: pd.DataFrame, info: BaselineInfo) -> Path:
    path = tmp_path / baseline.FILE
    write(samples, info, path)
    return path


def test_what_is_written_is_read(file: Path, samples: pd.DataFrame, info: BaselineInfo) -> None:
    found, table = read(file)
    assert found == info
    keys = ["task", "doc_id", "order"]
    same = [*keys, "score", "weight", "doc_hash", "target_hash", "prompt_hash", "metric",
            "protocol", "model"]  # fmt: skip
    pd.testing.assert_frame_equal(
        table[same],
        samples.sort_values(keys, ignore_index=True)[same],
        check_dtype=False,
        check_exact=True,
    )


def test_the_table_has_every_column_of_a_samples_table(file: Path) -> None:
    from medbench.harness.evaluate import COLUMNS

    _, table = read(file)
    assert set(COLUMNS) <= set(table.columns)
    assert table["unparsed"].isna().all(), "not known is not False"


def test_questions_of_one_cluster_stay_together_and_others_apart(
    tmp_path: Path, info: BaselineInfo
) -> None:
    rows = [row("letters", n, cluster=f"abstract {n // 2}") for n in range(6)]
    write(pd.DataFrame(rows), info, tmp_path / "b.jsonl")
    clusters = read(tmp_path / "b.jsonl")[1]["cluster"].tolist()
    assert clusters[0] == clusters[1] != clusters[2] == clusters[3] != clusters[4]
    assert len(set(clusters)) == 3


def test_no_text_of_a_question_or_answer_is_in_the_file(file: Path) -> None:
    assert "herb" not in file.read_text()


def test_the_same_scores_in_another_order_are_the_same_bytes(
    file: Path, samples: pd.DataFrame, info: BaselineInfo
) -> None:
    before = file.read_bytes()
    write(samples.sample(frac=1, random_state=3), info, file)
    assert file.read_bytes() == before


def test_one_changed_score_is_two_changed_lines(
    file: Path, samples: pd.DataFrame, info: BaselineInfo
) -> None:
    """The question's own and the header, which has the score of its task."""
    before = file.read_text().splitlines()
    write(samples.assign(score=[1, *samples["score"][1:]]), info, file)
    after = file.read_text().splitlines()
    changed = [n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert changed == [0, 6], "question 10 comes last: numbers are sorted as numbers"


def test_the_header_says_what_a_reviewer_wants_to_see(file: Path) -> None:
    header = json.loads(file.read_text().splitlines()[0])
    assert header["medbench_baseline"] == baseline.VERSION
    assert header["tasks"]["letters"] == {
        "n": 4, "value": 0.25, "metric": "acc", "protocol": "letters"
    }  # fmt: skip
    assert header["tasks"]["bits"]["value"] == pytest.approx(1 / 21)


def test_ids_that_are_words_are_kept(tmp_path: Path, info: BaselineInfo) -> None:
    rows = [row("letters", 0) | {"doc_id": name} for name in ("b/2", "a-1")]
    write(pd.DataFrame(rows), info, tmp_path / "b.jsonl")
    assert read(tmp_path / "b.jsonl")[1]["doc_id"].tolist() == ["a-1", "b/2"]


def test_hashes_that_nobody_knows_are_null(tmp_path: Path, info: BaselineInfo) -> None:
    """Somebody's predictions have no prompt, and perhaps no text of the right answer."""
    rows = pd.DataFrame([row("letters", 0, target_hash=None)]).drop(columns="prompt_hash")
    write(rows, info, tmp_path / "b.jsonl")
    table = read(tmp_path / "b.jsonl")[1]
    assert table[["target_hash", "prompt_hash"]].isna().all(axis=None)


@pytest.mark.parametrize("score", [float("nan"), float("inf")])
def test_a_question_without_a_score_makes_no_baseline(
    tmp_path: Path, samples: pd.DataFrame, info: BaselineInfo, score: float
) -> None:
    with pytest.raises(InputError, match="task letters, question 10: score is"):
        write(samples.assign(score=score), info, tmp_path / "b.jsonl")
    assert not list(tmp_path.iterdir())


def test_no_samples_make_no_baseline(tmp_path: Path, info: BaselineInfo) -> None:
    with pytest.raises(InputError, match="no sample"):
        write(pd.DataFrame(), info, tmp_path / "b.jsonl")


def swap(old: str, new: str) -> Any:
    return lambda text: text.replace(old, new, 1)


def without_line(number: int) -> Any:
    return lambda text: "".join(
        line for n, line in enumerate(text.splitlines(True), start=1) if n != number
    )


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda text: "", "line 1: not valid JSON"),
        (lambda text: "\udcff", "not UTF-8"),
        (lambda text: "PK\x03\x04", "line 1: not valid JSON"),
        (lambda text: '{"results": {}}\n', 'first line has no "medbench_baseline"'),
        (swap('"medbench_baseline": 1', '"medbench_baseline": 2'), "format 2.* reads format 1"),
        (without_line(3), "1 lines of bits, 2 expected"),
        (lambda text: text[: len(text) // 2], "not valid JSON"),
        (lambda text: text + text.splitlines()[-1] + "\n", "5 lines of letters, 4 expected"),
        (swap('"score": 0,', '"score": 1,'), "sha256 differs"),
        (swap('"score": 0,', '"score": NaN,'), "line 4: not valid JSON .NaN is no number"),
        (swap('"score": 0,', '"score": "0",'), "line 4: score is '0'"),
        (swap('"score": 0,', '"score": true,'), "line 4: score is True"),
        (swap('"score": 0, ', ""), "line 4: score is missing"),
        (swap('{"task": "letters"', '{"task": "other"'), "task 'other' is not in the first line"),
        (lambda text: text + "<<<<<<< HEAD\n", "line 8: not valid JSON"),
        (lambda text: text + "[]\n", "line 8: expected a JSON object"),
        (swap('"n": 2, ', ""), "line 1: n is missing"),
        (swap('"hardware": {', '"hardware": [], "x": {'), "line 1: hardware is"),
    ],
)
def test_a_damaged_file_is_one_message_that_says_where(file: Path, damage: Any, part: str) -> None:
    file.write_bytes(damage(file.read_text()).encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=part) as caught:
        read(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "medbench baseline update" in str(caught.value)


def test_what_editors_and_git_do_to_line_ends_is_no_damage(file: Path, info: BaselineInfo) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert baseline.is_baseline(file)
    assert read(file)[0] == info


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.jsonl: cannot be read.*baseline update RUN --out"):
        read(tmp_path / "none.jsonl")


def test_a_baseline_is_known_by_its_first_bytes(file: Path, tmp_path: Path) -> None:
    assert baseline.is_baseline(file)
    (tmp_path / "predictions.jsonl").write_text('{"task": "letters"}\n')
    for other in ("predictions.jsonl", "none", "."):
        assert not baseline.is_baseline(tmp_path / other)


# -- in git ---------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> None:
    who = ["-c", "user.name=A", "-c", "user.email=a@example.invalid", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def checkout(
    file: Path, samples: pd.DataFrame, info: BaselineInfo, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A checkout whose branch main has a baseline, which the working tree has changed since."""
    folder = file.parent
    (folder / "sub").mkdir()
    git(folder, "init", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--message", "Baseline")
    write(samples.assign(score=1), info, file)
    monkeypatch.chdir(folder)
    return folder


def test_a_baseline_is_read_as_another_commit_has_it(
    checkout: Path, samples: pd.DataFrame, info: BaselineInfo
) -> None:
    found, table = read_at_ref("main")
    assert found == info
    assert table["score"].sum() == pytest.approx(samples["score"].sum())
    assert read(checkout / baseline.FILE)[1]["score"].sum() == len(samples)


def test_paths_are_relative_to_the_current_folder(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkout / "sub")
    for path in (f"../{baseline.FILE}", checkout / baseline.FILE):
        assert len(read_at_ref("HEAD", path)[1]) == 6
    with pytest.raises(InputError, match=r"'HEAD': medbench-baseline\.jsonl is no file"):
        read_at_ref("HEAD")


@pytest.mark.parametrize(
    "ref", ["", "-p", "--output=stolen", "main:sub", "main x", "main\nx", "\x1b[31m"]
)
def test_what_is_no_ref_never_reaches_git(checkout: Path, ref: str) -> None:
    before = sorted(checkout.iterdir())
    with pytest.raises(InputError, match="no name of a commit"):
        read_at_ref(ref)
    assert sorted(checkout.iterdir()) == before


def test_an_unknown_commit_says_that_ci_fetches_only_one(checkout: Path) -> None:
    with pytest.raises(InputError, match=r"'origin/main'.*fetch-depth: 0"):
        read_at_ref("origin/main")


def test_a_folder_is_no_file_at_the_ref(checkout: Path) -> None:
    with pytest.raises(InputError, match="sub is no file in that commit"):
        read_at_ref("main", "sub")


def test_a_damaged_file_in_a_commit_is_named_with_the_commit(checkout: Path) -> None:
    (checkout / baseline.FILE).write_text("{}\n")
    git(checkout, "commit", "--all", "--message", "Damage")
    with pytest.raises(InputError, match=r"^main:medbench-baseline\.jsonl: no baseline"):
        read_at_ref("main")


def test_outside_a_checkout_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(InputError, match=r"'main': not a git repository.*inside the git checkout"):
        read_at_ref("main")


def test_without_git_is_said(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(checkout / "sub"))
    with pytest.raises(InputError, match="git is not installed"):
        read_at_ref("main")
