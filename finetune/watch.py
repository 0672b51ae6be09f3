"""Experiment trackers: where their files lie, and that nothing leaves this machine unasked.

The trainer's own integrations do the work. They are steered by environment variables, which hold
for one tuning; one that is set already, e.g. ``WANDB_MODE=online``, is left as it is.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path

from ..errors import InputError

logger = logging.getLogger(__name__)


def check_installed(recipe: str, trackers: Iterable[str]) -> None:
    """Raise before anything runs where a tracker that *recipe* names is not there.

    Raises:
        InputError: The package is not installed.
    """
    for name in trackers:
        if find_spec(name) is None:
            raise InputError(
                f"recipe {recipe!r}, watch: {name} is not installed; "
                "pip install 'medbench[watch]', or leave it out of the recipe"
            )


@contextlib.contextmanager
def watching(trackers: Iterable[str], folder: Path, name: str) -> Iterator[None]:
    """Let *trackers* hear of the tuning *name* until the block ends, with their files in *folder*.

    TensorBoard writes to ``tensorboard/<name>``, W&B (offline) to ``wandb``, MLflow to ``mlflow``,
    trackio to ``trackio``. trackio takes its folder when it is first imported, so it is one a
    process.
    """
    trackers, before = list(trackers), dict(os.environ)
    settings = {
        key: value
        for tracker in trackers
        for key, value in _settings(tracker, folder.absolute(), name).items()
        if key not in before
    }
    if trackers:
        folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(settings)
    try:
        yield
    finally:
        try:
            _finish(trackers)
        except Exception as error:
            # What was tuned is there; a tracker's server that is gone takes nothing from it.
            logger.warning("a tracker did not end its run: %s", error)
        for key in {*settings, *_LEFT}.difference(before):
            os.environ.pop(key, None)


def _settings(tracker: str, folder: Path, name: str) -> dict[str, str]:
    if tracker == "tensorboard":
        return {"TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard" / name)}
    if tracker == "trackio":
        return {"TRACKIO_DIR": str(folder / "trackio")}
    if tracker == "mlflow":
        return _mlflow(folder)
    return {
        "WANDB_MODE": "offline",
        "WANDB_PROJECT": "medbench",
        "WANDB_RUN_GROUP": name,  # with the run that reports/tracker.py adds
        "WANDB_DIR": str(folder),
        "WANDB_CACHE_DIR": str(folder / "wandb" / "cache"),
        "WANDB_CONFIG_DIR": str(folder / "wandb" / "config"),
        "WANDB_DATA_DIR": str(folder / "wandb" / "data"),
        "WANDB_SILENT": "true",
        "WANDB_CONSOLE": "off",
        # It would keep the command line's program and the state of the repository it lies in.
        "WANDB_DISABLE_CODE": "true",
        "WANDB_DISABLE_GIT": "true",
        "WANDB_X_DISABLE_META": "true",  # the command line's arguments, the host, the user
    }


_LEFT = ("MLFLOW_EXPERIMENT_ID", "MLFLOW_RUN_ID")
"""Variables that MLflow sets itself; the next tuning may go elsewhere."""


def _mlflow(folder: Path) -> dict[str, str]:
    """Files, without the telemetry that MLflow sends by default; nobody's name, nor the program's.

    Its makers no longer extend the store in plain files, which therefore has to be allowed.
    It needs no database, and ``mlflow ui`` reads it.
    """
    unsaid = {"mlflow.user": "", "mlflow.source.name": "medbench", "mlflow.source.git.commit": ""}
    settings = {
        "MLFLOW_EXPERIMENT_NAME": "medbench",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_RUN_CONTEXT": json.dumps(unsaid),
    }
    if "MLFLOW_TRACKING_URI" in os.environ:
        return settings
    local = {
        "MLFLOW_TRACKING_URI": (folder / "mlflow").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
    }
    return settings | local


def _finish(trackers: Iterable[str]) -> None:
    """End the runs that are open: the next tuning of this process is a run of its own."""
    wandb, trackio, mlflow = map(sys.modules.get, ("wandb", "trackio", "mlflow"))
    if wandb is not None and getattr(wandb, "run", None) is not None:
        wandb.finish()
    if trackio is not None and trackio.context_vars.current_run.get() is not None:
        trackio.finish()
    if mlflow is not None and "mlflow" in trackers:
        mlflow.flush_async_logging()
        if mlflow.active_run() is not None:
            mlflow.end_run()
