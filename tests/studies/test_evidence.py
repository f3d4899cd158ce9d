"""The page of effects says what the records say, and its picture draws each interval where it belongs."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from studies import evidence


def record(verdict: str, low: float, mean: float, high: float) -> dict:
    effect = {"rival": "ga", "low": low, "mean": mean, "high": high}
    gates = [{"gate": "the original knows it", "value": 0.2, "holds": verdict != "case invalid"}]
    claim = {
        "claim": "it keeps more",
        "source": "Table 1",
        "score": "utility",
        "matters": 0.02,
        "verdict": verdict,
        "effect": effect,
        "gates": gates,
    }
    return {"verdict": verdict, "cost": {"npo": 0.0312, "rmu": 0.0312}, "claims": [claim], "units": {"draws": 3, "originals": 5}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / evidence.PROOFS
    folder.mkdir(parents=True)
    (folder / "npo.json").write_text(json.dumps(record("shown", 0.04, 0.06, 0.08)))
    (folder / "rmu.json").write_text(json.dumps(record("case invalid", -9.0, 1.0, 9.0)))
    return tmp_path


KINDS = {"npo": "methods", "rmu": "methods", "u_lira": "attacks"}


def test_the_page_has_a_line_for_each_proof_and_one_for_each_system_measured_once(root: Path) -> None:
    page = evidence.pages(root, KINDS, {"u_lira": ("attack", "2 of 2 claims hold"), "npo": ("objective", "3 of 3 claims hold")})[
        "evidence.md"
    ]
    (npo,) = [line for line in page.splitlines() if line.startswith("| [npo]")]
    assert "+0.060 [+0.040, +0.080] in `utility` over ga; 0.02 matters" in npo
    assert "| shown |" in npo
    assert "3.1 %" in npo
    (rmu,) = [line for line in page.splitlines() if line.startswith("| [rmu]")]
    assert "case invalid: not so that the original knows it (0.2)" in rmu
    assert "| [u_lira](attacks/u_lira.md) | attack | 2 of 2 claims hold |" in page
    assert "1 shown, 1 case invalid" in page


def test_the_picture_draws_intervals_in_order_and_cuts_them_at_the_edge(root: Path) -> None:
    svg = evidence.pages(root, KINDS, {})["evidence.svg"]
    lines = [
        tuple(map(float, m))
        for m in re.findall(r'<line x1="([\d.]+)" y1="\d+" x2="([\d.]+)" y2="\d+" stroke="#[0-9a-f]+" stroke-width', svg)
    ]
    middles = [float(m) for m in re.findall(r'<circle cx="([\d.]+)"', svg)]
    assert lines[0] == pytest.approx((evidence.place(2), evidence.place(4)), abs=0.1), "0.04 and 0.08 are 2 and 4 times what matters"
    assert lines[1] == (evidence.LEFT, evidence.RIGHT)
    assert all(low <= middle <= high for (low, high), middle in zip(lines, middles, strict=True))


def test_places_grow_with_values_and_are_even_around_no_effect() -> None:
    places = [evidence.place(v) for v in (-1000, -50, -1, 0, 1, 50, 1000)]
    assert places == sorted(places)
    assert places[0] == places[1] == evidence.LEFT
    assert places[3] - places[2] == pytest.approx(places[4] - places[3])


def test_without_proofs_there_is_no_page(tmp_path: Path) -> None:
    assert evidence.pages(tmp_path, KINDS, {}) == {}
