"""What a suite says of its executor."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..config import Section

Name = Literal["local", "ray"]


class RaySection(Section):
    """How ``executor: ray`` places stages.

    Attributes:
        address: HOST:PORT of a cluster, or ``auto`` for the one that this machine is part of.
            RAY_ADDRESS when None; without that, workers on this machine.
        cpus: Cores of each worker. A worker that measures latency has all of its machine's.
        retries: How often stages are begun again whose worker was lost.
    """

    address: str | None = None
    cpus: Annotated[int, Field(ge=1)] = 1
    retries: Annotated[int, Field(ge=0)] = 2
