import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, subprocess, sys, warnings
from pathlib import Path
from medbench.harness.quiet import quiet
try:
    with quiet(Path(sys.argv[1])) as terminal:
        print("noise by print")
        os.write(2, b"noise by C\\n")
        subprocess.run([sys.executable, "-c", "print('noise by a child')"], check=True)
        warnings.warn("noise by warning")
        terminal.write("words\\n")
        raise RuntimeError
except RuntimeError:
    print("after")
    print("after, too", file=sys.stderr)
"""


def test_noise_goes_to_the_log_and_words_to_the_terminal(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(log)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "words\nafter\n"
    assert done.stderr == "after, too\n"
    for source in ("print", "C", "a child", "warning"):
        assert f"noise by {source}" in log.read_text()
