"""Answers on disk: they come back as they were, or not at all."""

import math
import os
from pathlib import Path

import pytest

from medbench.harness.folder import journal
from medbench.harness.folder.journal import Journal

ANSWERS = [[-0.1 / 3, True], [-math.inf, False]]


def parts(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_what_was_written_comes_back_as_it_was(tmp_path: Path) -> None:
    said = ["é\n\u2028</script>", {"text": "x", "tokens": None}, -12.5]
    one = Journal(tmp_path / "J")
    one.add("a", ANSWERS)
    one.add("b", said)
    one.write()
    two = Journal(tmp_path / "J")
    assert two["a"] == ANSWERS, "to the last bit"
    assert two["b"] == said
    assert "c" not in two
    assert two.damaged == []


def test_a_stage_of_seconds_writes_nothing(tmp_path: Path) -> None:
    with Journal(tmp_path / "J").open():
        Journal(tmp_path / "J").add("a", ANSWERS)
    assert not (tmp_path / "J").exists()


def test_a_part_is_written_when_it_is_due_and_when_the_stage_ends_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = Journal(tmp_path)
    one.add("a", ANSWERS)
    assert parts(tmp_path) == []
    monkeypatch.setattr(journal, "EVERY", 0)
    one.add("b", ANSWERS)
    assert len(parts(tmp_path)) == 1, "with what came before it"
    monkeypatch.undo()
    one.add("c", ANSWERS)
    with pytest.raises(KeyboardInterrupt), one.open():
        raise KeyboardInterrupt
    assert len(parts(tmp_path)) == 2
    found = Journal(tmp_path)
    assert all(key in found for key in "abc")


@pytest.mark.parametrize("harm", ["cut", "altered", "empty"])
def test_a_damaged_part_is_removed_and_the_others_stay(tmp_path: Path, harm: str) -> None:
    one = Journal(tmp_path)
    for key in "ab":
        one.add(key, ANSWERS)
        one.write()
    broken = parts(tmp_path)[0]
    content = bytearray(broken.read_bytes())
    if harm == "cut":
        broken.write_bytes(content[:-1])
    elif harm == "altered":
        content[content.index(b"0")] ^= 1
        broken.write_bytes(content)
    else:
        broken.write_bytes(b"")
    two = Journal(tmp_path)
    assert two.damaged == [broken.name]
    assert ("a" in two) != ("b" in two)
    assert not broken.exists()
    assert Journal(tmp_path).damaged == [], "said once"


def test_processes_write_into_one_journal(tmp_path: Path) -> None:
    both = [Journal(tmp_path), Journal(tmp_path)]
    for number, one in enumerate(both):
        one.add(f"rank {number}", [number])
        one.add("padding", ANSWERS)
        one.write()
    found = Journal(tmp_path)
    assert [found[key] for key in ("rank 0", "rank 1", "padding")] == [[0], [1], ANSWERS]


def test_a_full_disk_does_not_hide_why_a_stage_ended(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    one = Journal(file / "J")  # nobody can make that folder, root neither
    one.add("a", ANSWERS)
    with pytest.raises(KeyboardInterrupt), one.open():
        raise KeyboardInterrupt
    with pytest.raises(OSError, match=os.strerror(20)):
        one.write()
