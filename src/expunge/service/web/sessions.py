"""Sessions: who is signed in, known by a cookie, and the token that every form carries."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from expunge.functional.brief import brief

IDLE, LONGEST = 30 * 60.0, 12 * 3600.0  # seconds after which a session ends: without a page, and in any case
MOST = 1000  # sessions; past that the one without a page for the longest time ends
COOKIE, BEFORE, AWAY = "expunge_session", "expunge_sign_in", "expunge_away"


@brief("name")
@dataclass
class Session:
    """One person who is signed in."""

    name: str
    began: float
    last: float
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))  # of forms


class Sessions:
    """The sessions of a process, by the hash of their cookie: who reads the memory of a log or a core has none.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.open: dict[str, Session] = {}
        self.secret = secrets.token_bytes(32)

    def begin(self, name: str) -> str:
        """Begin a session. Returns the value of its cookie, which is new each time."""
        cookie, now = secrets.token_urlsafe(32), self.clock()
        if len(self.open) >= MOST:
            del self.open[min(self.open, key=lambda digest: self.open[digest].last)]
        self.open[_digest(cookie)] = Session(name, now, now)
        return cookie

    def of(self, cookie: str | None) -> Session | None:
        """The session of a cookie; None where there is none, or it has ended."""
        digest, now = _digest(cookie or ""), self.clock()
        session = self.open.get(digest)
        if session is None:
            return None
        if now - session.last > IDLE or now - session.began > LONGEST:
            del self.open[digest]
            return None
        session.last = now
        return session

    def end(self, cookie: str | None) -> None:
        """End the session of a cookie."""
        self.open.pop(_digest(cookie or ""), None)

    def before_sign_in(self, nonce: str) -> str:
        """The token of the form that signs in, which belongs to a cookie without a session."""
        return hmac.new(self.secret, nonce.encode(), hashlib.sha256).hexdigest()


def same(given: str, right: str) -> bool:
    """Whether two texts are one, in a time that does not tell how far they agree."""
    return hmac.compare_digest(given.encode(), right.encode())


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
