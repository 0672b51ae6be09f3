"""A process that is killed leaves none of its own behind."""

import signal
import subprocess
import sys
import time

import psutil

CHILD = """
import sys, time
from medbench.harness.orphans import end_with_parent
end_with_parent()
print("up", flush=True)
time.sleep(float(sys.argv[1]))
"""
PARENT = """
import subprocess, sys
from medbench.harness.orphans import lifeline
with lifeline() as stdin:
    child = subprocess.Popen([sys.executable, "-c", sys.argv[1], "60"], stdin=stdin)
    print(child.pid, flush=True)
    child.wait()
"""


def test_a_child_does_not_outlive_a_parent_that_was_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        assert parent.stdout.readline() == "up\n"
        parent.send_signal(signal.SIGKILL)
        started = time.monotonic()
        assert psutil.wait_procs([child], timeout=20)[1] == []
        assert time.monotonic() - started < 5


def test_a_child_whose_parent_lives_ends_in_its_own_time() -> None:
    from medbench.harness.orphans import lifeline

    with lifeline() as stdin:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, "0.3"], stdin=stdin, capture_output=True, check=False
        )
    assert (done.returncode, done.stdout) == (0, b"up\n")
