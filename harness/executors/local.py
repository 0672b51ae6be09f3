"""The executor ``local``: the stages of a plan one after another, in this process.

One base stays in memory and adapters are switched over it. With several processes (ranks.py) the
first does all this, and the others follow it through the stages that are shared.
"""

from __future__ import annotations

from contextlib import closing

from ...errors import MedbenchError
from ..attempt import Book, recorded
from ..folder.checksum import checksums
from ..folder.store import RunFolder
from ..pipeline import Pipeline, Stage
from ..planning.plan import Plan
from ..progress import silent
from ..ranks import Ranks


class Local:
    """Does what is due in the order of the graph.

    Args:
        ranks: The processes of this run, of which this is the first.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks

    @property
    def extent(self) -> str:
        return f", {self._ranks.size} processes" if self._ranks.size > 1 else ""

    def carry_out(self, plan: Plan, book: Book) -> None:
        self._ranks.last_words = book.manifest.give_up
        self._ranks.connect(plan.device)
        with closing(Pipeline(plan, book.run)) as pipeline:
            for stage in pipeline.stages():
                self._advance(stage, book)
            self._ranks.tell(None)

    def _advance(self, stage: Stage, book: Book) -> None:
        record = book.due(stage.node, stage.fingerprint)
        if record is None:
            return
        try:
            with recorded(stage.name, record, book.run / "run.log"):
                book.manifest.record(stage.name, record)
                if stage.node.shared:
                    self._ranks.tell(stage.name)
                record["detail"] = stage.work(book.watcher.begin(stage.name))
                record["files"] = checksums(book.run.path, stage.node.outputs)
        finally:
            book.manifest.record(stage.name, record)
        book.finished(stage.node, record)


def follow(plan: Plan, run: RunFolder, ranks: Ranks) -> None:
    """Take this process's part in the stages that the first one calls; nothing is written.

    Raises:
        MedbenchError: A stage failed here.
    """
    ranks.connect(plan.device)
    with closing(Pipeline(plan, run)) as pipeline:
        stages = {stage.name: stage for stage in pipeline.stages()}
        while (name := ranks.hear()) is not None:
            try:
                stages[name].work(silent)
            except MedbenchError as error:
                raise type(error)(f"{name}: {error}") from error
