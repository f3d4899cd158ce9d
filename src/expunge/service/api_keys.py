"""Keys of clients of the endpoint: kept as argon2 hashes, shown once, limited in their rate."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from expunge.core.errors import UserError
from expunge.functional.brief import brief
from expunge.service.vault import write_private

SIGN = "xk"
WINDOW = 60.0  # seconds over which a rate counts


@brief("file")
class ApiKeys:
    """The keys in a file: id, label, hash and requests a minute of each.

    Args:
        file: which only its owner reads; it need not exist before the first key.
        clock: seconds.

    Raises:
        UserError: for a file that is damaged.
    """

    def __init__(self, file: str | Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.file, self.clock = Path(file).expanduser(), clock
        self.hasher = PasswordHasher()
        self.session = secrets.token_bytes(32)
        self.checked: dict[str, bytes] = {}  # what argon2 has verified, as an HMAC under a secret of this process: argon2 takes long
        self.calls: dict[str, deque[float]] = {}
        try:
            self.entries: dict[str, dict[str, object]] = json.loads(self.file.read_text(encoding="utf-8")) if self.file.exists() else {}
            assert all({"hash", "label", "per_minute"} <= entry.keys() for entry in self.entries.values())
        except (ValueError, AttributeError, AssertionError):
            raise UserError(f"the keys in {self.file} are damaged: put a copy in its place, or make new ones in another file") from None

    def new(self, label: str, per_minute: int = 60) -> str:
        """Make a key, and return it: it is shown this once, and nobody can read it from the file."""
        if per_minute < 1:
            raise UserError("a key may ask at least once a minute")
        number, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        entry: dict[str, object] = {"label": label, "per_minute": per_minute, "hash": self.hasher.hash(secret)}
        self._write({**self.entries, number: entry})
        return f"{SIGN}-{number}-{secret}"

    def revoke(self, number: str) -> None:
        """Delete the key with an id. Raises: UserError where there is none."""
        if number not in self.entries:
            raise UserError(f"there is no key {number!r} in {self.file}")
        self._write({n: e for n, e in self.entries.items() if n != number})

    def owner(self, key: str) -> str | None:
        """The id of a valid key; None for any other text."""
        sign, _, rest = key.partition("-")
        number, _, secret = rest.partition("-")
        entry = self.entries.get(number)
        if sign != SIGN or not secret or entry is None:
            return None
        mark = hmac.new(self.session, key.encode(), hashlib.sha256).digest()
        if number in self.checked and hmac.compare_digest(self.checked[number], mark):
            return number
        try:
            self.hasher.verify(str(entry["hash"]), secret)
        except (VerificationError, InvalidHashError):
            return None
        self.checked[number] = mark
        return number

    def wait(self, number: str) -> float:
        """Count a request of a key. Returns the seconds that it must wait; 0: none."""
        now, calls = self.clock(), self.calls.setdefault(number, deque())
        while calls and calls[0] <= now - WINDOW:
            calls.popleft()
        if len(calls) >= int(str(self.entries[number]["per_minute"])):
            return calls[0] + WINDOW - now
        calls.append(now)
        return 0.0

    def _write(self, entries: dict[str, dict[str, object]]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        write_private(self.file, (json.dumps(entries, indent=1) + "\n").encode())
        self.entries = entries
        self.checked.clear()
