"""Signing in and out."""

from __future__ import annotations

import secrets
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request as HttpRequest
from starlette.responses import RedirectResponse, Response

from expunge.service.web.accounts import Accounts
from expunge.service.web.forms import BadForm
from expunge.service.web.sessions import AWAY, BEFORE, COOKIE, LONGEST, Sessions, same
from expunge.service.web.single_sign_on import LONGEST as AWAY_LONGEST
from expunge.service.web.single_sign_on import RETURN, NotSignedIn, SingleSignOn
from expunge.service.web.visit import RefusedVisit, Visit, log, page, sent


class SigningIn:
    """The pages of accounts and sessions.

    Args:
        accounts: of the ledger.
        sessions: of this process.
        tls: cookies go over TLS alone.
        elsewhere: another server that signs people in; None: passwords alone do.
    """

    def __init__(self, accounts: Accounts, sessions: Sessions, tls: bool, elsewhere: SingleSignOn | None = None) -> None:
        self.accounts, self.sessions, self.elsewhere = accounts, sessions, elsewhere
        self.limit = CapacityLimiter(2)  # argon2 takes 64 MB for each password that it looks at
        self.cookie: dict[str, Any] = {"path": "/", "httponly": True, "samesite": "strict", "secure": tls}
        self.away: dict[str, Any] = {**self.cookie, "path": RETURN, "samesite": "lax"}  # the other server sends people back with it

    async def form(self, request: HttpRequest) -> Response:
        """The form that signs in."""
        return self._form("")

    async def sign_in(self, request: HttpRequest) -> Response:
        """Begin a session, where name and password are right."""
        try:
            form = await sent(request)
        except (BadForm, RefusedVisit) as error:
            return self._form(str(error), error.status)
        name = form["name"]
        if not same(form["token"], self.sessions.before_sign_in(request.cookies.get(BEFORE, ""))):
            return self._form("the page was open for too long: sign in again", 403)
        if (wait := self.accounts.wait(name)) > 0:
            answer = self._form("too many wrong passwords for this name: wait a minute", 429)
            answer.headers["Retry-After"] = str(max(1, round(wait)))
            return answer
        password = form.fields.get("password", "")
        if not await to_thread.run_sync(self.accounts.verify, name, password, limiter=self.limit):
            log.warning("somebody could not sign in")
            return self._form("no account has this name and this password", 403)
        return self._entered(request, name, RedirectResponse("/requests", 303))

    async def leave(self, request: HttpRequest) -> Response:
        """Go to the other server, which asks for the password."""
        assert self.elsewhere is not None
        try:
            address, browser = await self.elsewhere.leave()
        except NotSignedIn as error:
            return self._form(str(error), 502)
        gone = RedirectResponse(address, 303)
        gone.set_cookie(AWAY, browser, max_age=int(AWAY_LONGEST), **self.away)
        return gone

    async def come_back(self, request: HttpRequest) -> Response:
        """Come back from the other server. The page that follows leads on by itself: a cookie of this site alone goes with no redirect."""
        assert self.elsewhere is not None
        state, code = (request.query_params.get(part, "") for part in ("state", "code"))
        try:
            name = await self.elsewhere.come_back(state, code, request.cookies.get(AWAY, ""))
        except NotSignedIn as error:
            log.warning("somebody could not sign in by another server: %s", type(error.__cause__).__name__ if error.__cause__ else error)
            return self._form(str(error), 403)
        if self.accounts.role(name) is None:
            log.warning("somebody without an account signed in by another server")
            return self._form("the other server knows you, but you have no account here: ask who runs these pages for one", 403)
        answer = self._entered(request, name, page("signed_in.html.j2"))
        answer.delete_cookie(AWAY, **self.away)
        return answer

    def _entered(self, request: HttpRequest, name: str, answer: Response) -> Response:
        """Begin a session. Returns the answer with its cookie."""
        log.info("%s signed in", name)
        self.sessions.end(request.cookies.get(COOKIE))
        answer.set_cookie(COOKIE, self.sessions.begin(name), max_age=int(LONGEST), **self.cookie)
        answer.delete_cookie(BEFORE, **self.cookie)
        return answer

    def sign_out(self, visit: Visit) -> Response:
        """End the session."""
        self.sessions.end(visit.request.cookies.get(COOKIE))
        left = RedirectResponse("/sign-in", 303)
        left.delete_cookie(COOKIE, **self.cookie)
        return left

    def _form(self, sentence: str, status: int = 200) -> Response:
        nonce = secrets.token_urlsafe(16)
        answer = page(
            "sign_in.html.j2", status, sentence=sentence, token=self.sessions.before_sign_in(nonce), elsewhere=self.elsewhere is not None
        )
        answer.set_cookie(BEFORE, nonce, **self.cookie)
        return answer
