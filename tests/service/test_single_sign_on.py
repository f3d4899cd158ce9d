"""Signing in by another server: who comes back right gets in with the role of an account here, and nobody else."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("starlette")
pytest.importorskip("argon2")
pytest.importorskip("authlib")

from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

import sites
from cases import expunge
from expunge.core.errors import UserError
from expunge.service.web import single_sign_on
from expunge.service.web.accounts import Accounts
from expunge.service.web.sessions import AWAY, COOKIE
from expunge.service.web.single_sign_on import LONGEST, NotSignedIn, Provider, SingleSignOn
from sites import Browser, Case

KEY, OTHER = RSAKey.generate_key(2048), RSAKey.generate_key(2048)


class Login:
    """A server that signs people in. `claims` and `key` are what a test makes wrong."""

    def __init__(self) -> None:
        self.claims: dict[str, Any] = {}
        self.header: dict[str, Any] = {"alg": "RS256"}
        self.key: Any = KEY
        self.asked: dict[str, str] = {}  # by code: the challenge
        self.nonces: dict[str, str] = {}
        login = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pages = {"/.well-known/openid-configuration": login.about(), "/keys": {"keys": [KEY.as_dict(private=False)]}}
                self.reply(pages.get(self.path))

            def do_POST(self) -> None:
                sent = {k: v[0] for k, v in parse_qs(self.rfile.read(int(self.headers["content-length"])).decode()).items()}
                right = base64.b64encode(b"pages:secret").decode()
                proof = base64.urlsafe_b64encode(hashlib.sha256(sent["code_verifier"].encode()).digest()).decode().rstrip("=")
                if self.headers["authorization"] != f"Basic {right}" or login.asked.pop(sent["code"], "") != proof:
                    self.reply({"error": "invalid_grant"}, 400)
                else:
                    self.reply({"access_token": "token", "token_type": "Bearer", "id_token": login.token(sent["code"])})

            def reply(self, content: Any, status: int = 200) -> None:
                self.send_response(status if content is not None else 404)
                self.send_header("content-type", "application/json")
                self.end_headers()
                self.wfile.write(json.dumps(content).encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def about(self) -> dict[str, str]:
        places = {"authorization_endpoint": "/authorize", "token_endpoint": "/token", "jwks_uri": "/keys"}
        return {"issuer": self.issuer} | {name: self.issuer + path for name, path in places.items()}

    def token(self, code: str) -> str:
        now = int(time.time())
        claims = {"iss": self.issuer, "sub": "1", "aud": "pages", "iat": now, "exp": now + 60, "nonce": self.nonces[code]}
        claims |= {"email": "clerk@example.org", "email_verified": True} | self.claims
        return str(jwt.encode(self.header, {k: v for k, v in claims.items() if v is not None}, self.key, algorithms=["RS256", "HS256"]))

    def signs_in(self, address: str) -> str:
        """What somebody does at the other server. Returns the path to which it sends them back."""
        sent = {k: v[0] for k, v in parse_qs(urlsplit(address).query).items()}
        code = f"code{len(self.nonces)}"
        self.asked[code], self.nonces[code] = sent["code_challenge"], sent["nonce"]
        assert (sent["client_id"], sent["code_challenge_method"], sent["response_type"]) == ("pages", "S256", "code")
        assert sent["redirect_uri"] == f"{sites.BASE}/sign-in/return"
        return f"/sign-in/return?state={sent['state']}&code={code}"


@pytest.fixture
def login() -> Iterator[Login]:
    server = Login()
    yield server
    server.server.shutdown()
    server.server.server_close()


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    own = sites.case(tmp_path)
    Accounts(own.ledger).add("clerk@example.org", "clerk", None)
    yield own
    own.ledger.engine.dispose()


def provider(login: Login, **others: str) -> Provider:
    return Provider(login.issuer, "pages", "secret", sites.BASE, **others)


def came_back(case: Case, login: Login) -> tuple[Browser, Any]:
    browser = Browser(case.site(provider=provider(login)))
    assert "/sign-in/elsewhere" in browser.get("/sign-in").text
    left = browser.get("/sign-in/elsewhere")
    assert left.status_code == 303, left.text
    return browser, browser.get(login.signs_in(left.headers["location"]))


def test_who_comes_back_has_the_role_of_the_account(case: Case, login: Login) -> None:
    browser, back = came_back(case, login)
    assert back.status_code == 200, back.text
    assert '<meta http-equiv="refresh" content="0; url=/requests">' in back.text
    assert re.search(rf"{COOKIE}=[^;]+;[^,]*SameSite=strict", back.headers["set-cookie"])
    shown = browser.get("/requests").text
    assert "clerk@example.org, clerk" in shown
    assert browser.get("/requests/1/rows").status_code == 403


def test_the_cookie_on_the_way_comes_back_from_another_site_and_goes_nowhere_else(case: Case, login: Login) -> None:
    left = Browser(case.site(provider=provider(login))).get("/sign-in/elsewhere")
    assert re.fullmatch(rf"{AWAY}=[\w-]+; HttpOnly; Max-Age=600; Path=/sign-in/return; SameSite=lax", left.headers["set-cookie"])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"claims": {"email": "stranger@example.org"}}, "you have no account here"),
        ({"claims": {"email_verified": False}}, "did not verify this address"),
        ({"claims": {"email_verified": "true"}}, "did not verify this address"),
        ({"claims": {"email": None}}, "does not say your email"),
        ({"claims": {"aud": "another"}}, "did not say who you are"),
        ({"claims": {"iss": "https://another.example"}}, "did not say who you are"),
        ({"claims": {"nonce": "another"}}, "did not say who you are"),
        ({"claims": {"nonce": None}}, "did not say who you are"),
        ({"claims": {"exp": 1}}, "did not say who you are"),
        ({"key": OTHER}, "did not say who you are"),
        ({"key": OctKey.import_key("pages-and-secret-of-them"), "header": {"alg": "HS256"}}, "did not say who you are"),
    ],
)
def test_who_comes_back_wrong_stays_outside(case: Case, login: Login, wrong: dict[str, Any], sentence: str) -> None:
    for name, value in wrong.items():
        setattr(login, name, value)
    browser, back = came_back(case, login)
    assert back.status_code == 403
    assert sentence in back.text
    assert browser.get("/requests").headers["location"] == "/sign-in"


def test_a_way_back_is_for_one_browser_and_once(case: Case, login: Login) -> None:
    site = case.site(provider=provider(login))
    first, second = Browser(site), Browser(site)
    path = login.signs_in(first.get("/sign-in/elsewhere").headers["location"])
    second.get("/sign-in/elsewhere")
    assert "began in another browser" in second.get(path).text
    assert first.get(path).status_code == 403, "a state that somebody tried is used up"
    for odd in ("", "?state=x&code=y", "?error=access_denied"):
        assert first.get(f"/sign-in/return{odd}").status_code == 403


def test_a_server_that_does_not_answer_is_said(case: Case, login: Login) -> None:
    gone = Provider("http://127.0.0.1:9", "pages", "", sites.BASE)
    browser = Browser(case.site(provider=gone))
    answer = browser.get("/sign-in/elsewhere")
    assert answer.status_code == 502
    assert "does not answer" in answer.text
    assert browser.sign_in("clerk", sites.PASSWORDS["clerk"]).status_code == 303, "passwords still do"


def test_no_password_is_right_for_an_account_that_signs_in_elsewhere(case: Case) -> None:
    accounts = Accounts(case.ledger)
    for password in ("", "the password of nobody", "a" * 20):
        assert not accounts.verify("clerk@example.org", password)


def test_people_on_the_way_do_not_fill_the_memory_and_have_ten_minutes(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_sign_on, "MOST", 4)
    now = [0.0]
    door = SingleSignOn(provider(login), clock=lambda: now[0])

    async def story() -> None:
        for _ in range(9):
            address, browser = await door.leave()
        assert len(door.started) == 4
        path = login.signs_in(address)
        sent = {k: v[0] for k, v in parse_qs(urlsplit(path).query).items()}
        now[0] = LONGEST + 1
        with pytest.raises(NotSignedIn, match="took too long"):
            await door.come_back(sent["state"], sent["code"], browser)

    asyncio.run(story())


def test_without_another_server_its_addresses_are_no_pages(case: Case) -> None:
    browser = Browser(case.site())
    assert "/sign-in/elsewhere" not in browser.get("/sign-in").text
    assert browser.get("/sign-in/elsewhere").status_code == 404
    assert browser.get("/sign-in/return").status_code == 404


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (("login.example.org", "pages", "", sites.BASE), "is no such address"),
        (("http://login.example.org", "pages", "", sites.BASE), "must be reached over TLS"),
        (("https://login.example.org", "pages", "", "http://forget.example.org"), "must be reached over TLS"),
        (("https://login.example.org", "", "", sites.BASE), "--client-id"),
    ],
)
def test_providers_are_refused_in_sentences(values: tuple[str, str, str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        Provider(*values)
    assert "very secret" not in repr(Provider("https://login.example.org", "pages", "very secret", sites.BASE))


def test_the_command_line_knows_people_who_sign_in_elsewhere(case: Case) -> None:
    place = ("--ledger", case.ledger.folder)
    assert "may sign in as auditor" in expunge("account", "anna@example.org", "--role", "auditor", "--elsewhere", *place).fine().out
    assert Accounts(case.ledger).entries()["anna@example.org"] == {"role": "auditor", "hash": ""}
    assert "--sign-in" in expunge("web", "--client-id", "pages", *place).error
    assert "client-id" in expunge("web", "--sign-in", "https://login.example.org", *place).error
    assert "must be reached over TLS" in expunge("web", "--sign-in", "http://login.example.org", "--client-id", "pages", *place).error
