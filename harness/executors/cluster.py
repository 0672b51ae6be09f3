"""The executor ``ray``: independent stages at once, each unit of the graph in a worker of its own.

Ray starts the workers where there are GPUs and cores for them, and says which were lost; what is
done, done before, begun again and put down is decided here, by the one process that holds the run
folder. Only plain values go to and fro (worker.py); weights and tables go through the run folder.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ...errors import InputError, MedbenchError, StageError
from .. import graph
from ..attempt import Book
from ..depends import Depends
from ..folder.manifest import Record, now
from ..graph import Node, Unit
from ..planning.plan import Plan
from ..progress import Tick
from ..quiet import quiet
from . import machines
from .machines import connect, one_line
from .settings import RaySection
from .worker import Worker, log_of, order, sign_of

POLL = 0.5
"""Seconds between two looks at what the workers are doing."""

LAST = 30.0
"""Seconds that workers have to be gone when a run ends before its time."""


@contextlib.contextmanager
def connected(plan: Plan) -> Iterator[Cluster]:
    """The cluster of *plan*'s suite, or one on this machine that ends with the block.

    Raises:
        InputError: No cluster answers, or none of its machines has what a stage needs.
    """
    settings = plan.suite.ray
    with quiet(Path(os.devnull)):
        connect(settings)
    try:
        for unit in graph.units(graph.nodes(plan)):
            if lacking := machines.lacking(settings, unit):
                raise InputError(f"executor ray: {lacking}")
        yield Cluster(settings)
    finally:
        with quiet(Path(os.devnull)):
            ray.shutdown()


@dataclass
class Running:
    """A unit whose stages are being done.

    Attributes:
        left: What is to be done yet, in order, with the records begun; the first is at work.
        worker: Ray's handle of the process.
        lost: How many workers it has lost.
        tick: Hears of the first of *left*, once it has begun.
    """

    unit: Unit
    left: list[tuple[Node, Record]]
    worker: Any
    lost: int = 0
    tick: Tick | None = None


class Cluster:
    """Does what is due as soon as what it needs is there."""

    def __init__(self, settings: RaySection) -> None:
        self._settings = settings

    @property
    def extent(self) -> str:
        return f", Ray: {machines.words()}"

    def carry_out(self, plan: Plan, book: Book) -> None:
        Walk(plan, book, self._settings).through()


class Walk:
    """One walk through the graph of *plan*.

    The first stage that fails is the last to be begun: what is at work then is let finish, and the
    error is raised. Latency is measured last, one model at a time on one and the same machine.
    """

    def __init__(self, plan: Plan, book: Book, settings: RaySection) -> None:
        self._book, self._settings = book, settings
        self._depends = Depends(plan, book.run)
        self._order = json.dumps(asdict(order(plan, book.run.path)))
        self._waiting = graph.units(graph.nodes(plan))
        self._done: set[str] = set()
        self._running: dict[Any, Running] = {}
        self._failure: MedbenchError | None = None

    def through(self) -> None:
        """Raises: MedbenchError: A stage failed, or lost too many workers."""
        try:
            self._start()
            while self._running:
                ended, _ = ray.wait(list(self._running), timeout=POLL)
                for one in self._running.values():
                    self._look(one)
                for reference in ended:
                    self._settle(reference)
                self._start()
        except BaseException as error:
            self._abandon()
            if isinstance(error, RayError):
                raise StageError(f"the Ray cluster failed: {one_line(error)}") from error
            raise
        self._book.run.sweep()  # what lost workers left half done
        if self._failure:
            raise self._failure

    def _start(self) -> None:
        """Begin the units for which all is there."""
        for unit in [] if self._failure else list(self._waiting):
            if not unit.needs <= self._done or (unit.alone and not self._quiet()):
                continue
            self._waiting.remove(unit)
            left = []
            for node in unit.nodes:
                if record := self._book.due(node, self._depends.fingerprint(node)):
                    left.append((node, record))
                else:
                    self._done.add(node.name)
            if left:
                self._advance(Running(unit, left, self._worker(unit)))

    def _quiet(self) -> bool:
        return not self._running and all(unit.alone for unit in self._waiting)

    def _worker(self, unit: Unit) -> Any:
        options: dict[str, Any] = {"num_cpus": self._settings.cpus, "num_gpus": unit.gpus}
        if unit.alone:
            machine = machines.timing(unit.gpus)
            options["num_cpus"] = machine["Resources"]["CPU"]
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(
                machine["NodeID"], soft=False
            )
        (self._book.run / sign_of(unit.name)).unlink(missing_ok=True)
        return ray.remote(Worker).options(**options).remote(self._order, unit.name)

    def _advance(self, one: Running) -> None:
        """Let the worker do the first of what is left."""
        node, record = one.left[0]
        one.tick = None
        self._running[one.worker.do.remote(node.name, record["fingerprint"])] = one

    def _look(self, one: Running) -> None:
        """Tell what is to be seen of the stage that *one* is at."""
        try:
            sign = json.loads((self._book.run / sign_of(one.unit.name)).read_text("utf-8"))
        except (OSError, ValueError):
            return
        node, _ = one.left[0]
        if sign["stage"] == node.name:
            self._begun(one)(sign["done"], sign["total"], sign["note"])

    def _begun(self, one: Running) -> Tick:
        if one.tick is None:
            node, record = one.left[0]
            record["started"] = now()
            self._book.manifest.record(node.name, record)
            one.tick = self._book.watcher.begin(node.name)
        return one.tick

    def _settle(self, reference: Any) -> None:
        one = self._running.pop(reference)
        try:
            said = json.loads(ray.get(reference))
        except (RayActorError, OutOfMemoryError) as error:
            self._lose(one, error)
            return
        self._begun(one)
        node, record = one.left.pop(0)
        record |= said["record"]
        self._book.manifest.record(node.name, record)
        if said["told"] is not None:
            self._fail(node, record, InputError if said["code"] == 2 else StageError, said["told"])
        else:
            self._done.add(node.name)
            self._book.finished(node, record)
        if one.left and not self._failure:
            self._advance(one)
        else:
            one.worker.close.remote()  # and without a handle it ends

    def _lose(self, one: Running, error: RayError) -> None:
        """Begin again what a lost worker was at."""
        node, record = one.left[0]
        one.lost += 1
        why = one_line(error)
        if getattr(error, "actor_init_failed", False):
            why = f"it could not start ({why})"
        elif one.lost <= self._settings.retries:
            after = "another stage has failed" if self._failure else ""
            why = machines.lacking(self._settings, one.unit) or after
        if why:
            self._begun(one)
            record |= {"status": "failed", "error": f"its worker was lost: {why}"}
            self._book.manifest.record(node.name, record)
            told = f"{node.name}: its worker was lost, {one.lost} times: {why}; see "
            log = self._book.run / log_of(one.unit.name)
            self._fail(node, record, StageError, f"{told}{log}")
        else:
            record["redone"] = f"its worker was lost ({one.lost} of {self._settings.retries})"
            one.worker = self._worker(one.unit)
            self._advance(one)

    def _fail(self, node: Node, record: Record, kind: type[MedbenchError], told: str) -> None:
        self._book.watcher.end(node.name, record["seconds"], {"failed": told})
        self._failure = self._failure or kind(told)

    def _abandon(self) -> None:
        """End all workers, and wait until they are gone."""
        for one in self._running.values():
            ray.kill(one.worker)
            (self._book.run / sign_of(one.unit.name)).unlink(missing_ok=True)
        with contextlib.suppress(RayError):
            references = list(self._running)
            ray.wait(references, num_returns=len(references), timeout=LAST)
