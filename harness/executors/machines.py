"""The machines of a Ray cluster: joined or started, and what they have."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
from typing import Any

import ray
from ray.exceptions import RayError

from ...errors import InputError, StageError
from ..graph import Unit
from .settings import RaySection

OBJECTS = 100 * 2**20
"""Bytes for Ray's shared objects on a cluster of our own: nothing large goes through them."""

PATIENCE = 10.0
"""Seconds in which a cluster must take a connection."""


def connect(settings: RaySection) -> None:
    """Join the cluster that *settings* or RAY_ADDRESS name, or start one on this machine.

    Raises:
        InputError: None answers, or none can be started.
    """
    address = settings.address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        # Ray listens on all addresses of the machine, and turns away who has not this token.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        os.environ.setdefault("RAY_worker_niceness", "0")  # as the executor local has it
        options |= {"include_dashboard": False, "object_store_memory": OBJECTS}
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        if address and address != "auto":
            _knock(address)  # Ray would try for minutes
        ray.init(address or "local", **options)
    except (RayError, OSError, RuntimeError, ValueError) as error:
        why = one_line(error)
        raise InputError(
            f"ray.address {address}: no Ray cluster answers there ({why}); expected the HOST:PORT "
            "of `ray start --head`, and this machine among its nodes"
            if address
            else f"executor ray: Ray cannot start on this machine ({why}); its logs are in "
            "ray/session_latest/logs where temporary files lie; or use --executor local"
        ) from error
    finally:
        if main:  # Ray would end the program at once
            signal.signal(signal.SIGTERM, before)


def _knock(address: str) -> None:
    host, _, port = address.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=PATIENCE).close()


def words() -> str:
    """How much there is."""
    has, count = ray.cluster_resources(), len(_alive())
    return (
        f"{count} {'machine' if count == 1 else 'machines'}, {has.get('CPU', 0):g} cores, "
        f"{has.get('GPU', 0):g} GPUs"
    )


def lacking(settings: RaySection, unit: Unit) -> str | None:
    """What no machine has that is there now, and *unit* needs; else Ray would wait for one."""
    has = [node["Resources"] for node in _alive()]
    if any(m.get("CPU", 0) >= settings.cpus and m.get("GPU", 0) >= unit.gpus for m in has):
        return None
    there = "; ".join(f"{m.get('CPU', 0):g} and {m.get('GPU', 0):g}" for m in has)
    return (
        f"{unit.name} needs {settings.cpus} cores (ray.cpus) and {unit.gpus} GPUs on one machine, "
        f"the cluster's have {there}"
    )


def timing(gpus: int) -> dict[str, Any]:
    """The machine on which all latencies are measured: this one where it will do.

    Raises:
        StageError: None is left.
    """
    here = ray.get_runtime_context().get_node_id()
    fit = [
        node
        for node in _alive()
        if node["Resources"].get("GPU", 0) >= gpus and "CPU" in node["Resources"]
    ]
    if not fit:
        raise StageError(f"no machine with {gpus} GPUs is left in the Ray cluster to measure on")
    return min(fit, key=lambda node: (node["NodeID"] != here, node["NodeManagerHostname"]))


def _alive() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


def one_line(error: Exception) -> str:
    """The first that *error* says, without Ray's explanations."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join((lines or [type(error).__name__])[0].split())[:300]
