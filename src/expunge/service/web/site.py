"""The pages of a ledger as one application."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import FileResponse, RedirectResponse, Response
from starlette.routing import Route

from expunge.core.errors import UserError
from expunge.service.asked_data import AskedData
from expunge.service.ledger import Ledger
from expunge.service.serving import LOOPBACK, is_loopback
from expunge.service.web.accounts import CARRY_OUT, CHECK, ROWS, TAKE_IN, Accounts
from expunge.service.web.comparing import ComparePages
from expunge.service.web.evidence_pages import EvidencePages
from expunge.service.web.headers import SecurityHeaders
from expunge.service.web.jobs import Jobs
from expunge.service.web.requests_pages import RequestPages
from expunge.service.web.runs_pages import RunPages
from expunge.service.web.sessions import Sessions
from expunge.service.web.signing_in import SigningIn
from expunge.service.web.single_sign_on import RETURN, Provider, SingleSignOn
from expunge.service.web.visit import FOLDER, Door, page


def website(
    ledger: Ledger,
    *,
    data: Sequence[AskedData] = (),
    database: str = "",
    run_options: Sequence[str] = (),
    host: str = "127.0.0.1",
    hosts: Sequence[str] = (),
    behind_tls: bool = False,
    load_options: Mapping[str, Any] | None = None,
    sessions: Sessions | None = None,
    provider: Provider | None = None,
) -> Starlette:
    """The pages of a ledger.

    Args:
        ledger: that they show.
        data: files in which clerks may ask for the rows of a person.
        database: URL of the ledger's events, for runs that are started; '': SQLite.
        run_options: words of `expunge request run` that runs from pages get, such as --retain FILE.
        host: the address; another than this machine's own needs `behind_tls`.
        hosts: names by which browsers call this server, besides those of this machine.
        behind_tls: a proxy that speaks TLS stands before this server, so that passwords do not go in plain.
        load_options: of `load`, for models that are compared.
        sessions: for tests.
        provider: a server that signs people in (OpenID Connect), besides passwords; those it names need accounts, too.

    Raises:
        UserError: where nobody has an account, and for an address that others reach without TLS.
    """
    if not is_loopback(host) and not behind_tls:
        raise UserError(
            f"{host} can be reached from elsewhere, and passwords would go in plain: put a proxy with TLS before, and say --behind-tls"
        )
    accounts = Accounts(ledger)
    if not accounts.entries():
        raise UserError(f"nobody has an account: expunge account NAME --role ROLE --ledger {ledger.folder} makes one")
    if odd := next((d for d in data if d.column == "rows" or not d.column), None):
        raise UserError(f"name the column of {odd.name} that says whose a row is, such as customer_id")
    sessions = sessions or Sessions()
    door = Door(accounts, sessions)
    signing_in = SigningIn(accounts, sessions, behind_tls, SingleSignOn(provider) if provider else None)
    requests, runs = RequestPages(ledger, data, Jobs(ledger, database, run_options)), RunPages(ledger)
    compare, evidence = ComparePages(ledger, load_options or {}), EvidencePages(ledger)
    pages = [
        ("GET", "/requests", requests.all, ""),
        ("POST", "/requests", requests.add, TAKE_IN),
        ("GET", "/requests/{number:int}", requests.one, ""),
        ("GET", "/requests/{number:int}/rows", requests.rows, ROWS),
        ("POST", "/requests/{number:int}/run", requests.run, CARRY_OUT),
        ("POST", "/requests/{number:int}/{action}", requests.act, ""),  # each action has its own right
        ("GET", "/runs", runs.all, ""),
        ("GET", "/runs/{number:int}", runs.one, ""),
        ("GET", "/runs/{number:int}/reports/{name}", runs.report, ROWS),
        ("GET", "/compare", compare.form, ROWS),
        ("POST", "/compare", compare.ask, ROWS),
        ("GET", "/certificates", evidence.certificates, ""),
        ("GET", "/certificates/{digest}", evidence.certificate, ""),
        ("GET", "/verify", evidence.form, ""),
        ("POST", "/verify", evidence.verify, ""),
        ("POST", "/check", evidence.check, CHECK),
        ("POST", "/sign-out", signing_in.sign_out, ""),
    ]
    routes = [Route(path, door.to(handler, right), methods=[method]) for method, path, handler, right in pages]
    routes += [
        Route("/", _home, methods=["GET"]),
        Route("/style.css", _style, methods=["GET"]),
        Route("/sign-in", signing_in.form, methods=["GET"]),
        Route("/sign-in", signing_in.sign_in, methods=["POST"]),
    ]
    if provider is not None:
        routes += [Route("/sign-in/elsewhere", signing_in.leave, methods=["GET"]), Route(RETURN, signing_in.come_back, methods=["GET"])]
    allowed = [*LOOPBACK, *([host] if host not in LOOPBACK else []), *hosts]
    middleware = [Middleware(SecurityHeaders, tls=behind_tls), Middleware(TrustedHostMiddleware, allowed_hosts=allowed)]
    return Starlette(routes=routes, middleware=middleware, exception_handlers={HTTPException: _wrong})


async def _home(request: HttpRequest) -> Response:
    return RedirectResponse("/requests", 303)


async def _style(request: HttpRequest) -> Response:
    return FileResponse(FOLDER / "style.css", media_type="text/css")


async def _wrong(request: HttpRequest, error: Exception) -> Response:
    """No page at this address, or no such method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    answer = page("message.html.j2", status, sentence="there is no page at this address" if status == 404 else "this is not done here")
    if isinstance(error, HTTPException) and error.headers:
        answer.headers.update(error.headers)
    return answer
