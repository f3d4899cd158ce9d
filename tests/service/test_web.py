"""The pages of a ledger: each of their promises."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("starlette")
pytest.importorskip("argon2")
pytest.importorskip("securesystemslib")

from argon2 import PasswordHasher

import sites
from cases import Cases, expunge
from expunge.core.errors import UserError
from expunge.service import certificates, intake, keys
from expunge.service.checking import check
from expunge.service.web import forms, sessions
from expunge.service.web.accounts import FILE, RIGHTS, Accounts
from expunge.service.web.site import website
from sites import ROLES, SECRET, Browser, Case


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    own = sites.case(tmp_path)
    yield own
    own.ledger.engine.dispose()


PAGES = ("/requests", "/requests/1", "/runs", "/runs/1", "/certificates", "/verify")
OF_ROWS = ("/requests/1/rows", "/runs/1/reports/these-requests", "/compare")


def test_the_story_of_a_request_in_pages(case: Case) -> None:
    clerk = Browser(case.site(), "clerk")
    taken = clerk.post("/requests", data="0", person="2", basis="GDPR 17(1)(b)", subject="case 9", due="")
    assert taken.status_code == 303, taken.text
    assert taken.headers["location"] == "/requests/2"
    shown = clerk.get("/requests/2").text
    assert "case 9" in shown
    assert "GDPR 17(1)(b)" in shown
    assert clerk.post("/requests/2/accept").status_code == 303
    assert clerk.post("/requests/2/extend", due="2000-01-01", why="complex").status_code == 400
    assert clerk.post("/requests/1/refuse", why="").status_code == 400
    assert clerk.post("/requests/1/refuse", why="not a customer").status_code == 303
    assert clerk.post("/requests/1/reopen", why="it was one").status_code == 303
    assert clerk.post("/requests/1/withdraw", why="").status_code == 303
    assert [(e.request, e.kind, e.by) for e in case.ledger.events()][1:] == [
        (2, "received", "clerk"),
        (2, "accepted", "clerk"),
        (1, "refused", "clerk"),
        (1, "reopened", "clerk"),
        (1, "withdrawn", "clerk"),
    ]
    assert case.ledger.vault.get(2)["rows"] == [sites.ROWS[1]]
    timeline = clerk.get("/requests/1").text.partition("What happened")[2]
    assert timeline.index("received") < timeline.index("refused") < timeline.index("not a customer") < timeline.index("withdrawn")
    assert check(case.ledger) == []


def test_a_request_shows_its_deadline_and_what_was_measured(case: Case) -> None:
    case.add_run()
    auditor = Browser(case.site(), "auditor")
    shown = auditor.get("/requests/1").text
    assert case.ledger.request(1)["due"] in shown
    assert "0.7, and 0.8 before" in shown
    run = auditor.get("/runs/1").text
    assert re.search(r"a score</th><td>.*cannot tell.*0\.25.*0\.9.*original", run)
    assert "other copies" in run
    assert "served" in auditor.get("/runs").text


def test_requests_that_are_due_stand_first(case: Case) -> None:
    intake.add(case.ledger, str(case.data), where="customer_id=2", due=case.ledger.now().date().isoformat())
    shown = Browser(case.site(), "clerk").get("/requests").text
    assert shown.index("/requests/2") < shown.index("/requests/1")
    assert "in 0 days" in shown


@pytest.mark.parametrize("role", ROLES)
def test_a_row_is_shown_to_those_alone_who_may_see_it(case: Case, role: str) -> None:
    case.add_run()
    browser = Browser(case.site(), role)
    for path in PAGES:
        answer = browser.get(path)
        assert answer.status_code == 200, path
        assert not [w for row in sites.ROWS for w in (row["answer"], row["question"]) if str(w) in answer.text], path
    for path in OF_ROWS:
        answer = browser.get(path)
        assert answer.status_code == (403 if role == "clerk" else 200), path
        assert role != "clerk" or "Pellgrove" not in answer.text
    if role != "clerk":
        assert SECRET in browser.get(OF_ROWS[0]).text
        assert SECRET in browser.get(OF_ROWS[1]).text
    hidden = browser.get("/runs/1").text.count("/reports/"), browser.get("/requests/1").text.count("/rows")
    assert hidden == ((0, 0) if role == "clerk" else (1, 1))


def test_rows_are_gone_from_pages_with_their_key(case: Case) -> None:
    from expunge.service.undo import delete_key

    case.ledger.append(1, "refused", {"why": "no"})
    delete_key(case.ledger, 1)
    auditor = Browser(case.site(), "auditor")
    assert auditor.get("/requests/1").status_code == 200
    answer = auditor.get("/requests/1/rows")
    assert answer.status_code == 400
    assert "was deleted" in answer.text


ACTIONS = {  # what only a role with the right does
    "/requests": "clerk",
    "/requests/1/accept": "clerk",
    "/requests/1/refuse": "clerk",
    "/requests/1/extend": "clerk",
    "/requests/1/withdraw": "clerk",
    "/requests/1/undo": "operator",
    "/requests/1/run": "operator",
    "/check": "auditor",
}


@pytest.mark.parametrize("path", ACTIONS)
def test_what_a_role_may_not_do_is_refused_and_leaves_no_trace(case: Case, path: str) -> None:
    site, before = case.site(), case.ledger.head
    for role in ROLES:
        if role != ACTIONS[path]:
            answer = Browser(site, role).post(path, why="w", due="2999-01-01", data="0", person="2", method="npo", model="m")
            assert answer.status_code == 403, role
            assert f"the role {role} may not" in answer.text.lower()
    assert case.ledger.head == before


def test_a_role_or_account_that_was_taken_away_is_gone_with_the_next_page(case: Case) -> None:
    site = case.site()
    operator, clerk = Browser(site, "operator"), Browser(site, "clerk")
    assert operator.get("/requests/1/rows").status_code == 200
    Accounts(case.ledger).add("operator", "clerk", "another long password")
    assert operator.get("/requests/1/rows").status_code == 403
    Accounts(case.ledger).delete("clerk")
    assert clerk.get("/requests").headers["location"] == "/sign-in"
    assert clerk.post("/requests/1/accept").status_code == 403
    assert case.ledger.request(1)["state"] == "received"


def test_nothing_is_shown_or_done_without_signing_in(case: Case) -> None:
    case.add_run()
    nobody = Browser(case.site())
    for path in (*PAGES, *OF_ROWS, "/", "/certificates/ab"):
        answer = nobody.get(path)
        assert answer.status_code == 303
        assert answer.headers["location"] in ("/sign-in", "/requests")
        assert answer.text == ""
    before = case.ledger.head
    for path in (*ACTIONS, "/verify", "/compare", "/sign-out"):
        assert nobody.post(path).status_code == 403
    assert case.ledger.head == before


@pytest.mark.parametrize("path", [*ACTIONS, "/verify", "/compare", "/sign-out"])
def test_a_form_without_the_token_of_the_session_is_refused(case: Case, path: str) -> None:
    site = case.site()
    own, other = Browser(site, "operator"), Browser(site, "operator")
    own = Browser(site, ACTIONS.get(path, "operator"))
    before, right = case.ledger.head, own.token
    for wrong in ("", "x", other.token, right[:-1], f"{right}x"):
        own.token = wrong
        answer = own.post(path, why="w", data="0", person="2", method="npo", question="q")
        assert answer.status_code == 403, wrong
        assert "not of your session" in answer.text
    assert own.client.post(path, content=b"").status_code in (403, 415)
    assert case.ledger.head == before
    assert own.get("/requests").status_code == 200, "the session goes on"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_form_from_another_site_is_refused_whatever_it_holds(case: Case, headers: dict[str, str]) -> None:
    clerk = Browser(case.site(), "clerk")
    assert clerk.post("/requests/1/accept", headers=headers).status_code == 403
    token = sites.token_of(clerk.get("/sign-in").text)
    fields = {"name": "clerk", "password": sites.PASSWORDS["clerk"], "token": token}
    answer = clerk.client.post("/sign-in", data=fields, headers=headers)
    assert answer.status_code == 403
    assert sessions.COOKIE not in answer.cookies
    assert case.ledger.request(1)["state"] == "received"


def test_forms_of_the_own_site_pass_with_the_headers_of_a_browser(case: Case) -> None:
    clerk = Browser(case.site(), "clerk")
    assert clerk.post("/requests/1/accept", headers={"Origin": sites.BASE, "Sec-Fetch-Site": "same-origin"}).status_code == 303


def test_the_cookie_of_a_session_is_for_this_server_alone(case: Case) -> None:
    answer = Browser(case.site()).sign_in("clerk", sites.PASSWORDS["clerk"])
    cookie = next(c for c in answer.headers.get_list("set-cookie") if c.startswith(f"{sessions.COOKIE}=") and "Max-Age=0" not in c)
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert "Secure" not in cookie
    assert "Domain" not in cookie
    behind = Browser(case.site(behind_tls=True), base="https://127.0.0.1")
    answer = behind.sign_in("clerk", sites.PASSWORDS["clerk"])
    assert all("Secure" in cookie for cookie in answer.headers.get_list("set-cookie"))
    assert "max-age" in answer.headers["strict-transport-security"]


def test_a_session_gets_a_new_cookie_and_ends(case: Case) -> None:
    clock = [0.0]
    browser = Browser(case.site(sessions=sessions.Sessions(lambda: clock[0])), "clerk")
    first = browser.client.cookies[sessions.COOKIE]
    browser.sign_in("clerk", sites.PASSWORDS["clerk"])
    second = browser.client.cookies[sessions.COOKIE]
    assert first != second
    browser.client.cookies.clear()
    browser.client.cookies.set(sessions.COOKIE, first)
    assert browser.get("/requests").status_code == 303, "the one before has ended"
    browser.client.cookies.clear()
    browser.sign_in("clerk", sites.PASSWORDS["clerk"])
    clock[0] += sessions.IDLE - 1
    assert browser.get("/requests").status_code == 200
    clock[0] += sessions.IDLE + 1
    assert browser.get("/requests").status_code == 303
    browser.sign_in("clerk", sites.PASSWORDS["clerk"])
    for _ in range(int(sessions.LONGEST // (sessions.IDLE - 1)) + 1):
        clock[0] += sessions.IDLE - 1
        last = browser.get("/requests").status_code
    assert last == 303, "in any case after twelve hours"


def test_signing_out_ends_the_session_on_the_server(case: Case) -> None:
    browser = Browser(case.site(), "clerk")
    cookie = browser.client.cookies[sessions.COOKIE]
    assert browser.post("/sign-out").status_code == 303
    browser.client.cookies.set(sessions.COOKIE, cookie)
    assert browser.get("/requests").headers["location"] == "/sign-in"


def test_sessions_do_not_fill_the_memory() -> None:
    clock = iter(range(10**6))
    many = sessions.Sessions(lambda: float(next(clock)))
    first, last = many.begin("a"), [many.begin("b") for _ in range(sessions.MOST)][-1]
    assert len(many.open) == sessions.MOST
    assert many.of(first) is None
    assert many.of(last) is not None


def test_passwords_are_argon2_hashes_in_a_file_for_its_owner(case: Case) -> None:
    file = case.ledger.folder / FILE
    assert file.stat().st_mode & 0o077 == 0
    known = json.loads(file.read_text())
    assert not [p for p in sites.PASSWORDS.values() if p in file.read_text()]
    assert PasswordHasher().verify(known["clerk"]["hash"], sites.PASSWORDS["clerk"])


def test_wrong_names_and_passwords_are_refused_alike_and_slowed_down(case: Case) -> None:
    browser = Browser(case.site())
    wrong, unknown = browser.sign_in("clerk", "a wrong password"), browser.sign_in("nobody", "a wrong password")
    assert wrong.status_code == unknown.status_code == 403
    strip = re.compile(r'value="\w+"')
    assert strip.sub("", wrong.text) == strip.sub("", unknown.text)
    for _ in range(4):
        browser.sign_in("clerk", "a wrong password")
    late = browser.sign_in("clerk", sites.PASSWORDS["clerk"])
    assert late.status_code == 429
    assert int(late.headers["retry-after"]) > 0
    assert browser.sign_in("auditor", sites.PASSWORDS["auditor"]).status_code == 303


def test_accounts_are_refused_in_sentences(case: Case) -> None:
    accounts = Accounts(case.ledger)
    for name, role, password, sentence in (
        ("x", "king", "a long password", "no role 'king'"),
        ("<x>", "clerk", "a long password", "letters, digits"),
        ("x", "clerk", "short", "at least 12"),
    ):
        with pytest.raises(UserError, match=sentence):
            accounts.add(name, role, password)
    with pytest.raises(UserError, match="no account 'clark'"):
        accounts.delete("clark")
    for damaged in ("[]", "{", '{"a": {"role": "king", "hash": ""}}', '{"a": 3}'):
        (case.ledger.folder / FILE).write_text(damaged)
        with pytest.raises(UserError, match="damaged"):
            Accounts(case.ledger)


def test_every_answer_has_the_headers_and_no_page_has_a_script(case: Case) -> None:
    case.add_run()
    auditor = Browser(case.site(), "auditor")
    for path in (*PAGES, "/compare", "/sign-in", "/style.css", "/nothing", "/requests/99", "/"):
        answer = auditor.get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script" not in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert not re.search(r"<script|\son\w+=|style=|javascript:|https?://(?!127)", answer.text), path


def test_a_report_is_served_as_it_is_in_a_sandbox(case: Case) -> None:
    folder = case.add_run()
    answer = Browser(case.site(), "auditor").get("/runs/1/reports/these-requests")
    assert answer.text == (folder / "audits/these-requests/report.html").read_text()
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("sandbox allow-scripts;")
    assert "allow-same-origin" not in policy
    assert "default-src 'none'" in policy


@pytest.mark.parametrize("name", ["%2e%2e", "..%2f..%2freceipt.json", "these-requests%00", "/etc/passwd", "other"])
def test_only_reports_are_served(case: Case, name: str) -> None:
    case.add_run()
    answer = Browser(case.site(), "auditor").get(f"/runs/1/reports/{name}")
    assert answer.status_code in (303, 404)
    assert "result" not in answer.text


def test_what_people_wrote_is_text_and_no_markup(case: Case) -> None:
    clerk = Browser(case.site(), "clerk")
    clerk.post("/requests", data="0", person="2", basis="<b>x</b>", subject='"><script>alert(1)</script>', due="")
    clerk.post("/requests/2/refuse", why="<img src=x onerror=alert(1)>")
    shown = clerk.get("/requests/2").text
    assert "<b>x" not in shown
    assert "<script" not in shown
    assert "<img" not in shown
    assert "&lt;img src=x" in shown


def test_a_clerk_asks_for_one_person_in_the_given_files_alone(case: Case) -> None:
    clerk, before = Browser(case.site(), "clerk"), case.ledger.head
    for data, person in (("1", "2"), ("-1", "2"), ("x", "2"), ("0", ""), ("0", "1,2"), ("0", "99")):
        assert clerk.post("/requests", data=data, person=person).status_code == 400, (data, person)
    assert case.ledger.head == before
    assert "No file of rows is given" in Browser(case.site(data=()), "clerk").get("/requests").text


def test_nothing_personal_is_logged_and_who_saw_rows_is(case: Case, caplog: pytest.LogCaptureFixture) -> None:
    case.add_run()
    site = case.site()
    with caplog.at_level(logging.DEBUG, "expunge.web"):
        clerk, auditor = Browser(site, "clerk"), Browser(site, "auditor")
        clerk.post("/requests", data="0", person="2", subject="case 9", basis="", due="")
        auditor.get("/requests/1/rows")
        auditor.get("/runs/1/reports/these-requests")
        Browser(site).sign_in("mallory", "what they typed")
    text = "\n".join(r.getMessage() for r in caplog.records if r.name == "expunge.web")
    assert "auditor looks at the rows of request 1" in text
    assert "auditor reads the report these-requests of run 1" in text
    personal = [SECRET, "case 9", "what they typed", "mallory", *sites.PASSWORDS.values(), clerk.client.cookies[sessions.COOKIE]]
    assert not [word for word in personal if word in text]


def test_a_page_that_fails_says_nothing_of_why(case: Case, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*_: object) -> Any:
        raise RuntimeError(SECRET)

    auditor = Browser(case.site(), "auditor")
    monkeypatch.setattr(type(case.ledger), "runs", fail)
    with caplog.at_level(logging.DEBUG, "expunge.web"):
        answer = auditor.get("/runs")
    assert answer.status_code == 500
    assert "Pellgrove" not in answer.text + caplog.text
    assert "content-security-policy" in answer.headers


def test_other_names_of_the_server_and_other_addresses_are_refused(case: Case) -> None:
    browser = Browser(case.site(), "clerk")
    assert browser.client.get("/requests", headers={"Host": "evil.example"}).status_code == 400
    assert browser.client.get("/requests", headers={"Host": "localhost:8080"}).status_code == 200
    with pytest.raises(UserError, match="in plain"):
        case.site(host="0.0.0.0")
    case.site(host="0.0.0.0", behind_tls=True)
    with pytest.raises(UserError, match="says whose a row is"):
        case.site(data=[sites.AskedData("x.csv", "rows")])
    (case.ledger.folder / FILE).unlink()
    with pytest.raises(UserError, match="nobody has an account"):
        website(case.ledger)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"{}", "application/json", 415),
        (b"token=%ff", forms.URLENCODED, 400),
        (b"&".join(b"a%d=1" % i for i in range(500)), forms.URLENCODED, 400),
        (b"--x\r\n\r\n", f"{forms.MULTIPART}; boundary=x", 400),
        (b"nothing", forms.MULTIPART, 400),
        (b"a" * (forms.LARGEST + 1), forms.URLENCODED, 413),
    ],
)
def test_other_bodies_are_refused(case: Case, content: bytes, kind: str, status: int) -> None:
    clerk = Browser(case.site(), "clerk")
    answer = clerk.client.post("/requests/1/accept", content=content, headers={"Content-Type": kind})
    assert answer.status_code in (status, 403)
    assert case.ledger.request(1)["state"] == "received"


def test_a_certificate_is_verified_against_the_model_of_a_run(case: Case, tmp_path: Path) -> None:
    from expunge.service.files import digest_of_model

    folder = case.add_run()
    outcome = {**sites.SUMMARY, "weights": "w", "thresholds": {"alpha": 0.05}, "controls": {}, "damage": [], "skipped": {}}
    (tmp_path / "outcome.json").write_text(json.dumps(outcome))
    whole = {"result": {"kind": "model", "weights": "w"}, "request": {"sets": {"forget": 1}}, "model": {"weights": "v"}, "method": "npo"}
    (folder / "receipt.json").write_text(json.dumps(whole))
    private, public = keys.new(tmp_path / "key")
    other = keys.new(tmp_path / "other")[1]
    certificate = certificates.certify(folder, tmp_path / "outcome.json", [private], tmp_path / "certificate.json")
    for role in ROLES:
        browser = Browser(case.site(), role)

        def verify(trusted: Path, content: bytes, browser: Browser = browser) -> str:
            files = {"certificate": ("c.json", content, "application/json")}
            answer = browser.post("/verify", files=files, run="1", keys=trusted.read_text())
            assert answer.status_code == 200, answer.text
            return str(answer.text)

        assert "The certificate holds" in verify(public, certificate.read_bytes())
        assert "does not hold" in verify(other, certificate.read_bytes())
        assert "does not hold" in verify(public, certificate.read_bytes().replace(b"A", b"B", 1))
    assert digest_of_model(str(folder))
    (folder / "model/config.json").write_text("{ }")
    changed = verify(public, certificate.read_bytes())
    assert "config.json was changed since the certificate was issued" in changed
    assert str(tmp_path) not in changed
    assert browser.post("/verify", run="1", keys=public.read_text()).status_code == 400
    files = {"certificate": ("c.json", certificate.read_bytes(), "application/json")}
    assert browser.post("/verify", files=files, run="1", keys="").status_code == 400
    assert browser.post("/verify", files=files, run="9", keys=public.read_text()).status_code == 400


def test_certificates_are_listed_and_handed_out_by_their_digest(case: Case) -> None:
    case.add_run()
    file = case.ledger.folder / "certificates/1.json"
    file.parent.mkdir()
    file.write_text("the certificate")
    (file.parent / "2.json").write_text("another file")
    digest = certificates.sha256(file)
    case.ledger.append(1, "certified", {"run": 1, "sha256": digest, "head": case.ledger.head})
    clerk = Browser(case.site(), "clerk")
    shown = clerk.get("/certificates").text
    assert digest in shown
    assert case.ledger.head in shown
    assert clerk.get(f"/certificates/{digest}").text == "the certificate"
    assert clerk.get(f"/certificates/{certificates.sha256(file.parent / '2.json')}").status_code == 404


def test_the_ledger_is_checked_from_a_page(case: Case) -> None:
    auditor = Browser(case.site(), "auditor")
    assert "The ledger is whole" in auditor.post("/check", head="").text
    assert "The ledger is not whole" in auditor.post("/check", head="0" * 64).text


def test_a_run_is_started_with_hyperparameters_alone(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.service.web import jobs

    started = list[list[str]]()

    class Process:
        returncode = 1

        def __init__(self, command: list[str], **_: object) -> None:
            started.append(command)

        def communicate(self) -> tuple[bytes, bytes]:
            return b"", b"the model is gone\n"

    monkeypatch.setattr(jobs.subprocess, "Popen", Process)
    case.ledger.append(1, "accepted")
    operator = Browser(case.site(run_options=["--retain", "r.jsonl"]), "operator")
    for method, settings in (
        ("npo", "--out /tmp"),
        ("npo", "model"),
        ("npo", "--lr '"),
        ("nothing", ""),
        ("npo", "--ledger=x"),
        ("--by", ""),
    ):
        assert operator.post("/requests/1/run", method=method, settings=settings, model="m").status_code == 400, (method, settings)
    assert started == []
    assert operator.post("/requests/1/run", method="npo", settings="--lr 1e-3", model="m", budget="0.2").status_code == 303
    (command,) = started
    assert command[:2] == [sys.executable, "-m"]
    assert command[-4:] == ["--retain", "r.jsonl", "--lr", "1e-3"]
    assert {"--method=npo", "--model=m", "--utility-budget=0.2"} <= set(command)
    assert "the model is gone" in operator.get("/requests/1").text
    assert "the model is gone" not in Browser(case.site(), "clerk").get("/requests/1").text


def test_what_cannot_run_is_not_started(case: Case) -> None:
    answer = Browser(case.site(), "operator").post("/requests/1/run", method="npo", settings="", model="m")
    assert answer.status_code == 400
    assert "is received" in answer.text


@pytest.mark.slow
def test_two_models_answer_the_same_question_side_by_side(cases: Cases, case: Case) -> None:
    import html

    from cases import rows_of

    folder = case.ledger.folder / "runs/0001"
    cases.unlearn("graddiff", folder, "--epochs", 10, "--lr", 3e-3).fine()
    begins = {"batch": [1], "method": "graddiff", "folder": "runs/0001", "parent": cases.model, "parent_weights": ""}
    ends = {"state": "done", "folder": "runs/0001", "receipt_sha256": "", "weights": "ab", "verdict": "", "summary": sites.SUMMARY}
    case.ledger.append(1, "accepted")
    case.ledger.append(1, "running", {"run": 1, "begins": begins})
    case.ledger.append(1, "done", {"run": 1, "ends": ends, "serves": {"source": "runs/0001", "run": 1}})
    operator = Browser(case.site(), "operator")
    row = rows_of(cases.forget)[0]
    answer = operator.post("/compare", left="original", right="1", question=row["question"])
    assert answer.status_code == 200
    answers = re.findall(r'<article class="said">.*?<p>(.*?)</p>', answer.text, flags=re.DOTALL)
    assert html.unescape(answers[0]).strip() == row["answer"]
    assert html.unescape(answers[1]).strip() != row["answer"]
    assert re.search(r"a score</th><td[^>]*>0\.9</td><td[^>]*>0\.25</td>", answer.text)
    assert re.search(r"b score</th><td[^>]*>0\.8</td>", answer.text)
    assert row["answer"] not in operator.get("/compare?left=original&right=1").text
    assert "Both answers are the same" in operator.post("/compare", left="1", right="1", question="Who?").text


def test_two_models_draw_the_same_caption_side_by_side(case: Case) -> None:
    pytest.importorskip("diffusers")
    import denoisers

    for seed, folder in ((0, case.ledger.folder / "runs/0001/model"), (1, case.data.parent / "original")):
        model, modality = denoisers.built(seed)
        folder.mkdir(parents=True)
        modality.save(model, folder)
    (case.ledger.folder / "runs/0001/receipt.json").write_text("{}")
    begins = {"batch": [1], "method": "esd", "folder": "runs/0001", "parent": str(case.data.parent / "original"), "parent_weights": ""}
    ends = {"state": "done", "folder": "runs/0001", "receipt_sha256": "", "weights": "ab", "verdict": "", "summary": sites.SUMMARY}
    case.ledger.append(1, "accepted")
    case.ledger.append(1, "running", {"run": 1, "begins": begins})
    case.ledger.append(1, "done", {"run": 1, "ends": ends, "serves": {"source": "runs/0001", "run": 1}})
    operator = Browser(case.site(), "operator")
    answer = operator.post("/compare", left="original", right="1", question='a "red" square')
    assert answer.status_code == 200, answer.text
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="What ([^"]*) draws for this caption"', answer.text)
    assert [label for _, label in pictures] == ["the original", "run 1: esd (served)"]
    assert pictures[0][0] != pictures[1][0]
    assert "img-src 'self' data:" in answer.headers["content-security-policy"]
    again = operator.post("/compare", left="1", right="1", question='a "red" square').text
    assert "Both answers are the same" in again
    assert pictures[1][0] in again, "the same noise draws the same picture"


def test_an_account_is_made_in_the_command_line(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO("a password from a pipe\n"))
    place = ("--ledger", case.ledger.folder)
    assert "may sign in as auditor" in expunge("account", "eve", "--role", "auditor", *place).fine().out
    assert Accounts(case.ledger).verify("eve", "a password from a pipe")
    assert "is deleted" in expunge("account", "eve", "--delete", *place).fine().out
    assert Accounts(case.ledger).role("eve") is None
    assert "can be reached from elsewhere" in expunge("web", "--host", "0.0.0.0", *place).error
    assert "column" in expunge("web", "--data", case.data, *place).error


def test_roles_have_the_rights_that_the_page_of_docs_names() -> None:
    text = (Path(__file__).parents[2] / "docs/web.md").read_text(encoding="utf-8")
    for role, rights in RIGHTS.items():
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {role} |")]
        assert all(right in line for right in rights)
        assert not [r for other in RIGHTS.values() for r in other - rights if r in line]
