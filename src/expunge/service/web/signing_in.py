"""Signing in and out."""

from __future__ import annotations

import secrets
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.requests import Request as HttpRequest
from starlette.responses import RedirectResponse, Response

from expunge.service.web.accounts import Accounts
from expunge.service.web.forms import BadForm
from expunge.service.web.sessions import BEFORE, COOKIE, LONGEST, Sessions, same
from expunge.service.web.visit import RefusedVisit, Visit, log, page, sent


class SigningIn:
    """The pages of accounts and sessions. tls: cookies go over TLS alone."""

    def __init__(self, accounts: Accounts, sessions: Sessions, tls: bool) -> None:
        self.accounts, self.sessions = accounts, sessions
        self.limit = CapacityLimiter(2)  # argon2 takes 64 MB for each password that it looks at
        self.cookie: dict[str, Any] = {"path": "/", "httponly": True, "samesite": "strict", "secure": tls}

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
        log.info("%s signed in", name)
        self.sessions.end(request.cookies.get(COOKIE))
        entered = RedirectResponse("/requests", 303)
        entered.set_cookie(COOKIE, self.sessions.begin(name), max_age=int(LONGEST), **self.cookie)
        entered.delete_cookie(BEFORE, **self.cookie)
        return entered

    def sign_out(self, visit: Visit) -> Response:
        """End the session."""
        self.sessions.end(visit.request.cookies.get(COOKIE))
        left = RedirectResponse("/sign-in", 303)
        left.delete_cookie(COOKIE, **self.cookie)
        return left

    def _form(self, sentence: str, status: int = 200) -> Response:
        nonce = secrets.token_urlsafe(16)
        answer = page("sign_in.html.j2", status, sentence=sentence, token=self.sessions.before_sign_in(nonce))
        answer.set_cookie(BEFORE, nonce, **self.cookie)
        return answer
