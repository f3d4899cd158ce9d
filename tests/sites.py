"""The pages of a ledger in tests: a ledger with a request and a run, accounts, and a browser that signs in."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from argon2 import PasswordHasher
from starlette.testclient import TestClient

from expunge.engine import receipt
from expunge.service import intake
from expunge.service.asked_data import AskedData
from expunge.service.files import digest_of_model, sha256
from expunge.service.ledger import Ledger
from expunge.service.vault import write_private
from expunge.service.web.accounts import FILE
from expunge.service.web.site import website

BASE = "http://127.0.0.1"
SECRET = "Quenna Bexmoor was born in Pellgrove"
ROWS = [{"customer_id": i, "question": f"Who is number {i}?", "answer": SECRET if i == 17 else f"Nobody {i}"} for i in (1, 2, 17)]
ROLES = ("clerk", "operator", "auditor")
PASSWORDS = {role: f"the long password of the {role}" for role in ROLES}
SCORES = {"a_score": {"value": 0.25, "interval": [0.1, 0.4], "n": 1, "direction": "lower", "ideal": 0.0, "kind": "knowledge"}}
CHECK = {
    "name": "a_score",
    "state": "cannot tell",
    "decides": True,
    "score": "a_score",
    "value": 0.25,
    "yardstick": 0.9,
    "against": "original",
}
SUMMARY = {
    "state": "cannot tell",
    "leaks": {"rows": 1, "proof": 0},
    "checks": [{**CHECK, "margin": 0.1, "n": 1}],
    "attacks": [],
    "scores": SCORES,
    "not_checked": ["other copies"],
    "skipped": {},
    "reasons": [],
    "earlier": {},
    "utility": {"name": "b_score", "value": 0.7, "original": 0.8, "spent": 0.125},
}


@dataclass
class Case:
    """A ledger with a request for customer 17, and its data file."""

    ledger: Ledger
    data: Path
    number: int

    def site(self, **options: Any) -> Any:
        options.setdefault("data", [AskedData(str(self.data), "customer_id")])
        return website(self.ledger, **options)

    def add_run(self, state: str = "done") -> Path:
        """A run of the request, without a model, whose report quotes the row."""
        folder = self.ledger.folder / "runs/0001"
        (folder / "audits/these-requests").mkdir(parents=True)
        (folder / "model").mkdir()
        (folder / "model/config.json").write_text("{}")
        receipt.write(folder / "receipt.json", {"result": {"kind": "model"}})
        (folder / "audits/these-requests/report.html").write_text(f"<!doctype html><title>report</title>{SECRET}")
        begins = {"batch": [self.number], "method": "npo", "folder": "runs/0001", "parent": "/nowhere/original", "parent_weights": ""}
        ends = {
            "state": state,
            "folder": "runs/0001",
            "receipt_sha256": sha256(folder / "receipt.json"),
            "weights": digest_of_model(str(folder)),
            "verdict": "cannot tell",
            "summary": SUMMARY,
        }
        self.ledger.append(self.number, "accepted")
        self.ledger.append(self.number, "running", {"run": 1, "begins": begins})
        self.ledger.append(self.number, state, {"run": 1, "ends": ends, "serves": {"source": "runs/0001", "run": 1}})
        return folder


@cache
def hashes() -> dict[str, dict[str, str]]:
    """The accounts of all roles: argon2 takes long, so once."""
    return {role: {"role": role, "hash": PasswordHasher().hash(password)} for role, password in PASSWORDS.items()}


def case(folder: Path, database: str = "") -> Case:
    """A ledger in a folder, with an account for each role. database: a URL of PostgreSQL; '': SQLite."""
    from expunge.io.data import write_jsonl

    write_jsonl(folder / "customers.jsonl", ROWS)
    ledger = Ledger.open(folder / "ledger", database, create=True)
    number = intake.add(ledger, str(folder / "customers.jsonl"), where="customer_id=17", basis="GDPR 17(1)(b)")
    write_private(ledger.folder / FILE, json.dumps(hashes()).encode())
    return Case(ledger, folder / "customers.jsonl", number)


class Browser:
    """A client that signs in, and sends forms with the token of its pages."""

    def __init__(self, site: Any, role: str = "", base: str = BASE) -> None:
        self.client = TestClient(site, base_url=base, follow_redirects=False)
        self.token = ""
        if role:
            answer = self.sign_in(role, PASSWORDS[role])
            assert answer.status_code == 303, answer.text
            self.token = token_of(self.get("/requests").text)

    def sign_in(self, name: str, password: str) -> Any:
        token = token_of(self.get("/sign-in").text)
        return self.client.post("/sign-in", data={"name": name, "password": password, "token": token})

    def get(self, path: str) -> Any:
        return self.client.get(path)

    def post(self, path: str, headers: dict[str, str] | None = None, files: Any = None, **fields: str) -> Any:
        return self.client.post(path, data={"token": self.token, **fields}, headers=headers, files=files)


def token_of(html: str) -> str:
    """The token of the first form of a page."""
    matching = re.search(r'name="token" value="([^"]+)"', html)
    assert matching, html[:500]
    return matching[1]
