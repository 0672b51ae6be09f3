"""One stage of a run: whether it is to be done, how it ended, and what is put down of it.

A stage is skipped when it finished before with the same fingerprint, its outputs are what it left,
and the weights that it read have not been made anew since.
"""

from __future__ import annotations

import contextlib
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import MedbenchError, StageError
from .folder import fingerprint as fingerprints
from .folder.checksum import damage
from .folder.manifest import Manifest, Record, now
from .folder.store import RunFolder, explain_unwritable
from .graph import Node
from .progress import Tick

WEIGHTS = (".safetensors", ".onnx", ".onnx.data")
"""How files end that hold an adapter, a merged model or an export."""


class Watcher(Protocol):
    """Hears how a run goes."""

    def begin(self, stage: str) -> Tick:
        """A stage starts; the tick returned hears of its progress."""

    def end(self, stage: str, seconds: float | None, detail: dict[str, Any]) -> None:
        """A stage is done; *seconds* is None when it had been done before."""


@dataclass
class Book:
    """What is known of a run's stages while it goes on: on disk, and to who watches.

    Attributes:
        done: What the finished stages have left, relative to the run folder.
    """

    run: RunFolder
    manifest: Manifest
    watcher: Watcher
    done: set[str] = field(default_factory=set)

    def due(self, node: Node, fingerprint: str) -> Record | None:
        """The record to begin stage *node* with; None where it is done already."""
        before = self.manifest.stages.get(node.name, {})
        why, weights = None, self._weights(node)
        finished = before.get("status") == "done" and "files" in before
        if finished and before["fingerprint"] == fingerprint:
            why = damage(self.run.path, before["files"])
            if why is None and before.get("weights", weights) != weights:
                why = "its model was made again and came out otherwise"
            if why is None:
                self.run.discard(node.scratch)
                self.done.update(node.outputs)
                self.watcher.end(node.name, None, before["detail"])
                return None
        return {
            "status": "running",
            "fingerprint": fingerprint,
            "started": now(),
            "seconds": None,
            "error": None,
            "redone": why,
            "weights": weights,
            "detail": {},
            "files": {},
        }

    def _weights(self, node: Node) -> str:
        """Hash of the weights that the stages before *node* have left.

        What is damaged is made anew under the same fingerprint, on a GPU never to the same bits.
        """
        left = (self.manifest.stages.get(need, {}).get("files", {}) for need in node.needs)
        return fingerprints.of(
            [
                [name, file["sha256"]]
                for files in left
                for name, file in sorted(files.items())
                if name.endswith(WEIGHTS)
            ]
        )

    def finished(self, node: Node, record: Record) -> None:
        """Tell that stage *node*, whose *record* is put down, is done."""
        self.run.discard(node.scratch)
        self.done.update(node.outputs)
        said = {"redone": record["redone"]} if record["redone"] else {}
        self.watcher.end(node.name, record["seconds"], record["detail"] | said)


@contextlib.contextmanager
def recorded(stage: str, record: Record, log: Path) -> Iterator[None]:
    """Put into *record* how the block, which does *stage* and writes into *log*, has ended.

    Raises:
        MedbenchError: As the block did; what else it raised is told in one line.
    """
    started = time.monotonic()
    try:
        yield
        record["status"] = "done"
    except BaseException as error:
        record["status"] = "failed"
        record["error"] = str(error) or type(error).__name__
        if isinstance(error, MedbenchError) or not isinstance(error, Exception):
            raise
        traceback.print_exc()  # into the log
        raise _explained(stage, error, log) from error
    finally:
        record["seconds"] = time.monotonic() - started


def _explained(stage: str, error: Exception, log: Path) -> StageError:
    """What nobody foresaw, in one line."""
    if told := explain_unwritable(error, log.parent):
        return StageError(f"{stage} failed: {told}")
    words = " ".join(str(error).split())
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's own
        return StageError(
            f"{stage} failed: out of memory ({words[:160] or 'of the host'}); a smaller batch_size "
            "or a base with quantization: nf4 needs less"
        )
    return StageError(f"{stage} failed: {type(error).__name__}: {words} (traceback in {log})")
