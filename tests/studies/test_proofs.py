"""The protocol of proofs, on worlds whose answer is known, and what is committed by it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import fmean, stdev
from types import SimpleNamespace

import pytest
from scipy import stats
from studies.proofs import language, people, protocol, report, shortcut
from studies.proofs.claim import Arm, Claim
from studies.proofs.curve import at_level
from studies.proofs.effect import Effect, Gate, effect_of, weakest
from studies.proofs.registry import proofs

from expunge import catalog
from expunge.core.errors import UserError
from expunge.modalities.text.models import llama
from studies import docs

CLAIM = Claim("it keeps more", "Table 1", "utility", ("rival",), "higher", 0.05, "known")


def test_a_curve_is_read_between_the_points_around_the_level() -> None:
    curve = [{"known": 1.0, "utility": 0.8}, {"known": 0.6, "utility": 0.7}, {"known": 0.2, "utility": 0.3, "more": 1.0}]
    assert at_level(curve, "known", 0.5) == pytest.approx({"known": 0.5, "utility": 0.6})
    assert at_level(curve, "known", 1.0) == curve[0]
    assert at_level(curve, "known", 0.1) is None, "it never forgets as far"
    back = [*curve, {"known": 0.9, "utility": 0.0}, {"known": 0.1, "utility": 0.0}]
    assert at_level(back, "known", 0.5)["utility"] == pytest.approx(0.6), "the first time that it falls so far counts"


def test_an_interval_is_student_s_over_the_paired_differences() -> None:
    values = [0.1, 0.2, 0.15, 0.3, 0.05]
    effect = effect_of("rival", values)
    low, high = stats.t.interval(0.95, 4, fmean(values), stdev(values) / 5**0.5)
    assert (effect.mean, effect.low, effect.high) == pytest.approx((fmean(values), low, high))


@pytest.mark.parametrize(
    ("low", "mean", "high", "verdict"),
    [
        (0.01, 0.06, 0.11, "shown"),
        (0.01, 0.03, 0.07, "undecided"),  # above 0, but maybe too small to matter
        (0.01, 0.02, 0.04, "not shown"),  # surely too small to matter
        (-0.02, 0.06, 0.14, "undecided"),
        (-0.3, -0.2, -0.1, "not shown"),
    ],
)
def test_an_interval_decides_only_what_it_can(low: float, mean: float, high: float, verdict: str) -> None:
    assert Effect("rival", (), mean, low, high).verdict(0.05) == verdict


def test_a_claim_about_several_rivals_is_as_weak_as_against_the_hardest() -> None:
    easy, hard = Effect("easy", (), 0.3, 0.2, 0.4), Effect("hard", (), 0.06, -0.1, 0.2)
    assert weakest([easy, hard], 0.05) == (hard, "undecided")
    assert weakest([easy], 0.05) == (easy, "shown")


@dataclass
class LinearUnit:
    """Models whose utility falls with forgetting, at a rate that the setting `cost` gives; `shift` differs from unit to unit."""

    shift: float
    original = {"known": 1.0, "utility": 1.0}
    retrained = {"known": 0.2, "utility": 0.9}
    random = {"known": 0.0, "utility": 0.0}

    def run(self, arm: Arm, settings: dict, scores: frozenset[str]) -> list[dict[str, float]]:
        end = settings.get("end", 0.0)
        slope = settings["cost"] + self.shift
        return [{"known": known, "utility": 1 - slope * (1 - known)} for known in (0.5, 0.3, end) if known >= end]


@dataclass(frozen=True)
class LinearWorld:
    name: str = "lines"
    model: str = "line"
    sound: bool = True

    def unit(self, draw: int, seed: int) -> LinearUnit:
        return LinearUnit(0.01 * (draw % 7) + 0.002 * seed)

    def gates(self, claim: Claim, units: list, rivals: dict) -> list[Gate]:
        return [Gate("the world is sound", 1.0, self.sound)]


ARMS = {
    "method": Arm("method", "npo", grid={"cost": (0.5, 0.2, 0.9)}),
    "rival": Arm("rival", "ga", grid={"cost": (0.5, 0.4, 0.9)}),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path))


def proof(**world) -> protocol.Proof:
    return protocol.Proof("method", LinearWorld(**world), (CLAIM,), ARMS)


def silent(line: str) -> None:
    pass


def test_tuning_takes_the_setting_that_serves_the_claim_for_each_arm() -> None:
    record = protocol.tune(proof(), silent)
    assert {name: arm["settings"] for name, arm in record["arms"].items()} == {"method": {"cost": 0.2}, "rival": {"cost": 0.4}}
    assert {arm["looks"] for arm in record["arms"].values()} == {3}


def test_a_proof_reads_all_arms_at_the_retrained_model_s_level() -> None:
    record = protocol.prove(proof(), protocol.tune(proof(), silent), 3, 5, silent)
    (claim,) = record["claims"]
    assert claim["verdict"] == record["verdict"] == "shown"
    assert claim["effect"]["mean"] == pytest.approx(0.2 * 0.8, abs=1e-5), "slopes of .2 and .4 at a forgetting of .8"
    assert len(claim["values"]["method"]) == 15
    assert claim["values"]["method"][0] == pytest.approx(1 - 0.2 * 0.8)


def test_a_gate_that_fails_makes_the_case_invalid() -> None:
    record = protocol.prove(proof(sound=False), protocol.tune(proof(), silent), 3, 2, silent)
    assert record["verdict"] == "case invalid"


def test_a_method_that_never_forgets_as_far_proves_nothing() -> None:
    chosen = protocol.tune(proof(), silent)
    chosen["arms"]["method"]["settings"] = {"cost": 0.2, "end": 0.4}
    record = protocol.prove(proof(), chosen, 3, 2, silent)
    assert record["verdict"] == "case invalid"
    assert record["claims"][0]["gates"][0] == {
        "gate": "all of them forget as far, in at least four of five units",
        "value": 0.0,
        "holds": False,
    }


def test_a_run_is_made_once() -> None:
    lines: list[str] = []
    runs = protocol.Runs(LinearWorld(), lines.append)
    first = runs.curve(ARMS["rival"], {"cost": 0.4}, frozenset(), 0, 0)
    assert runs.curve(ARMS["rival"], {"cost": 0.4}, frozenset(), 0, 0) == first
    assert len(lines) == 1


def test_arms_of_one_method_with_the_same_settings_run_apart() -> None:
    lines: list[str] = []
    runs = protocol.Runs(LinearWorld(), lines.append)
    for name in ("ga", "ga with a mask"):
        runs.curve(Arm(name, "ga"), {"cost": 0.4}, frozenset(), 0, 0)
    assert len(lines) == 2


def test_every_rival_of_every_proof_has_an_arm_and_as_many_settings() -> None:
    for name, known in proofs().items():
        counts = {line: len(known.arms[line].settings()) for line in known.lines}
        assert max(counts.values()) <= 2 * min(counts.values()), f"{name}: {counts}"


def test_every_setting_of_every_arm_is_one_of_the_method() -> None:
    from expunge.workflows import build_plan

    for known in (p for p in proofs().values() if p.name not in catalog.names("attacks")):  # whose worlds read the settings themselves
        for arm in (known.arms[line] for line in known.lines):
            for settings in arm.settings():
                build_plan.plan(arm.method, settings)


def test_every_proof_is_of_a_system_of_the_catalog() -> None:
    for name in proofs():
        assert catalog.find(name)


def test_a_quick_look_is_never_committed() -> None:
    with pytest.raises(UserError, match="only 3 draws with 5 originals are committed"):
        report.proved("ssd", silent, draws=1, update=True)
    with pytest.raises(UserError, match="there is no proof for 'nobody'"):
        report.proved("nobody", silent)


COMMITTED = sorted(path.stem for path in report.FOLDER.glob("*.json"))


@pytest.mark.parametrize("name", COMMITTED)
def test_a_committed_record_says_what_its_own_values_say(name: str) -> None:
    record = json.loads((report.FOLDER / f"{name}.json").read_text())
    known, frozen = proofs()[name], protocol.frozen(name)
    assert record["settings"] == {line: arm["settings"] for line, arm in frozen["arms"].items()}
    assert [c["claim"] for c in record["claims"]] == [c.text for c in known.claims]
    for written, claim in zip(record["claims"], known.claims, strict=True):
        columns = written["values"]
        complete = [k for k in range(len(columns[name])) if all(column[k] is not None for column in columns.values())]
        if len(complete) < 2:
            assert (written["verdict"], "effect" in written) == ("case invalid", False), "too few forgot as far"
            continue
        effects = [effect_of(r, [claim.effect(columns[name][k], columns[r][k]) for k in complete]) for r in claim.rivals]
        effect, verdict = weakest(effects, claim.matters)
        assert written["effect"]["mean"] == pytest.approx(effect.mean, abs=2e-5)
        assert written["effect"]["low"] == pytest.approx(effect.low, abs=2e-5)
        assert written["verdict"] == (verdict if all(g["holds"] for g in written["gates"]) else "case invalid")


@pytest.mark.parametrize("name", COMMITTED)
def test_a_card_says_what_its_proof_decided(name: str) -> None:
    record = json.loads((report.FOLDER / f"{name}.json").read_text())
    assert docs.status(catalog.card(name)) == record["verdict"]


def test_the_shortcut_case_is_invalid_where_a_rival_cannot_be_beaten() -> None:
    """Two units of one draw: their retrained models differ by .02, so a rival at .01 is as near as another retrained model."""

    def unit(aligned: float) -> SimpleNamespace:
        target = {"forget": 0.0, "aligned": aligned, "conflicting": 0.0, "others": 0.8}
        sets = {"forget": SimpleNamespace(ids=["a"])}
        return SimpleNamespace(sets=sets, target=target, original={"gap": 0.5, "aligned": 0.9, "conflicting": 0.3}, random={"gap": 0.2})

    world, (claim, _) = shortcut.CLAIMS["cupid"]
    units = [unit(0.0), unit(0.08)]
    holds = {gate.text.split()[0]: gate.holds for gate in world.gates(claim, units, {"salun": [0.01, 0.01]})}
    assert holds == {"the": True, "random": True, "no": False}
    assert all(gate.holds for gate in world.gates(claim, units, {"salun": [0.05, 0.05]}))


def test_every_arm_names_a_block_that_the_small_model_has() -> None:
    blocks = llama.SIZES[people.SIZE].layers
    layers = {name: arm.fixed["layer"] for name, arm in language.ARMS.items() if "layer" in arm.fixed}
    assert layers
    assert all(0 <= layer < blocks for layer in layers.values()), layers
