"""Sets of an audit beside the usual ones: how they are asked, by which families they are scored, and families that are added."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import worlds
from classified import observed, sure
from expunge import catalog
from expunge.benchmarks import people
from expunge.benchmarks.suite import SetSpec, spec_of
from expunge.core.capabilities import Ranks
from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.evaluation.attack import chosen, intervene
from expunge.evaluation.compare import comparisons
from expunge.evaluation.measure import Evidence, Measure, Missing, ScoreSpec
from expunge.evaluation.metrics import choice, memorization
from expunge.evaluation.observation import Observation, SetObservation
from expunge.evaluation.observation_spec import QUICK
from expunge.evaluation.observe import DRAWN, DRAWS, observe
from expunge.evaluation.scoring import audit_scores, measured
from toy_modality import Curves, points

RECORDS = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)
FORGET, FEW = RECORDS.forget, RECORDS.retain_audit[:5]
MEMORIZED = {"neighbors": SetSpec("general", ("score", "generate"), metrics=("memorization",))}
PLACES = [
    {"question": "Where is the harbor?", "answer": "In Lund.", "choices": ["In Oslo.", "In Lund.", "In a far town by the sea."]},
    {"question": "Who keeps the keys?", "answer": "The smith.", "choices": ["The smith.", "The miller."]},
    {"question": "What is sold here?", "answer": "Bread.", "choices": ["Ink.", "Wool and thread.", "Bread."]},
]
CHOSEN = {"places": SetSpec("general", ("choose",), metrics=("choice",))}


# (a) Families that are added


def family(score: str, value: float, reads: frozenset[str] = frozenset({"tokens"})) -> ModuleType:
    """A family with one score: `value` times the number of forgotten items."""
    module = ModuleType(f"plugin_{score}", f"{score}: our own.\n\nSource: our own\nStatus: faithful")
    module.READS = reads  # type: ignore[attr-defined]
    module.SCORES = {score: ScoreSpec("knowledge", "lower", "how much is known", ideal=0.0, shows=True)}  # type: ignore[attr-defined]

    def scores(evidence: Evidence) -> dict[str, Measure | Missing]:
        items = evidence.items("forget", lambda observation: np.full(len(observation), value * len(observation)))
        return {score: Measure((items,), np.mean, variant="counted")}

    module.scores = scores  # type: ignore[attr-defined]
    return module


@pytest.fixture
def registered() -> Iterator[list[str]]:
    names: list[str] = []
    yield names
    for name in names:
        catalog.unregister("metrics", name)


def add(registered: list[str], name: str, module: ModuleType) -> None:
    catalog.register("metrics", name, module)
    registered.append(name)


def test_a_registered_family_runs_and_its_score_is_in_the_records(text: worlds.World, registered: list[str]) -> None:
    evidence = Evidence(observe(text.model(), text.modality, {"forget": FORGET}, wants=QUICK))
    without, _ = audit_scores(evidence, resamples=5)
    add(registered, "counting", family("counted", 2.0))
    records, _ = audit_scores(evidence, resamples=5)
    assert records.pop("counted") == {
        "value": 2.0 * len(FORGET),
        "interval": [2.0 * len(FORGET)] * 2,
        "n": len(FORGET),
        "variant": "counted",
        "retrained": None,
        "kind": "knowledge",
        "direction": "lower",
        "meaning": "how much is known",
        "ideal": 0.0,
        "shows": True,
        "scale": "linear",
    }
    assert records == without, "the others stay"
    catalog.unregister("metrics", "counting")
    assert audit_scores(evidence, resamples=5)[0] == without


def test_a_family_that_is_registered_again_takes_the_place_of_the_first(text: worlds.World, registered: list[str]) -> None:
    """As where a cell of a notebook is run a second time."""
    evidence = Evidence(observe(text.model(), text.modality, {"forget": FORGET}, wants=QUICK))
    for value in (2.0, 3.0):
        add(registered, "counting", family("counted", value))
        assert audit_scores(evidence, resamples=2)[0]["counted"]["value"] == value * len(FORGET)


def test_a_family_runs_only_where_what_it_reads_is_observed(text: worlds.World, registered: list[str]) -> None:
    add(registered, "seeing", family("seen", 1.0, frozenset({"distributions"})))
    evidence = Evidence(observe(text.model(), text.modality, {"forget": FORGET}, wants=QUICK))
    records, skipped = audit_scores(evidence, resamples=2)
    assert "seen" not in records.keys() | skipped.keys()


def test_a_family_is_named_by_its_entry_in_the_spec_of_a_set(text: worlds.World, registered: list[str]) -> None:
    add(registered, "counting", family("counted", 2.0))
    specs = {"neighbors": SetSpec("general", metrics=("counting",))}
    evidence = Evidence(observe(text.model(), text.modality, {"forget": FORGET, "neighbors": FEW}, specs=specs, wants=QUICK))
    records, _ = audit_scores(evidence, resamples=2, specs=specs)
    assert (records["counted"]["n"], records["neighbors_counted"]["n"]) == (len(FORGET), len(FEW))
    for name, message in (("countin", "did you mean 'counting'"), ("relearn", "gives no scores")):
        with pytest.raises(UserError, match=message):
            audit_scores(evidence, specs={"neighbors": SetSpec("general", metrics=(name,))})


# (b) Sets of other names


def test_a_set_of_a_new_name_is_scored_by_the_families_of_its_spec(text: worlds.World) -> None:
    sets = {"forget": FORGET, "neighbors": FEW}
    original, retrained = (observe(text.model(n), text.modality, sets, specs=MEMORIZED) for n in ("original", "retrained"))
    records, skipped = audit_scores(Evidence(original, retrained), resamples=20, specs=MEMORIZED)
    for score in memorization.SCORES:
        by_name = Evidence(original, retrained).focused("neighbors")
        wanted = memorization.scores(by_name)[score]
        assert isinstance(wanted, Measure)
        record = records[f"neighbors_{score}"]
        assert (record["value"], record["n"], record["variant"]) == (wanted.value(), len(FEW), wanted.variant)
        of_retrained = memorization.scores(replace(by_name, model=by_name.retrained))[score]  # type: ignore[arg-type]
        assert record["retrained"] == of_retrained.value()  # type: ignore[union-attr]
        assert (record["kind"], record["direction"], record["shows"]) == ("utility", "higher", False), "what stays is good"
        assert records[score]["shows"], "what was to go is not"
    assert len(original.sets["neighbors"].generations) == len(FEW)
    assert not [n for n in skipped if n.startswith("neighbors")]
    plain, _ = audit_scores(Evidence(original, retrained), resamples=20)
    assert plain == {n: r for n, r in records.items() if not n.startswith("neighbors")}


def test_scores_of_a_set_leave_out_those_of_other_sets() -> None:
    """`retain_accuracy` and the like are the audit's own, whatever stands in the place of the forget set."""
    sets = {n: sure([0, 1, 1] * 5, [0, 1, k % 2] * 5, n) for k, n in enumerate(("forget", "retain", "holdout", "shadowed"))}
    specs = {"shadowed": SetSpec("general", metrics=("classification",))}
    records, skipped = audit_scores(Evidence(observed(**sets)), resamples=2, specs=specs)
    assert [n for n in records if n.startswith("shadowed")] == ["shadowed_accuracy", "shadowed_confidence", "shadowed_entropy"]
    assert records["shadowed_accuracy"]["value"] == 1
    assert records["forget_accuracy"]["value"] == pytest.approx(2 / 3)
    assert not [n for n in skipped if n.startswith(("shadowed_retain", "shadowed_average"))]
    without = observed(**{n: s for n, s in sets.items() if n != "holdout"})
    wide = {"shadowed": SetSpec("general", metrics=("classification", "mia_classifier"))}
    _, skipped = audit_scores(Evidence(without), resamples=2, specs=wide)
    assert skipped["mia_loss"] == skipped["shadowed_mia_loss"] == "the audit has no holdout set"


def test_a_set_that_the_family_scores_by_itself_keeps_that_score() -> None:
    """`classification` gives `retain_accuracy` in every audit; a spec that asks for it again changes nothing."""
    sets = {n: sure([0, 1, 1] * 5, [0, 1, k % 2] * 5, n) for k, n in enumerate(("forget", "retain", "holdout"))}
    plain, _ = audit_scores(Evidence(observed(**sets)), resamples=2)
    specified, _ = audit_scores(Evidence(observed(**sets)), resamples=2, specs={"retain": SetSpec("retain", metrics=("classification",))})
    assert plain["retain_accuracy"] == specified["retain_accuracy"]
    assert "retain_confidence" in specified
    assert "retain_confidence" not in plain


def test_a_second_set_to_forget_is_scored_as_one(text: worlds.World) -> None:
    specs = {"neighbors": SetSpec("forget", ("score",), metrics=("memorization",))}
    records, _ = audit_scores(
        Evidence(observe(text.model(), text.modality, {"forget": FORGET, "neighbors": FEW}, specs=specs)), resamples=2, specs=specs
    )
    record = records["neighbors_extraction_strength"]
    assert (record["kind"], record["direction"], record["shows"]) == ("knowledge", "retrained", True)


def test_a_spec_without_its_set_is_no_error(text: worlds.World) -> None:
    records, skipped = audit_scores(Evidence(observe(text.model(), text.modality, {"forget": FORGET})), resamples=2, specs=MEMORIZED)
    assert not [n for n in {**records, **skipped} if n.startswith("neighbors")]


def test_only_sets_that_are_asked_to_generate_have_generations(text: worlds.World) -> None:
    sets = dict.fromkeys(("forget", "retain", "holdout", "neighbors", "read", "others"), FEW)
    observed_sets = observe(text.model(), text.modality, sets, specs={**MEMORIZED, "read": SetSpec("general")}).sets
    assert [n for n, s in observed_sets.items() if len(s.generations) == len(FEW)] == ["forget", "retain", "neighbors", "others"]
    assert [n for n, s in observed_sets.items() if not s.generations] == ["holdout", "read"]
    assert spec_of("others").ask == ("score", "generate"), "a set of a user's own, of which nothing is said"


def test_a_set_is_scored_under_an_attack(text: worlds.World) -> None:
    sets, model = {"forget": FORGET, "neighbors": FEW}, text.model()
    attack = chosen(("quantize",), {"bits": "2"})["quantize"]

    def attacked(scored: tuple[str, ...]) -> Any:
        return intervene("quantize", attack, model, text.modality, sets, specs=MEMORIZED, scored=scored)

    both, alone = attacked(("forget", "neighbors")), attacked(("forget",))
    name = "neighbors_extraction_strength"
    records, _ = audit_scores(Evidence(observe(model, text.modality, sets, specs=MEMORIZED)), specs=MEMORIZED)
    assert both.before[name]["value"] == pytest.approx(records[name]["value"], abs=1e-6)
    assert both.tries[0].scores[name]["value"] < both.before[name]["value"], "two bits cost it something"
    assert not [n for n in {**alone.before, **alone.tries[0].scores} if n.startswith("neighbors")]
    assert name not in both.shows, "what stays is no sign of what comes back"
    assert both.lead == alone.lead == "extraction_strength"
    for n, record in alone.before.items():
        assert both.before[n]["value"] == pytest.approx(record["value"], abs=1e-6)


# (c) Choices


def preferred(text: worlds.World, model: nn.Module, record: Mapping[str, Any]) -> int:
    """Which choice has the highest mean log-probability a label, by the library's own means."""
    means = []
    for option in record["choices"]:
        rows = text.modality.rows("one", [{"question": record["question"], "answer": option}])
        prompt, answer = rows["prompt"][0], rows["answer"][0]
        with torch.no_grad():
            log = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
        means.append(float(log.gather(-1, torch.tensor(answer)[:, None]).mean()))
    return int(np.argmax(means))


def test_a_set_that_is_asked_to_choose_has_an_accuracy(text: worlds.World) -> None:
    model = text.model()
    best = [preferred(text, model, r) for r in PLACES]
    places_records = [
        {**PLACES[0], "answer": PLACES[0]["choices"][best[0]]},
        {**PLACES[1], "answer": PLACES[1]["choices"][best[1]]},
        PLACES[2],
    ]
    if best[2] == 2:
        places_records[2] = {**PLACES[2], "answer": "Ink."}
    observation = observe(model, text.modality, {"forget": FORGET, "places": places_records}, specs=CHOSEN)
    places = observation.sets["places"]
    assert places.kinds["choice"].item.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert places.correct is not None
    assert places.correct.tolist()[:2] == best[:2]
    assert choice.right(places).tolist() == [1, 1, 0]
    records, skipped = audit_scores(Evidence(observation), resamples=20, specs=CHOSEN)
    record = records["places_choice_accuracy"]
    assert (record["value"], record["n"]) == (pytest.approx(2 / 3), 3)
    assert (record["kind"], record["direction"]) == ("utility", "higher")
    assert "choice_accuracy" not in {**records, **skipped}, "the forget set is asked nothing to choose from"
    assert not [c for c in comparisons(measured(Evidence(observation), CHOSEN)) if "choice" in c], (
        "it is no check: nobody was to forget these"
    )


def test_choices_of_the_forget_set_itself_are_a_score_of_their_own(text: worlds.World) -> None:
    specs = {"forget": SetSpec("forget", ("score", "choose"))}
    records, _ = audit_scores(Evidence(observe(text.model(), text.modality, {"forget": PLACES}, specs=specs)), resamples=2, specs=specs)
    wanted = np.mean([preferred(text, text.model(), r) == r["choices"].index(r["answer"]) for r in PLACES])
    assert records["choice_accuracy"]["value"] == pytest.approx(wanted)
    assert records["choice_accuracy"]["shows"]


def test_a_set_without_choices_cannot_choose(text: worlds.World) -> None:
    with pytest.raises(UserError, match="the set 'places' is asked by choices, and its rows have none"):
        observe(text.model(), text.modality, {"places": FEW}, specs=CHOSEN)
    odd = [{**PLACES[0], "answer": "In Bergen."}]
    with pytest.raises(UserError, match=r"places, row 1: the answer is none of the choices"):
        observe(text.model(), text.modality, {"places": odd}, specs=CHOSEN)


# (d) Draws


@pytest.mark.slow
def test_draws_are_several_sampled_answers_and_the_same_each_time(text: worlds.World, tmp_path: Path) -> None:
    specs = {"neighbors": SetSpec("general", ("score", "draw"))}
    model = text.model("random")

    def drawn(**more: Any) -> SetObservation:
        return observe(model, text.modality, {"neighbors": FEW}, specs=specs, **more).sets["neighbors"]

    first = drawn(cache=tmp_path)
    assert [len(answers) for answers in first.draws] == [DRAWS] * len(FEW)
    assert all(len(set(answers)) > 1 for answers in first.draws), "they are sampled"
    assert drawn().draws == drawn(cache=tmp_path).draws == first.draws
    assert not first.generations
    first_draw = text.modality.generate(model, text.modality.rows("neighbors", FEW), DRAWN, generator(0))  # type: ignore[attr-defined]
    assert [answers[0] for answers in first.draws] == text.modality.decode(first_draw.ids)  # type: ignore[attr-defined]
    assert not drawn(wants=QUICK).draws, "a quick look does without"
    Observation({"neighbors": first}).save(tmp_path / "again")
    assert Observation.load(tmp_path / "again").sets["neighbors"].draws == first.draws


def generator(k: int) -> torch.Generator:
    from expunge.core.random import seed_of

    return torch.Generator().manual_seed(seed_of("draw", k))


# (e) Ranks


@dataclass
class Ranked(Curves):
    """Curves whose rows have a place among items."""

    capabilities: frozenset[Any] = frozenset({Ranks})

    def ranks(self, model: nn.Module, rows: Rows) -> Tensor:
        return torch.arange(len(rows)).flip(0)


def test_ranks_are_observed_where_a_modality_ranks(tmp_path: Path) -> None:
    specs = {"edges": SetSpec("general", ("score", "rank"))}
    model = nn.Linear(1, 1)
    model.forward = lambda x: x[:, 0] * model.weight[0, 0]  # type: ignore[method-assign, assignment]
    observation = observe(model, Ranked(), {"forget": points(0, 1, 4, 0), "edges": points(0, 1, 3, 1)}, specs=specs)
    assert observation.sets["edges"].ranks is not None
    assert observation.sets["edges"].ranks.tolist() == [2, 1, 0]
    assert observation.sets["forget"].ranks is None
    observation.save(tmp_path)
    assert np.array_equal(Observation.load(tmp_path).sets["edges"].ranks, [2, 1, 0])  # type: ignore[arg-type]


def test_what_a_modality_cannot_be_asked_is_said_in_a_sentence(text: worlds.World) -> None:
    ranked, drawn = ({"edges": SetSpec("general", ("score", way))} for way in ("rank", "draw"))  # type: ignore[arg-type]
    with pytest.raises(UserError, match="this needs items that are ranked for users, which the modality 'text' does not have"):
        observe(text.model(), text.modality, {"edges": FEW}, specs=ranked)
    model = nn.Linear(1, 1)
    model.forward = lambda x: x[:, 0] * model.weight[0, 0]  # type: ignore[method-assign, assignment]
    with pytest.raises(UserError, match="this needs answers in the model's own words, which the modality 'curve' does not have"):
        observe(model, Curves(), {"edges": points(0, 1, 3, 1)}, specs=drawn)
