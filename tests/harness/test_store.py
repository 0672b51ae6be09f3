import json
import tempfile
from pathlib import Path

import pandas as pd
import pytest

from medbench.errors import InputError
from medbench.harness.folder.store import FORMAT, RunFolder, atomic_path


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "kept.txt"
    target.write_text("old")

    def half() -> None:
        with atomic_path(target) as draft:
            draft.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


def test_a_folder_replaces_a_folder_whole(tmp_path: Path) -> None:
    target = tmp_path / "adapters" / "tuned"
    for name in ("first", "second"):
        with atomic_path(target) as draft:
            draft.mkdir()
            (draft / name).touch()
    assert [path.name for path in target.iterdir()] == ["second"]


def test_json_has_no_nan(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_json("results.json", {"a": float("nan"), "b": [float("inf"), 1.5, 2]})
    text = (tmp_path / "results.json").read_text()
    assert json.loads(text) == {"a": None, "b": [None, 1.5, 2]}
    assert "NaN" not in text


def test_tables_keep_lists_and_nulls(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    table = pd.DataFrame({"options": [["a", "b"], []], "prediction": ["a", None]})
    run.write_table("samples.parquet", table)
    back = run.samples()
    assert [list(row) for row in back["options"]] == [["a", "b"], []]
    assert back["prediction"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "no run folder"),
        ("{", "not valid JSON"),
        ("[]", "JSON object"),
        (json.dumps({"format": FORMAT + 1}), f"format {FORMAT + 1}"),
        (json.dumps({}), "format None"),
    ],
)
def test_open_refuses_what_it_cannot_read(tmp_path: Path, content: str | None, part: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=part):
        RunFolder.open(tmp_path)


def test_sweeping_takes_drafts_and_nothing_else(tmp_path: Path) -> None:
    """What a process killed in the middle of a write leaves is gone; other hidden things stay."""
    holder = Path(tempfile.mkdtemp(prefix=".tuned.", dir=tmp_path))  # as atomic_path makes it
    (holder / "tuned").mkdir()
    (tmp_path / ".gitignore").touch()
    (tmp_path / ".cache").mkdir()
    RunFolder(tmp_path).sweep()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cache", ".gitignore"]
