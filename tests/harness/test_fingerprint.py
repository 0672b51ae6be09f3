from pathlib import Path

from medbench.harness.folder import fingerprint


def test_key_order_does_not_matter_and_values_do() -> None:
    assert fingerprint.of({"a": 1, "b": 2}) == fingerprint.of({"b": 2, "a": 1})
    assert fingerprint.of({"a": 1}) != fingerprint.of({"a": 2})


def test_a_folder_changes_with_content_and_names(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("x")
    first = fingerprint.of_path(tmp_path)
    assert fingerprint.of_path(tmp_path) == first
    (tmp_path / "a").write_text("y")
    second = fingerprint.of_path(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert len({first, second, fingerprint.of_path(tmp_path)}) == 3


def test_nothing_there_is_empty(tmp_path: Path) -> None:
    assert fingerprint.of_path(tmp_path / "gone") == ""


def test_code_covers_specs_too() -> None:
    assert fingerprint.of_code("tasks") != fingerprint.of_code("finetune")
