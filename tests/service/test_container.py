"""The container file and compose.yaml, read and not built: nothing runs as root, nothing is open to the network, no secret is in them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from cases import expunge

ROOT = Path(__file__).parents[2]
CONTAINER = (ROOT / "Containerfile").read_text(encoding="utf-8")
COMPOSE_TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_TEXT)


def steps() -> list[tuple[str, str]]:
    """The instructions of the container file, with lines that go on joined."""
    joined = re.sub(r"\\\n", " ", CONTAINER)
    return [(line.split()[0], line.partition(" ")[2]) for line in joined.splitlines() if line.strip() and not line.startswith("#")]


def test_every_image_has_a_version() -> None:
    images = [words.split()[0] for name, words in steps() if name == "FROM"]
    images += [s["image"] for s in COMPOSE["services"].values() if "image" in s]
    assert len(images) == 3
    assert all(re.fullmatch(r"[a-z0-9./-]+/[a-z0-9./-]+:\d[\w.-]*", image) for image in images), images


def test_it_runs_as_another_user_than_root_and_ends_so() -> None:
    last = max(i for i, (name, _) in enumerate(steps()) if name == "FROM")
    users = [words for name, words in steps()[last:] if name == "USER"]
    assert users == ["expunge"]
    assert steps()[-2:] == [("ENTRYPOINT", '["expunge"]'), ("CMD", '["--help"]')]
    assert not [words for name, words in steps() if name == "ADD" or "curl" in words or "sudo" in words]


def test_what_is_copied_exists_and_is_not_ignored() -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line.startswith("!")}
    for name, words in steps():
        if name == "COPY" and not words.startswith("--from"):
            for source in words.split()[:-1]:
                assert (ROOT / source.removeprefix("./")).exists(), source
                assert source.removeprefix("./") in kept, source


def test_its_extras_are_those_of_the_package() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (named,) = re.findall(r'"\.\[([\w,]+)\]"', CONTAINER)
    assert set(named.split(",")) <= extras.keys()


def test_services_are_reached_from_this_machine_alone_and_have_no_rights() -> None:
    services = COMPOSE["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports == ["127.0.0.1:8080:8080"]
    assert COMPOSE["networks"]["inside"]["internal"] is True
    assert services["database"]["networks"] == ["inside"]
    assert services["web"]["read_only"] is True
    assert services["web"]["cap_drop"] == ["ALL"]
    assert services["web"]["security_opt"] == ["no-new-privileges:true"]
    assert not [s for s in services.values() if s.get("privileged") or s.get("network_mode") or s.get("pid")]


def test_no_secret_is_written_into_them() -> None:
    assert not re.search(r"(?i)(password|key|token|secret)[\w]*\s*[:=]\s*(?!\$)[\w\"']", CONTAINER + re.sub(r"(?m)^#.*$", "", COMPOSE_TEXT))
    values = [v for s in COMPOSE["services"].values() for n, v in s.get("environment", {}).items() if "PASSWORD" in n or "DATABASE" in n]
    assert len(values) == 2
    assert all("${EXPUNGE_DATABASE_PASSWORD:?" in value for value in values)
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {".env", "/ledger/", "/rows/"} <= set(ignored)


def test_the_command_exists_with_its_options() -> None:
    command = COMPOSE["services"]["web"]["command"]
    text = expunge(command[0], "--help").out
    assert all(word in text for word in command if word.startswith("--"))
    assert {"EXPUNGE_LEDGER", "EXPUNGE_DATABASE"} == COMPOSE["services"]["web"]["environment"].keys()
