"""What a person sees on a terminal while a run goes on."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path


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
