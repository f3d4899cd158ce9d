"""One visit of a page: who comes, with which right, and what may go wrong on the way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anyio import to_thread
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse, RedirectResponse, Response

from expunge.core.errors import UserError
from expunge.functional.brief import brief
from expunge.service.web.accounts import RIGHTS, Accounts
from expunge.service.web.forms import BadForm, Form, read
from expunge.service.web.sessions import COOKIE, Sessions, same

log = logging.getLogger("expunge.web")
FOLDER = Path(__file__).parent


@brief("name", "role")
@dataclass(frozen=True)
class Visit:
    """A visit of somebody who is signed in; `form` has what was sent."""

    request: HttpRequest
    name: str
    role: str
    token: str
    form: Form

    def may(self, right: str) -> bool:
        """Whether the role has a right."""
        return right in RIGHTS[self.role]

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page with what every page has."""
        return page(template, status, visit=self, **values)


class RefusedVisit(Exception):
    """A visit that is refused, with a sentence. status: of HTTP."""

    def __init__(self, sentence: str, status: int = 403) -> None:
        super().__init__(sentence)
        self.status = status


Handler = Callable[[Visit], Response]


class Door:
    """What stands before every page: a session, the right, and for forms the token."""

    def __init__(self, accounts: Accounts, sessions: Sessions) -> None:
        self.accounts, self.sessions = accounts, sessions

    def to(self, handler: Handler, right: str = "") -> Callable[[HttpRequest], Any]:
        """The endpoint of a handler, which runs in a thread. right: without it the page is refused."""

        async def endpoint(request: HttpRequest) -> Response:
            who, session = "-", self.sessions.of(request.cookies.get(COOKIE))
            role = self.accounts.role(session.name) if session else None
            if session is None or role is None:
                if request.method == "POST":
                    return _logged(request, who, page("message.html.j2", 403, sentence="sign in first: this session has ended"))
                return RedirectResponse("/sign-in", 303)
            visit = Visit(request, session.name, role, session.token, Form({}, {}))
            try:
                if right and not visit.may(right):
                    raise RefusedVisit(f"the role {role} may not {right}")
                if request.method == "POST":
                    form = await sent(request)
                    if not same(form["token"], session.token):
                        raise RefusedVisit("this form is not of your session: open the page again and send it from there")
                    visit = Visit(request, session.name, role, session.token, form)
                answer = await to_thread.run_sync(handler, visit)
            except (RefusedVisit, BadForm) as error:
                answer = visit.page("message.html.j2", error.status, sentence=str(error))
            except UserError as error:
                answer = visit.page("message.html.j2", 400, sentence=str(error))
            except Exception as error:  # its message may hold rows, so its kind alone is logged
                log.error("a page failed: %s", type(error).__name__)
                answer = visit.page("message.html.j2", 500, sentence="this page failed; the log has the kind of the error")
            return _logged(request, session.name, answer)

        return endpoint


async def sent(request: HttpRequest) -> Form:
    """The form of a request from one of our own pages. Raises: RefusedVisit for one from elsewhere; BadForm."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site", "same-origin")
    if (origin is not None and urlsplit(origin).netloc != request.headers.get("host")) or site not in ("same-origin", "none"):
        raise RefusedVisit("this form comes from another site")
    return await read(request)


def page(template: str, status: int = 200, visit: Visit | None = None, **values: Any) -> Response:
    """A page; every value is escaped."""
    return HTMLResponse(_environment().get_template(template).render(visit=visit, **values), status)


def _logged(request: HttpRequest, who: str, answer: Response) -> Response:
    log.info("%s %s by %s status=%d", request.method, request.url.path, who, answer.status_code)
    return answer


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
