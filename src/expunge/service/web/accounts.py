"""Accounts of the people who use the pages: a name, a role, and a password that is kept as an argon2 hash.

Those whom another server signs in have none.
"""

from __future__ import annotations

import json
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean
from expunge.functional.brief import brief
from expunge.service.ledger import Ledger
from expunge.service.vault import write_private

FILE = "accounts.json"  # in the folder of the ledger
SHORTEST, LONGEST = 12, 1024  # characters of a password
TRIES, WINDOW = 5, 60.0  # wrong passwords for a name, in so many seconds
NAME = re.compile(r"[\w.@-]{1,64}")
TAKE_IN, ROWS, CARRY_OUT, CHECK = "take in requests", "see rows", "carry out requests", "check the ledger"
RIGHTS: Mapping[str, frozenset[str]] = {
    "clerk": frozenset({TAKE_IN}),
    "operator": frozenset({ROWS, CARRY_OUT}),
    "auditor": frozenset({ROWS, CHECK}),
}


@brief("file")
class Accounts:
    """The accounts of a ledger.

    Args:
        ledger: beside which they are kept, in a file that only its owner reads.
        clock: seconds.

    Raises:
        UserError: for a file that is damaged.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float] = time.monotonic) -> None:
        self.file, self.clock = ledger.folder / FILE, clock
        self.hasher = PasswordHasher()
        self.nobody = self.hasher.hash("the password of nobody")  # verified for names that do not exist, so that they take as long
        self.failures: dict[str, deque[float]] = {}
        self.entries()

    def entries(self) -> dict[str, dict[str, str]]:
        """Role and hash by name, as they are now: a role that was taken away is gone with the next page."""
        try:
            known: dict[str, dict[str, str]] = json.loads(_text(self.file))
            assert all(entry["role"] in RIGHTS and isinstance(entry["hash"], str) for entry in known.values())
        except (ValueError, AttributeError, TypeError, LookupError, AssertionError):
            raise UserError(f"the accounts in {self.file} are damaged: put a copy in its place, or delete it and make new ones") from None
        return known

    def add(self, name: str, role: str, password: str | None) -> None:
        """Make an account, or give it another role and password.

        Args:
            name: of the person; for one who signs in elsewhere, what the other server calls them.
            role: a key of `RIGHTS`.
            password: None: another server signs them in, and no password is ever right here.

        Raises:
            UserError: for an unknown role, a name with other signs than letters, digits and .@-_, and a password that is too short.
        """
        if role not in RIGHTS:
            raise UserError(f"there is no role {role!r}{did_you_mean(role, RIGHTS)}; there are {', '.join(RIGHTS)}")
        if not NAME.fullmatch(name):
            raise UserError("a name has up to 64 letters, digits and signs of .@-_")
        if password is not None and not SHORTEST <= len(password) <= LONGEST:
            raise UserError(f"a password has at least {SHORTEST} characters")
        self._write({**self.entries(), name: {"role": role, "hash": "" if password is None else self.hasher.hash(password)}})

    def delete(self, name: str) -> None:
        """Delete an account; its sessions end with their next page. Raises: UserError where there is none."""
        known = self.entries()
        if name not in known:
            raise UserError(f"there is no account {name!r}{did_you_mean(name, known)}")
        self._write({n: e for n, e in known.items() if n != name})

    def role(self, name: str) -> str | None:
        """The role of an account; None where there is none."""
        entry = self.entries().get(name)
        return entry["role"] if entry else None

    def wait(self, name: str) -> float:
        """Seconds until a password for this name is looked at again; 0: it is now."""
        failures = self.failures.get(name, deque())
        while failures and failures[0] <= self.clock() - WINDOW:
            failures.popleft()
        return failures[0] + WINDOW - self.clock() if len(failures) >= TRIES else 0.0

    def verify(self, name: str, password: str) -> bool:
        """Whether a password is the one of an account. It takes as long for names that do not exist."""
        entry = self.entries().get(name)
        try:
            self.hasher.verify((entry["hash"] if entry else "") or self.nobody, password[:LONGEST])
        except (VerificationError, InvalidHashError):
            if entry is not None:  # other names are refused in any case, and must not fill the memory
                self.failures.setdefault(name, deque(maxlen=TRIES)).append(self.clock())
            return False
        self.failures.pop(name, None)
        return entry is not None and bool(entry["hash"])

    def _write(self, entries: Mapping[str, Mapping[str, str]]) -> None:
        write_private(self.file, (json.dumps(entries, indent=1) + "\n").encode())


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else "{}"
