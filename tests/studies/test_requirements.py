"""The page of requirements: every one is listed once with its state, and every test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/requirements.md"
LINES = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
STATES = ("met", "partly", "**not met**")


def test_every_requirement_of_the_surveys_is_listed_once_and_in_order() -> None:
    numbers = [int(m[1]) for line in LINES if (m := re.match(r"\| R(\d+) \|", line))]
    assert numbers == list(range(1, 41))


def test_every_line_has_a_state_and_what_is_met_has_a_test() -> None:
    for line in LINES:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if set(line) <= set("| -") or "state" in cells:
            continue
        (state,) = [cell for cell in cells if cell in STATES]
        assert state != "met" or "](../tests/" in cells[-1], line


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"\]\((\.\./tests/[^)]+)\)((?:[:,] `\w+`)*)", PAGE.read_text(encoding="utf-8"))
    assert len(named) > 40
    for place, names in named:
        file = (PAGE.parent / place).resolve()
        assert file.is_file(), place
        functions = re.findall(r"^def test_(\w+)", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names):
            assert any(function.startswith(name) for function in functions), f"{place}: {name}"
