"""Carrying out requests on a Ray cluster: the ledger stays where it is, and a worker that shares its folder does the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.parallel.ray_cluster import spread
from expunge.service import removal
from expunge.service.ledger import Ledger
from expunge.service.removal import RunResult

JOB = "run"


def run(ledger: Ledger, requests: Sequence[int], on: str, *, database: str = "", **options: Any) -> RunResult:
    """Carry out requests as `removal.run` does, on a worker of a cluster.

    A worker that dies is replaced: the ledger notes its run as failed, and the next one begins anew.

    Args:
        ledger: whose folder every worker sees.
        requests: numbers; none: all that are open.
        on: the cluster, as `parallel.ray_cluster.connected` takes it.
        database: URL of the ledger's events; '': SQLite, which needs a file system with locks.
        options: the fields of `Removing`, by name.

    Raises:
        UserError: as `removal.run`; also where a worker does not see the folder.
    """
    jobs = {JOB: (str(ledger.folder), database, tuple(requests), options)}
    return spread(carried_out, jobs, ledger.folder, on)[JOB]


def carried_out(folder: str, database: str, requests: Sequence[int], options: Mapping[str, Any]) -> RunResult:
    """What a worker does."""
    ledger = Ledger.open(Path(folder), database)
    try:
        return removal.run(ledger, requests, **options)
    finally:
        ledger.engine.dispose()
