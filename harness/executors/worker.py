"""A process that does the stages of one unit for the executor ``ray``, on any machine.

It is told what to do in plain values, opens the run folder by its path, writes what its stages
leave there as the executor ``local`` does, and says how each ended. It changes neither the manifest
nor any other stage's files. Meanwhile it tells in ``workers/UNIT.json`` how far it is, and what
libraries print goes to ``workers/UNIT.log``.

Nothing heavy is imported before the environment is set.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import MedbenchError, StageError

if TYPE_CHECKING:
    from ..graph import Node
    from ..pipeline import Pipeline
    from ..planning.plan import Plan

FOLDER = "workers"
CARRIED = ("MEDBENCH_DATA_DIR", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")
"""Variables of the run's own process that its workers have as well; none holds a secret."""

EVERY = 0.5
"""Seconds between two signs of progress."""


@dataclass(frozen=True)
class Order:
    """What is to be run, and where, in values that JSON has.

    Attributes:
        suite: The keys of the resolved suite that were given.
        models, tasks: What was chosen of it, comma-separated.
        device: ``cpu`` or ``cuda``.
        run: The run folder, absolute.
        folder: The folder that relative paths of the suite start from.
        packages: Versions that results depend on.
        environment: Values of :data:`CARRIED`.
    """

    suite: dict[str, Any]
    models: str
    tasks: str
    device: str
    run: str
    folder: str
    packages: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)


def order(plan: Plan, run: Path) -> Order:
    """What a worker needs to know of *plan* to make the same one, for the run folder *run*."""
    from ..environment import versions

    return Order(
        suite=plan.suite.model_dump(mode="json", exclude_unset=True),
        models=",".join(plan.models),
        tasks=",".join(task.name for task in plan.tasks),
        device=plan.device,
        run=str(run.resolve()),
        folder=str(Path.cwd()),
        packages=versions(),
        environment={name: os.environ[name] for name in CARRIED if name in os.environ},
    )


def plan_of(what: Order) -> Plan:
    """The plan that *what* was made from.

    Raises:
        InputError: A file of it is not there, or is not what it was.
    """
    from ..planning.plan import make_plan
    from ..suite import Suite

    return make_plan(
        Suite.model_validate(what.suite),
        models=what.models,
        tasks=what.tasks,
        device=what.device,
        command="",
    )


def log_of(unit: str) -> str:
    """Where what is printed in *unit* goes, relative to the run folder."""
    return f"{FOLDER}/{unit.replace('/', '-')}.log"


def sign_of(unit: str) -> str:
    """Where it stands how far *unit* is, relative to the run folder."""
    return f"{FOLDER}/{unit.replace('/', '-')}.json"


class Worker:
    """Does stages one after another, and keeps the models that they share in memory.

    Args:
        what: An :class:`Order` as JSON.
        unit: What its files are named by.
    """

    def __init__(self, what: str, unit: str) -> None:
        self._order = Order(**json.loads(what))
        os.environ.update(self._order.environment)
        self._run = Path(self._order.run)
        self._log, self._sign = self._run / log_of(unit), self._run / sign_of(unit)
        self._told = (-math.inf, "")
        self._nodes: dict[str, Node] = {}
        self._pipeline: Pipeline | None = None
        self._stack = contextlib.ExitStack()

    def do(self, stage: str, fingerprint: str) -> str:
        """Do the stage of that name; how it ended, as JSON.

        Returns:
            ``record``, what the manifest holds of it; ``told``, None or why it failed, for the
            user; ``code``, the exit code that this means.
        """
        from ..attempt import recorded
        from ..secrets import redact

        record: dict[str, Any] = {"detail": {}, "files": {}}
        told, code = None, 0
        try:
            with recorded(stage, record, self._log):
                self._attempt(stage, fingerprint, record)
        except MedbenchError as error:
            told, code = str(error), error.exit_code
        return redact(json.dumps({"record": record, "told": told, "code": code}))

    def close(self) -> None:
        """Leave a log without secrets, and no sign of life."""
        from ..secrets import redact_file

        self._sign.unlink(missing_ok=True)
        self._stack.close()
        redact_file(self._log)

    def _attempt(self, stage: str, fingerprint: str, record: dict[str, Any]) -> None:
        pipeline = self._pipeline or self._open()
        from ..environment import hardware
        from ..folder.checksum import checksums

        made = pipeline.stage(self._nodes[stage]) if stage in self._nodes else None
        if made is None or made.fingerprint != fingerprint:
            raise StageError(
                f"{stage}: {socket.gethostname()} would do something else than was planned; "
                "medbench, recipes, data and models must be the same files on all machines, by the "
                "same paths"
            )
        print(f"{stage} on {socket.gethostname()}", flush=True)  # noqa: T201  (into the log)
        self._tell(stage, 0, 0)
        record["detail"] = made.work(partial(self._tell, stage))
        record["files"] = checksums(self._run, made.node.outputs)
        record["hardware"] = hardware()

    def _tell(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Put down how far *stage* is; nobody is the worse off where that cannot be written."""
        from ..folder.store import atomic_path

        at, last = self._told
        if stage == last and time.monotonic() - at < EVERY and done < total:
            return
        self._told = time.monotonic() if done else -math.inf, stage
        sign = {"stage": stage, "done": done, "total": total, "note": note, "pid": os.getpid()}
        with contextlib.suppress(OSError), atomic_path(self._sign, sync=False) as draft:
            draft.write_text(json.dumps(sign), "utf-8")

    def _open(self) -> Pipeline:
        """Make ready what all stages share.

        Raises:
            StageError: The run folder is not seen from here, or this machine has other packages.
        """
        from ..environment import versions
        from ..folder.store import RunFolder
        from ..quiet import quiet

        here, what = socket.gethostname(), self._order
        for folder in (what.run, what.folder):
            if not Path(folder).is_dir():
                raise StageError(
                    f"{folder}: no such folder on {here}; run folder and working folder must lie "
                    "on a file system that all machines of the cluster share"
                )
        run = RunFolder(what.run)
        if not run.is_run():
            raise StageError(
                f"{what.run}: {here} sees a folder of that name, but not the run's manifest in it; "
                "it must lie on a file system that all machines of the cluster share"
            )
        os.chdir(what.folder)
        self._stack.enter_context(quiet(self._log))
        if (have := versions()) != what.packages:
            raise StageError(_differing(here, have, what.packages))
        from .. import graph
        from ..pipeline import Pipeline
        from ..ranks import Ranks

        Ranks().connect(what.device)
        try:
            plan = plan_of(what)
        except MedbenchError as error:
            raise type(error)(f"on {here}: {error}") from error
        self._nodes = {node.name: node for node in graph.nodes(plan)}
        self._pipeline = Pipeline(plan, run)
        return self._pipeline


def _differing(here: str, have: dict[str, str], planned: dict[str, str]) -> str:
    differing = [
        f"{name} {have.get(name, 'missing')} instead of {planned.get(name, 'none')}"
        for name in sorted({*have, *planned})
        if have.get(name) != planned.get(name)
    ]
    return (
        f"{here} has other packages than the machine that this run was started on: "
        f"{', '.join(differing)}; install the same ones everywhere (pip install -c constraints.txt)"
    )
