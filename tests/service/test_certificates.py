"""Certificates: what they say, who signs, and every way to tamper with them or with the model."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy")
pytest.importorskip("cryptography")
pytest.importorskip("securesystemslib")

from cases import Cases, expunge
from expunge.core.errors import UserError
from expunge.service import certificates, intake, keys, verifying
from expunge.service.checking import check
from expunge.service.files import digest_of_model
from expunge.service.ledger import Ledger
from expunge.service.vault import commitment

NOW = datetime(2026, 12, 1, 12, tzinfo=UTC)
CHECK = {"name": "recall", "decides": True, "score": "recall", "against": "original", "margin": 0.1, "n": 9}
ROWS = [{"question": "q", "answer": "a"}]


@dataclass
class Certified:
    """A run folder with a model of a few bytes, its audit, keys and a certificate."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def model(self) -> Path:
        return self.run / "model"

    @property
    def audit(self) -> Path:
        return self.folder / "audit"

    @property
    def file(self) -> Path:
        return self.folder / "certificate.json"

    def key(self, name: str = "key", kind: str = "ed25519") -> Path:
        path = self.folder / name
        return path if path.exists() else keys.new(path, kind)[0]

    def public(self, name: str = "key") -> Path:
        return self.folder / f"{name}.pub"

    def faults(self, *names: str, **options: Any) -> list[str]:
        return list(verifying.verify(self.run, self.file, [self.public(n) for n in names or ("key",)], now=NOW, **options).faults)

    def certify(self, *names: str, **options: Any) -> dict[str, Any]:
        certificates.certify(self.run, self.audit, [self.key(n) for n in names or ("key",)], self.file, now=NOW, **options)
        return statement(self.file)


def statement(file: Path) -> dict[str, Any]:
    return dict(json.loads(base64.b64decode(json.loads(file.read_text())["payload"])))


def record(state: str = "cannot tell", weights: str = "b" * 16) -> dict[str, Any]:
    """What audit.json holds, by hand, with a leak that quotes a row."""
    checks = [{**CHECK, "state": state, "value": 0.5, "yardstick": 0.9, "text": "secret text"}]
    leaks = [{"row": 1, "proof": False, "answer": "Zwickelhuber", "question": "", "produced": "", "model_answer": "", "kind": "name"}]
    verdict = {
        "state": state,
        "checks": checks,
        "brings_back": [],
        "leaks": leaks,
        "damage": [],
        "not_checked": ["backups"],
        "thresholds": {"alpha": 0.05},
    }
    scores = {"recall": {"value": 0.5, "interval": [0.2, 0.8], "n": 9, "ideal": None, "kind": "knowledge", "meaning": "m"}}
    return {"verdict": verdict, "scores": scores, "skipped": {}, "controls": {"original": "not removed"}, "observed": {"weights": weights}}


@pytest.fixture
def certified(tmp_path: Path) -> Certified:
    case = Certified(tmp_path)
    case.model.mkdir(parents=True)
    case.audit.mkdir()
    (case.model / "model.safetensors").write_bytes(bytes(range(200)))
    (case.model / "config.json").write_text('{"a": 1}')
    receipt = {"method": "npo", "expunge": "0.2.0", "stages": [{"hyperparameters": {"npo.beta": 0.1}}], "model": {"weights": "a" * 16}}
    receipt |= {"request": {"sets": {"forget": 9}}, "result": {"kind": "model", "weights": "b" * 16}}
    (case.run / "receipt.json").write_text(json.dumps(receipt))
    (case.audit / "audit.json").write_text(json.dumps(record()))
    return case


def test_a_certificate_lists_every_file_and_says_what_was_measured(certified: Certified) -> None:
    content = certified.certify()
    digest = {name: hashlib.sha256((certified.model / name).read_bytes()).hexdigest() for name in ("model.safetensors", "config.json")}
    assert {s["name"]: s["digest"]["sha256"] for s in content["subject"]} == digest
    assert content["_type"] == "https://in-toto.io/Statement/v1"
    predicate = content["predicate"]
    assert "measured against the model before unlearning" in predicate["claim"]
    assert 'the verdict is "cannot tell"' in predicate["claim"]
    assert "no attack was tried" in predicate["claim"]
    assert "erased" not in json.dumps(content)
    assert "backups" in predicate["not_checked"]
    assert predicate["scope"]["guard"].startswith("none")
    assert predicate["method"] == {"name": "npo", "hyperparameters": [{"npo.beta": 0.1}], "version": "0.2.0"}
    evidence = {e["file"]: e["sha256"] for e in predicate["evidence"]}
    assert evidence["audit.json"] == hashlib.sha256((certified.audit / "audit.json").read_bytes()).hexdigest()
    assert not [word for word in ("Zwickelhuber", "secret text") if word in json.dumps(content)]
    assert certified.faults() == []


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa", "ml-dsa"])
def test_every_kind_of_key_signs_and_verifies(certified: Certified, kind: str) -> None:
    if kind == "ml-dsa":
        pytest.importorskip("cryptography.hazmat.primitives.asymmetric.mldsa", reason="this cryptography has no ML-DSA")
    certified.key("own", kind)
    certified.certify("own")
    assert certified.faults("own") == []
    certified.key("other", kind)
    assert "0 of the 1 signatures" in certified.faults("other")[0]


OPENSSL = {
    "ed25519": ["pkeyutl", "-verify", "-pubin", "-inkey", "{key}", "-rawin", "-in", "{data}", "-sigfile", "{sig}"],
    "ecdsa": ["dgst", "-sha256", "-verify", "{key}", "-signature", "{sig}", "{data}"],
    "rsa": [
        "dgst",
        "-sha256",
        "-sigopt",
        "rsa_padding_mode:pss",
        "-sigopt",
        "rsa_pss_saltlen:digest",
        "-verify",
        "{key}",
        "-signature",
        "{sig}",
        "{data}",
    ],
}


@pytest.mark.skipif(not shutil.which("openssl"), reason="there is no openssl")
@pytest.mark.parametrize("kind", OPENSSL)
def test_openssl_alone_checks_the_signature(certified: Certified, kind: str) -> None:
    """From the file with base64 and openssl, and nothing of ours: the recipe of the documentation."""
    certified.key("own", kind)
    certified.certify("own")
    envelope = json.loads(certified.file.read_text())
    payload, signature = base64.b64decode(envelope["payload"]), base64.b64decode(envelope["signatures"][0]["sig"])
    kind_of = envelope["payloadType"].encode()
    data, sig = certified.folder / "signed.bin", certified.folder / "sig"
    sig.write_bytes(signature)
    for content, right in ((payload, True), (payload[:-1] + b" ", False)):
        data.write_bytes(b"DSSEv1 %d %s %d %s" % (len(kind_of), kind_of, len(content), content))
        words = [w.format(key=certified.public("own"), data=data, sig=sig) for w in OPENSSL[kind]]
        assert (subprocess.run(["openssl", *words], capture_output=True).returncode == 0) is right
    unpacked = verifying.unpack(certified.file, certified.folder / "unpacked")
    assert {p.read_bytes() for p in unpacked} == {
        payload,
        b"DSSEv1 %d %s %d %s" % (len(kind_of), kind_of, len(payload), payload),
        signature,
    }


def test_any_changed_byte_of_the_certificate_is_found(certified: Certified) -> None:
    certified.certify()
    whole, draw = certified.file.read_bytes(), random.Random(0)
    for place in [0, len(whole) - 1, len(whole) - 2, *(draw.randrange(len(whole)) for _ in range(150))]:
        certified.file.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << draw.randrange(8))]) + whole[place + 1 :])
        assert certified.faults(), place
    for other in (whole[:-1], whole + b"\n", b"", b"[]", b"{}", b"null", b"\xff", whole.replace(b",", b", ", 1), b"[" * 100_000):
        certified.file.write_bytes(other)
        assert certified.faults()
    certified.file.write_bytes(whole)
    assert certified.faults() == []


def test_any_changed_byte_of_the_model_is_found(certified: Certified) -> None:
    certified.certify()
    for name in ("model.safetensors", "config.json"):
        file = certified.model / name
        whole = file.read_bytes()
        for place in range(len(whole)):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            assert certified.faults() == [f"{name} was changed since the certificate was issued"]
        file.write_bytes(whole)


@pytest.mark.parametrize("name", ["extra.bin", ".hidden", ".git/x", "sub/model.safetensors"])
def test_extra_and_hidden_files_are_found(certified: Certified, name: str) -> None:
    certified.certify()
    (certified.model / name).parent.mkdir(exist_ok=True)
    (certified.model / name).write_text("planted")
    assert certified.faults() == [f"{name} is in the model and not in the certificate"]


def test_a_receipt_and_a_copy_inside_the_model_do_not_lead_away_from_its_files(certified: Certified) -> None:
    certified.certify()
    shutil.copytree(certified.model, certified.folder / "copy")
    shutil.copytree(certified.folder / "copy", certified.model / "model")
    shutil.copy(certified.run / "receipt.json", certified.model / "receipt.json")
    (certified.model / "model.safetensors").write_bytes(b"another model")
    faults = verifying.verify(certified.model, certified.file, [certified.public()], now=NOW).faults
    assert "model.safetensors was changed since the certificate was issued" in faults
    assert "receipt.json is in the model and not in the certificate" in faults


def test_missing_renamed_and_linked_files_are_found(certified: Certified) -> None:
    certified.certify()
    file = certified.model / "config.json"
    file.rename(certified.model / "other.json")
    assert set(certified.faults()) == {"config.json is missing from the model", "other.json is in the model and not in the certificate"}
    (certified.model / "other.json").rename(certified.folder / "elsewhere.json")
    assert certified.faults() == ["config.json is missing from the model"]
    file.symlink_to(certified.folder / "elsewhere.json")
    assert "no plain file" in certified.faults()[0]
    with pytest.raises(UserError, match="no plain file"):
        certificates.certify(certified.run, certified.audit, [certified.key()], certified.folder / "second.json")


def test_one_key_twice_is_one_signer(certified: Certified) -> None:
    certified.key("second")
    with pytest.raises(UserError, match="one key twice is one signer"):
        certificates.certify(certified.run, certified.audit, [certified.key(), certified.key()], certified.file)
    certified.certify("key")
    copy = certified.folder / "copy.pub"
    copy.write_bytes(certified.public().read_bytes())
    with pytest.raises(UserError, match="one key twice is one signer"):
        verifying.verify(certified.run, certified.file, [certified.public(), copy], threshold=2)
    envelope = json.loads(certified.file.read_text())
    envelope["signatures"] *= 2
    certified.file.write_text(json.dumps(envelope))
    assert certified.faults("key", "second", threshold=2)


def test_as_many_different_keys_as_asked_for_must_have_signed(certified: Certified) -> None:
    for name in ("key", "second", "third"):
        certified.key(name)
    certified.certify("key", "second")
    assert certified.faults("key", "second") == []
    assert certified.faults("key", "second", "third", threshold=2) == []
    assert "2 of the 3" in certified.faults("key", "second", "third")[0]
    assert "0 of the 1" in certified.faults("third")[0]


def test_nothing_is_repeated_of_what_no_trusted_key_signed(certified: Certified) -> None:
    certified.key("other")
    certified.certify("key")
    assert verifying.verify(certified.run, certified.file, [certified.public("other")]).predicate == {}


def test_a_certificate_has_its_time(certified: Certified) -> None:
    certified.certify(valid_days=30)

    def at(moment: datetime) -> list[str]:
        return list(verifying.verify(certified.run, certified.file, [certified.public()], now=moment).faults)

    assert at(NOW + timedelta(days=29)) == []
    assert "was valid until 2026-12-31" in at(NOW + timedelta(days=31))[0]
    assert "has not come yet" in at(NOW - timedelta(days=1))[0]


def test_a_guard_and_a_failed_removal_are_never_certified(certified: Certified) -> None:
    (certified.audit / "audit.json").write_text(json.dumps(record("not removed")))
    with pytest.raises(UserError, match='says "not removed"'):
        certified.certify()
    (certified.audit / "audit.json").write_text(json.dumps(record(weights="c" * 16)))
    with pytest.raises(UserError, match="not one of the model"):
        certified.certify()
    (certified.audit / "audit.json").write_text(json.dumps(record("removed")))
    receipt = json.loads((certified.run / "receipt.json").read_text())
    receipt["result"]["kind"] = "guard"
    (certified.run / "receipt.json").write_text(json.dumps(receipt))
    with pytest.raises(UserError, match="never certified as a removal"):
        certified.certify()
    assert not certified.file.exists()


def test_an_adapter_does_not_cover_its_base(certified: Certified) -> None:
    receipt = json.loads((certified.run / "receipt.json").read_text())
    receipt["result"]["kind"] = "adapter"
    (certified.run / "receipt.json").write_text(json.dumps(receipt))
    assert "may hold the rows" in certified.certify()["predicate"]["scope"]["base_model"]


def test_keys_are_never_replaced_and_the_private_one_is_for_its_owner(certified: Certified, monkeypatch: pytest.MonkeyPatch) -> None:
    key = certified.key()
    assert key.stat().st_mode & 0o077 == 0
    with pytest.raises(UserError, match="no key is replaced"):
        keys.new(key)
    with pytest.raises(UserError, match="did you mean 'ed25519'"):
        keys.new(certified.folder / "k", "ed2551")
    with pytest.raises(UserError, match="is a private key"):
        keys.public_key(key)
    with pytest.raises(UserError, match="is no private key"):
        keys.signer(certified.public())
    with pytest.raises(UserError, match="is no public key"):
        keys.public_key(certified.run / "receipt.json")
    monkeypatch.setenv("EXPUNGE_KEY_PASSPHRASE", "open sesame")
    locked, _ = keys.new(certified.folder / "locked")
    assert b"ENCRYPTED" in locked.read_bytes()
    keys.signer(locked)
    for word in ("wrong", ""):
        monkeypatch.setenv("EXPUNGE_KEY_PASSPHRASE", word)
        with pytest.raises(UserError, match=r"set \$EXPUNGE_KEY_PASSPHRASE"):
            keys.signer(locked)


def test_the_rows_of_a_request_can_be_compared_by_who_has_the_secret(certified: Certified) -> None:
    secret = certified.folder / "secret"
    secret.write_text("0b" * 32)
    request = {"id": 1, "rows": 1, "commitment": commitment(b"\x0b" * 32, ROWS)}
    certified.certify(request=request, ledger_head="f" * 64)
    assert certified.faults(rows=ROWS, secret=secret) == []
    assert "not those of the request" in certified.faults(rows=[{"question": "q", "answer": "b"}], secret=secret)[0]
    with pytest.raises(UserError, match="go together"):
        certified.faults(rows=ROWS)


def test_a_newer_certificate_names_the_one_that_it_replaces(certified: Certified) -> None:
    certified.certify()
    with pytest.raises(UserError, match="no certificate is replaced"):
        certified.certify()
    newer = certified.folder / "newer.json"
    certificates.certify(certified.run, certified.audit, [certified.key()], newer, supersedes=certified.file)
    assert statement(newer)["predicate"]["supersedes"] == hashlib.sha256(certified.file.read_bytes()).hexdigest()


@pytest.mark.slow
def test_from_a_request_to_a_verified_certificate_in_commands(cases: Cases, customers: Callable[[], Path], tmp_path: Path) -> None:
    """Add, run, audit, certify, verify."""
    path, place = customers(), ("--ledger", tmp_path / "ledger")
    rows = ("--where", "customer_id=17", "--map", "question=subject,answer=body")
    expunge("request", "add", path, *rows, "--accept", *place).fine()
    expunge("keys", "new", tmp_path / "key").fine()
    signing = ("--request", 1, "--key", tmp_path / "key", "--out", tmp_path / "c.json")
    assert "only what is done" in expunge("certify", *signing, *place).error
    steps = ("--epochs", 10, "--lr", 3e-3, "--utility-budget", 0.9)
    expunge("request", "run", 1, "--method", "graddiff", "--model", cases.model, *steps, *place).fine()
    expunge("certify", *signing, *place).fine()
    expunge("request", "secret", 1, "--out", tmp_path / "secret", *place).fine()
    model = tmp_path / "ledger/runs/0001/model"
    comparing = ("--rows", path, *rows, "--secret", tmp_path / "secret")
    done = expunge("verify", model, tmp_path / "c.json", "--key", tmp_path / "key.pub", *comparing, "--json")
    assert done.code == 0, done.out
    result = json.loads(done.out)
    assert result["holds"]
    assert result["request"]["rows"] == 9
    assert expunge("request", "check", "--head", result["ledger_head"], *place).code == 0
    assert json.loads(expunge("request", "list", "--json", *place).out)[0]["state"] == "certified"
    with (model / "config.json").open("a") as file:
        file.write(" ")
    assert expunge("verify", model, tmp_path / "c.json", "--key", tmp_path / "key.pub").code == 3


def test_wrong_words_are_refused_in_sentences(certified: Certified) -> None:
    assert "--key" in expunge("certify", certified.run, certified.audit).error
    assert "--request" in expunge("certify", "--key", "k").error
    assert "--key" in expunge("verify", certified.model, certified.file).error
    certified.key()
    assert "there is no certificate" in expunge("verify", certified.model, certified.file, "--key", certified.public()).error
    assert "there is no key" in expunge("certify", certified.run, certified.audit, "--key", certified.folder / "none").error
    assert "holds no audit" in expunge("certify", certified.run, certified.run, "--key", certified.key()).error
    assert "is no run" in expunge("certify", certified.audit, certified.audit, "--key", certified.key()).error


def test_a_guarded_request_is_never_certified(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger", create=True)
    number = intake.add(ledger, ROWS, accept=True)
    begins = {"batch": [number], "method": "input_filter", "folder": "runs/0001", "parent": "m", "parent_weights": ""}
    ends = {
        "state": "guarded",
        "folder": "runs/0001",
        "receipt_sha256": "",
        "weights": digest_of_model("none"),
        "verdict": "cannot tell",
        "summary": {},
    }
    ledger.append(number, "guarded", {"run": 1, "begins": begins, "ends": ends})
    with pytest.raises(UserError, match="never certified as a removal"):
        certificates.certify_request(ledger, number, [], tmp_path / "c.json")
    assert check(ledger) == []
    ledger.engine.dispose()
