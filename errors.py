"""The exceptions that medbench raises on purpose.

::

    MedbenchError            anything medbench says no to; the message is for the user
    ├── InputError           the suite, recipe, data or command line is wrong       → exit code 2
    └── StageError           a stage started and could not finish                   → exit code 1

Every message names the file, key or row, what was expected, and the fix. The command line prints
the message and nothing else; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations


class MedbenchError(Exception):
    """Base of all deliberate errors; ``exit_code`` is what the command line returns."""

    exit_code = 1


class InputError(MedbenchError):
    """Something the user gave is wrong; nothing was written."""

    exit_code = 2


class StageError(MedbenchError):
    """A stage failed after it had started; what was finished before it is kept."""
