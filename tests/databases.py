"""A PostgreSQL of its own for the tests that a ledger passes in every database."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PLACES = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)]  # where Debian puts it


def missing() -> str:
    """Why PostgreSQL cannot be tried; '' where it can."""
    if not _binary("initdb") or not _binary("postgres"):
        return "PostgreSQL is not installed (Debian: apt-get install postgresql)"
    try:
        import psycopg  # noqa: F401
    except ImportError:
        return "psycopg is not installed: pip install 'psycopg[binary]'"
    return "" if os.getuid() or _account() else "PostgreSQL does not run as root, and there is no account 'postgres'"


def _binary(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([*PLACES, os.environ.get("PATH", "")]))


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return None


@contextmanager
def postgresql() -> Iterator[str]:
    """A server on a socket in a folder of its own; yields its URL with a place for the name of a schema."""
    account = None if os.getuid() else _account()
    user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}
    with tempfile.TemporaryDirectory(
        prefix="pg", ignore_cleanup_errors=True
    ) as folder:  # short: the path of a socket has at most 107 bytes
        if account:
            os.chown(folder, account.pw_uid, account.pw_gid)
        data = f"{folder}/data"
        initdb, postgres = str(_binary("initdb")), str(_binary("postgres"))
        subprocess.run(
            [initdb, "-D", data, "-U", "tester", "-A", "trust", "--no-sync"], check=True, capture_output=True, cwd=folder, **user
        )  # type: ignore[call-overload]
        quick = ["-c", "fsync=off", "-c", "listen_addresses="]
        with (Path(folder) / "log").open("wb") as log:
            server = subprocess.Popen([postgres, "-D", data, "-k", folder, *quick], stdout=log, stderr=log, cwd=folder, **user)  # type: ignore[call-overload]
        try:
            _wait(f"{folder}/.s.PGSQL.5432", server)
            yield f"postgresql://tester@/postgres?host={folder}&options=-csearch_path%3D{{}}"
        finally:
            server.send_signal(signal.SIGQUIT)  # at once: nothing of it is kept
            server.wait(20)


def _wait(path: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        with socket.socket(socket.AF_UNIX) as trial:
            try:
                trial.connect(path)
                time.sleep(0.3)
                return
            except OSError:
                assert server.poll() is None, "the server ended"
                time.sleep(0.05)
    raise AssertionError("PostgreSQL did not start in 10 seconds")
