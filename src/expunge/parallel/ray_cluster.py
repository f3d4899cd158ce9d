"""Run independent jobs on a Ray cluster. The jobs store their results on a file system that all machines share.

A job whose worker dies starts again on another worker and continues from the files that it left. Ray runs any code that it is sent, so use
only clusters that you trust.
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
from expunge.engine.shared import share_from_now_on
from expunge.io.models import cache_home

T = TypeVar("T")
CPUS = 1  # cores of a job, and its number of threads
RETRIES = 5  # new attempts for a job whose worker died
EVERY = 0.5  # seconds between two checks whether to stop
GRACE = 10.0  # seconds that jobs have to stop
TEMPORARY = Path(os.environ.get("RAY_TMPDIR") or ("/tmp" if os.name == "posix" else tempfile.gettempdir()))  # where Ray itself looks


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
    """Call a function on each job on a cluster: `{n: do(*job) for n, job in jobs.items()}`.

    Each job has a core to itself and, if this process computes on a GPU, a GPU. When an error is raised, the other jobs are interrupted.

    Args:
        do: the function. It may be killed at any time, and called again with a job that it has begun or finished.
        jobs: arguments of each call, by the name of the job.
        folder: where `do` stores its results. Every worker must see this folder, and the paths in `reads`.
        on: the cluster, see `connected`.
        progress: is called with the number of finished jobs and the number of all jobs.
        interrupted: is called twice a second; true stops the work.

    Returns:
        The results by the name of the job.

    Raises:
        UserError: when a worker does not see a path, when every worker that tries a job dies, or when the cluster lacks a needed GPU.
        KeyboardInterrupt: when `interrupted` returns true.
        Exception: any error that a job raises, as soon as the job raises it.
    """
    environment = {"folder": os.getcwd(), "cache": str(cache_home().absolute()), "path": sys.path}
    with connected(on) as ray:
        gpus = int(torch.cuda.is_available())
        if gpus and not ray.cluster_resources().get("GPU"):
            raise UserError(
                "this process computes on a GPU and the cluster has none: start Ray with --num-gpus, or set CUDA_VISIBLE_DEVICES="
            )
        pack = ray.cloudpickle.dumps  # Ray's own serialization would give read-only arrays
        task = ray.remote(num_cpus=CPUS, num_gpus=gpus, max_retries=RETRIES)(_job)
        results: dict[str, T] = {}
        pending = []
        try:
            with _marked(folder) as mark:
                function, required = ray.put(pack(do)), {mark: folder, **{p: p for p in reads}}
                names = {task.options(name=n).remote(function, pack(job), required, environment): n for n, job in jobs.items()}
                pending = list(names)
                while pending:
                    progress(len(results), len(jobs))
                    if interrupted():
                        raise KeyboardInterrupt
                    for ref in ray.wait(pending, timeout=EVERY)[0]:
                        pending.remove(ref)
                        results[names[ref]] = _result(ray, ref, names[ref])
        finally:
            if pending:  # the jobs stop because the mark is gone; canceling a job that is about to end makes Ray crash
                ray.wait(pending, num_returns=len(pending), timeout=GRACE)
        progress(len(results), len(jobs))
    return {n: results[n] for n in jobs}


@contextmanager
def connected(on: str = "auto") -> Iterator[Any]:
    """Connect to a cluster inside the block and yield the module `ray`. An existing connection is used and left open.

    Args:
        on: `HOST:PORT`; or `local`, one worker for each core of this machine, not reachable from other machines; or `local:4`, four such
            workers; or `auto`, the cluster that RAY_ADDRESS names or that `ray start` started on this machine, else `local`.

    Raises:
        UserError: when Ray is not installed, or the cluster does not answer or refuses the connection.
    """
    ray = check(on)
    address = _address(on)
    kind, _, workers = address.partition(":")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    with ExitStack() as stack:
        if not ray.is_initialized():
            os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # if several jobs fail, `spread` reports one of them
            if kind == "local":
                temp_dir = stack.enter_context(_alone())
                stack.callback(ray.shutdown)
                ray.init("local", num_cpus=int(workers) if workers else None, include_dashboard=False, _temp_dir=temp_dir, **quiet)
            else:
                stack.callback(ray.shutdown)
                _join(ray, None if on == "auto" else address, quiet)
        yield ray


def check(on: str) -> Any:
    """Import the module `ray`, and check that the named cluster answers.

    Raises:
        UserError: when Ray is not installed, or no cluster answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError("work on a cluster needs Ray: pip install 'expunge[ray]'") from None
    address = _address(on)
    if not ray.is_initialized() and not re.fullmatch(r"local(:[1-9]\d*)?", address):
        host, _, port = address.removeprefix("ray://").rpartition(":")
        try:  # Ray itself would retry for many minutes
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except (OSError, ValueError):
            raise UserError(f"no Ray cluster answers at {address}: start one with `ray start --head`, or use --ray local") from None
    return ray


def _address(on: str) -> str:
    """The address that `on` stands for: `HOST:PORT`, or `local`."""
    current = TEMPORARY / "ray" / "ray_current_cluster"  # `ray start` writes its address here
    if on != "auto":
        return on
    return os.environ.get("RAY_ADDRESS") or (current.read_text(encoding="utf-8").strip() if current.exists() else "local")


def _join(ray: Any, address: str | None, options: Mapping[str, Any]) -> None:
    try:
        ray.init(address, **options)
    except Exception as error:  # Ray raises many kinds, for a wrong version or a wrong token for instance
        raise UserError(f"the Ray cluster does not accept this process: {str(error).strip().partition(chr(10))[0]}") from None


@contextmanager
def _alone() -> Iterator[str]:
    """Restrict Ray to this machine, as it restricts itself on some systems, and yield a private folder for its sockets and logs."""
    from ray._private import ray_constants

    previous = ray_constants.ENABLE_RAY_CLUSTER
    with tempfile.TemporaryDirectory(prefix="ray-", dir=TEMPORARY, ignore_cleanup_errors=True) as private:
        ray_constants.ENABLE_RAY_CLUSTER = False
        try:
            yield f"{private}/ray"  # Ray opens its folder to all users of the machine; the folder around it stays closed
        finally:
            ray_constants.ENABLE_RAY_CLUSTER = previous


@contextmanager
def _marked(folder: Path) -> Iterator[Path]:
    """Create a marker file in a folder for the duration of the block.

    It distinguishes the folder from one of the same name on another machine, and its removal tells jobs that nobody waits for them.
    """
    mark = folder.absolute() / f"sweep.{uuid.uuid4().hex}.tmp"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def _job(do: bytes, job: bytes, required: Mapping[Path, Path], environment: Mapping[str, Any]) -> bytes:
    """Run a job in the process of a worker. required: paths that must exist, each with the name that messages give it."""
    from ray import cloudpickle

    if missing := [name for path, name in required.items() if not path.exists()]:
        raise UserError(
            f"the worker on {platform.node()} does not see {missing[0]}: run folder, models and cache (EXPUNGE_CACHE) must lie on a file "
            f"system that all machines of the cluster share"
        )
    os.environ["EXPUNGE_CACHE"] = environment["cache"]
    sys.path += [p for p in environment["path"] if p not in sys.path]  # for the user's own modules
    with suppress(OSError):  # relative paths in the rows start from this folder
        os.chdir(environment["folder"])
    torch.set_num_threads(CPUS)
    share_from_now_on()  # a worker gets one job after the other
    signal.signal(signal.SIGINT, signal.default_int_handler)  # any other handler could ignore the interrupt
    ended = threading.Event()
    threading.Thread(target=_watch, args=(next(iter(required)), ended), daemon=True).start()
    try:
        return bytes(cloudpickle.dumps(cloudpickle.loads(do)(*cloudpickle.loads(job))))
    finally:
        ended.set()


def _watch(mark: Path, ended: threading.Event) -> None:
    """Interrupt a job that nobody waits for anymore, repeatedly: an interrupt may be lost, for instance in a destructor."""
    while not ended.wait(EVERY):
        if not mark.exists():
            break
    while not ended.is_set():
        _thread.interrupt_main()
        ended.wait(GRACE)


def _result(ray: Any, ref: Any, name: str) -> Any:
    """The result of a job, or its error."""
    try:
        return ray.cloudpickle.loads(ray.get(ref))
    except ray.exceptions.RayTaskError as error:  # its text is the worker's traceback, which helps if the job has a bug
        cause = error.cause or error
        raise cause from (None if isinstance(cause, UserError) else error)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.NodeDiedError, ray.exceptions.OutOfMemoryError) as error:
        attempts, reason = RETRIES + 1, type(error).__name__
        raise UserError(
            f"every worker that tried '{name}' died, {attempts} in all ({reason}): check that there is enough memory for each job"
        ) from None
