"""What a person sees on a terminal while a run goes on."""

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from medbench.harness.board import Board


def test_a_terminal_shows_stages_and_results_and_no_library_noise(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    settings = ["tasks=[clinic_text, clinic_open]", "limit=8", "latency=null"]
    process = subprocess.Popen(
        [
            sys.executable, "-m", "medbench", "run", "--models", "base", "--device", "cpu",
            "--out", str(tmp_path / "R"), *(part for one in settings for part in ("--set", one)),
        ],
        stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    try:
        while chunk := os.read(ours, 65536):
            seen += chunk
    except OSError:  # Linux reports the end of a pseudo-terminal so
        pass
    assert process.wait() == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode("utf-8"))
    for expected in ("score/base/clinic_text", "32/32", "8/8", "report.html"):
        assert expected in text
    for noise in ("it/s", "Warning", "WARNING", "INFO", "Tokenizing", "metadata"):
        assert noise not in text
    assert "it/s" in (tmp_path / "R" / "run.log").read_text()


def test_stages_that_run_at_once_have_a_bar_each_and_a_failed_one_is_told() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, color_system=None)
    with Board(console) as board:
        first, second = board.begin("score/a/t"), board.begin("score/b/t")
        first(1, 2, "")
        second(3, 4, "")
        board.end("score/a/t", 1.0, {"value": 0.5, "n": 2})
        both = out.getvalue()
        second(4, 4, "")
        board.end("score/b/t", 1.0, {"failed": "b has [no] room"})
        left = out.getvalue().removeprefix(both)
    assert "1/2" in both
    assert "3/4" in both
    assert "✓ score/a/t" in both
    assert "4/4" in left
    assert "1/2" not in left
    assert "✗ b has [no] room" in left
