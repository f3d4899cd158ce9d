"""Work over a Ray cluster: jobs that know nothing of each other, and leave what they make on a file system that all machines share.

A job whose worker dies is begun again elsewhere, and goes on from what it left. Ray runs whatever it is sent: use clusters that you trust.
"""

from __future__ import annotations

import _thread
import os
import platform
import re
import signal
import socket
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from expunge.core.errors import UserError
from expunge.io.models import cache_home

T = TypeVar("T")
CPUS = 1  # cores of a job, which computes with as many threads
RETRIES = 5  # of a job whose worker died
EVERY = 0.5  # seconds between two questions whether to stop
GRACE = 10.0  # seconds that jobs have for it
TEMPORARY = Path(os.environ.get("RAY_TMPDIR", "/tmp"))


def spread(
    do: Callable[..., T],
    jobs: Mapping[str, tuple[Any, ...]],
    folder: Path,
    on: str = "auto",
    *,
    reads: Sequence[Path] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
    interrupted: Callable[[], bool] = lambda: False,
) -> dict[str, T]:
    """What a function makes of each job, by the job's name: `{n: do(*job) for n, job in jobs.items()}`, on a cluster.

    do: stands being killed at any time, and being called again with a job that it has begun or done. folder: where it leaves what it makes;
    workers must see it, and what `reads` names. on: see `connected`. progress: how many jobs are done, of how many. interrupted: asked
    twice a second. Each job has a core to itself and, where this process computes on a GPU, one of these.

    Errors: what a job raises, as soon as it does; UserError where a worker does not see a path, or where it dies again and again;
    KeyboardInterrupt where that was asked for. Other jobs are interrupted then.
    """
    there = {"folder": os.getcwd(), "cache": str(cache_home().absolute()), "path": sys.path}
    with connected(on) as ray:
        gpus = int(torch.cuda.is_available())
        if gpus and not ray.cluster_resources().get("GPU"):
            raise UserError(
                "this process computes on a GPU and the cluster has none: start Ray with --num-gpus, or set CUDA_VISIBLE_DEVICES="
            )
        pack = ray.cloudpickle.dumps  # Ray's own way would give arrays that cannot be written to
        task = ray.remote(num_cpus=CPUS, num_gpus=gpus, max_retries=RETRIES)(_job)
        done: dict[str, T] = {}
        left = []
        try:
            with _marked(folder) as mark:
                told, sees = ray.put(pack(do)), {mark: folder, **{p: p for p in reads}}
                sent = {task.options(name=n).remote(told, pack(job), sees, there): n for n, job in jobs.items()}
                left = list(sent)
                while left:
                    progress(len(done), len(jobs))
                    if interrupted():
                        raise KeyboardInterrupt
                    for ref in ray.wait(left, timeout=EVERY)[0]:
                        left.remove(ref)
                        done[sent[ref]] = _made(ray, ref, sent[ref])
        finally:
            if left:  # they see that the mark is gone; to cancel what is just about to end makes Ray crash
                ray.wait(left, num_returns=len(left), timeout=GRACE)
        progress(len(done), len(jobs))
    return {n: done[n] for n in jobs}


@contextmanager
def connected(on: str = "auto") -> Iterator[Any]:
    """The module `ray`, connected to a cluster. A connection that the process has already is used, and left as it is.

    on: `HOST:PORT`; `local`, workers of this machine alone, which nobody reaches from another, as many as cores, or `local:4`; `auto`, the
    cluster that RAY_ADDRESS names, or that `ray start` began on this machine, else `local`.
    Errors: UserError.
    """
    ray = check(on)
    address = _address(on)
    kind, _, workers = address.partition(":")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    with ExitStack() as stack:
        if not ray.is_initialized():
            os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # of several jobs that fail one is told, and not by Ray
            if kind == "local":
                place = stack.enter_context(_alone())
                stack.callback(ray.shutdown)
                ray.init("local", num_cpus=int(workers) if workers else None, include_dashboard=False, _temp_dir=place, **quiet)
            else:
                stack.callback(ray.shutdown)
                _join(ray, None if on == "auto" else address, quiet)
        yield ray


def check(on: str) -> Any:
    """The module `ray`, if it is there, and a cluster where it is said to be. Errors: UserError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError("work on a cluster needs Ray: pip install 'expunge[ray]'") from None
    address = _address(on)
    if not ray.is_initialized() and not re.fullmatch(r"local(:[1-9]\d*)?", address):
        host, _, modality = address.removeprefix("ray://").rpartition(":")
        try:  # Ray itself would go on trying for many minutes
            socket.create_connection((host.strip("[]"), int(modality)), timeout=5).close()
        except (OSError, ValueError):
            raise UserError(f"no Ray cluster answers at {address}: begin one with `ray start --head`, or say --ray local") from None
    return ray


def _address(on: str) -> str:
    """`HOST:PORT`, or `local`."""
    current = TEMPORARY / "ray" / "ray_current_cluster"  # where `ray start` leaves it
    if on != "auto":
        return on
    return os.environ.get("RAY_ADDRESS") or (current.read_text().strip() if current.exists() else "local")


def _join(ray: Any, address: str | None, options: Mapping[str, Any]) -> None:
    try:
        ray.init(address, **options)
    except Exception as error:  # of many kinds: another version, a token that does not fit
        raise UserError(f"the Ray cluster does not take this process: {str(error).strip().partition(chr(10))[0]}") from None


@contextmanager
def _alone() -> Iterator[str]:
    """Ray that listens to this machine alone, as it does by itself on some systems; and where its sockets and logs go until it ends."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    with tempfile.TemporaryDirectory(prefix="ray-", dir=TEMPORARY, ignore_cleanup_errors=True) as private:
        ray_constants.ENABLE_RAY_CLUSTER = False
        try:
            yield f"{private}/ray"  # Ray opens its folder to every user of the machine, and the one around it stays closed
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _marked(folder: Path) -> Iterator[Path]:
    """A new file in a folder, which tells it from one of the same name on another machine, and is there as long as somebody waits."""
    mark = folder.absolute() / f"sweep.{uuid.uuid4().hex}.tmp"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def _job(do: bytes, job: bytes, sees: Mapping[Path, Path], there: Mapping[str, Any]) -> bytes:
    """A job, in the process of a worker."""
    from ray import cloudpickle

    if missing := [said for path, said in sees.items() if not path.exists()]:
        raise UserError(
            f"the worker on {platform.node()} does not see {missing[0]}: run folder, models and cache (EXPUNGE_CACHE) must lie on a file "
            f"system that all machines of the cluster share"
        )
    os.environ["EXPUNGE_CACHE"] = there["cache"]
    sys.path += [p for p in there["path"] if p not in sys.path]  # for modules of the user's own
    with suppress(OSError):  # relative paths in the rows hold from there
        os.chdir(there["folder"])
    torch.set_num_threads(CPUS)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever there was: with another, nothing would interrupt a job
    ended = threading.Event()
    threading.Thread(target=_watch, args=(next(iter(sees)), ended), daemon=True).start()
    try:
        return bytes(cloudpickle.dumps(cloudpickle.loads(do)(*cloudpickle.loads(job))))
    finally:
        ended.set()


def _watch(mark: Path, ended: threading.Event) -> None:
    """Interrupt a job that nobody waits for any more, and again if it goes on: an interrupt may be lost, in a destructor for one."""
    while not ended.wait(EVERY):
        if not mark.exists():
            break
    while not ended.is_set():
        _thread.interrupt_main()
        ended.wait(GRACE)


def _made(ray: Any, ref: Any, name: str) -> Any:
    try:
        return ray.cloudpickle.loads(ray.get(ref))
    except ray.exceptions.RayTaskError as error:  # its text is the traceback of the worker, of use where the job has a bug
        cause = error.cause or error
        raise cause from (None if isinstance(cause, UserError) else error)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
        many, why = RETRIES + 1, type(error).__name__
        raise UserError(f"every worker that tried '{name}' died, {many} in all ({why}): is there too little memory for each job?") from None
