"""MemoRa: what it regenerates, how the curve is read, and that it tells hiding from forgetting."""

from __future__ import annotations

import copy
from dataclasses import replace
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch

import denoisers
import recalling
import worlds
from expunge.core.plan import Plan
from expunge.engine import adapters
from expunge.engine.weights import weights_of
from expunge.evaluation.attack import AttackOutcome, Try, chosen, intervene
from expunge.evaluation.attacks.memora import CURVE, GUIDED, TOGETHER, CaptionPair, MemoRa, averaged, beside, paired
from expunge.evaluation.steered import Steered
from expunge.methods.terms import NLL
from expunge.modalities.diffusion.libraries import class_of
from expunge.modalities.diffusion.process import process_of

FEW = {
    "steps": 2,
    "lr": 1e-2,
    "batch_size": 2,
    "inversion": 6,
    "start_step": 2,
    "between": 2,
    "guidance": 2.0,
    "looks": (1, 2),
    "pictures": 2,
}
FORGET = denoisers.records(2)[:4]


def memora(**hyperparameters: Any) -> MemoRa:
    attack = chosen(("memora",), {**FEW, **hyperparameters})["memora"]
    assert isinstance(attack, MemoRa)
    return attack


def test_pairs_share_a_caption_where_they_can() -> None:
    captions = ["a", "b", "a", "c", "d"]
    assert paired([0, 1, 2, 3, 4], captions, 3) == [CaptionPair(0, 2), CaptionPair(1, 3)]
    assert paired([4, 2, 1, 0], captions, 1) == [CaptionPair(2, 0)]
    assert paired([3, 4], captions, 1) == [CaptionPair(3, 4)]


def test_regenerates_pictures_from_between_the_inverted_ones() -> None:
    """Without guidance and from a low level, the ends of the arc are nearly the pictures themselves."""
    model, modality = denoisers.built()
    rows = memora(between=3, guidance=1.0, inversion=40, start_step=36).regenerated(model, modality, FORGET[:2])
    assert rows["caption"] == ["a red square"] * 4
    ends = [p.float() for p in (rows["picture"][0], rows["picture"][-1])]
    given = [torch.from_numpy(r["image"]).permute(2, 0, 1).float() for r in FORGET[:2]]
    assert min((ends[0] - g).abs().mean() for g in given) < 8
    assert (ends[0] - ends[1]).abs().mean() > 10
    named = memora(prompt="a red thing").regenerated(model, modality, FORGET)
    assert named["caption"] == ["a red thing"] * 3


def test_the_authors_level_is_one_off() -> None:
    model, modality = denoisers.built()
    a, b = (memora(reference_offset=offset).regenerated(model, modality, FORGET[:2])["picture"] for offset in (False, True))
    assert not torch.equal(torch.stack(list(a)), torch.stack(list(b)))


def test_steering_is_either_model_at_its_ends_bit_for_bit() -> None:
    weak, modality = denoisers.built(0)
    strong, _ = denoisers.built(1)
    strong.text_encoder = weak.text_encoder  # captions are encoded once, for both
    captions, seeds = ["a red bar"], [1]
    for omega, same in ((0.0, weak), (1.0, strong)):
        steered = Steered(weak, strong, omega).eval()
        assert torch.equal(modality.sample(steered, captions, seeds)[0], modality.sample(same, captions, seeds)[0])
    x, times, states = torch.randn(1, 3, 8, 8), torch.tensor([500]), modality.encode(strong, captions)
    far = modality.predict(Steered(weak, strong, 3.0), x, times, states)
    a, b = (modality.predict(m, x, times, states) for m in (weak, strong))
    assert torch.allclose(far, a + 3 * (b - a), atol=1e-5)
    adapted = copy.deepcopy(weak)
    adapters.insert(adapted, (Plan(NLL("forget"), train=memora().how.train),), 0)
    assert torch.equal(modality.predict(adapted, x, times, states), a), "an adapter that is not trained changes nothing"


def test_runs_leaves_the_model_as_it_is_and_looks_where_it_is_told() -> None:
    model, modality = denoisers.built()
    before = worlds.tensors(model)
    outcome = intervene("memora", memora(), model, modality, {"forget": FORGET})
    assert worlds.same(before, worlds.tensors(model))
    assert [(t.way, t.case) for t in outcome.tries] == [("", "0 steps"), ("", "1 steps"), ("", "2 steps"), (GUIDED, "omega 2")]
    assert outcome.tries[0].scores == outcome.before
    assert outcome.tries[1].scores != outcome.before
    assert all(t.at["rows"] == 2 for t in outcome.tries)


def test_several_adapters_are_averaged() -> None:
    """The weights are those of the unlearned model and the sum of all changes, each scaled by 1/n."""
    weak, modality = denoisers.built()
    attack = memora(adapters=3)
    rows = attack.regenerated(weak, modality, FORGET)
    parts = [attack.adapted(weak, modality, rows, seed, worlds.accelerator()) for seed in attack.seeds]
    before, changes = weights_of(weak), [weights_of(p) for p in parts]
    expected = {n: w + sum((c[n] - w) / 3 for c in changes) for n, w in before.items() if w.is_floating_point()}
    together = weights_of(averaged(parts))
    assert any(not torch.equal(changes[0][n], changes[1][n]) for n in expected), "each adapter has a seed of its own"
    assert all(torch.allclose(together[n], w, atol=1e-6) for n, w in expected.items())
    outcome = intervene("memora", memora(adapters=2, looks=(2,)), weak, modality, {"forget": FORGET})
    last = outcome.tries[-1]
    assert (last.way, last.case, last.at["adapters"]) == (TOGETHER, "2 adapters", 2)
    assert last.scores != outcome.tries[1].scores


def test_prompts_alone_and_other_modalities_are_named(text: worlds.World) -> None:
    model, modality = denoisers.built()
    outcome = intervene("memora", memora(), model, modality, {"forget": [{"prompt": "a red bar"}] * 3})
    assert "starts from 2 or more pictures of what was to be forgotten" in outcome.missing[""]
    other = intervene("memora", memora(), text.model(), text.modality, {"forget": [{"question": "Who?", "answer": "Nobody."}] * 2})
    assert "pictures that the model makes out of noise" in other.missing[""]


def scored(way: str, steps: float, value: float) -> Try:
    return Try(way, f"{steps:g} steps", {"forget_fit": {"value": value, "interval": [value, value], "n": 1}}, {"steps": steps, "rows": 2})


@pytest.mark.parametrize(
    ("values", "half", "long_term"), [((0.2, 0.64, 0.64), 10.0, 0.0), ((0.2, 0.3, 0.64), 60.0, 1.0), ((0.2, 0.2, 0.3), None, 1.0)]
)
def test_the_curve_by_hand(values: tuple[float, ...], half: float | None, long_term: float) -> None:
    tries = [scored("", s, v) for s, v in zip((0, 10, 60), values, strict=True)]
    before = {"forget_fit": {"value": 0.2, "interval": [0.2, 0.2], "n": 1}}
    original = {"forget_fit": {"value": 1.0, "interval": [1.0, 1.0], "n": 1}}
    outcome = AttackOutcome("memora", before, [*tries, scored(GUIDED, 60, 0.9)], recovered=0.5, original=original, shows=["forget_fit"])
    (curve,) = beside(outcome, None, None)
    assert curve.way == CURVE
    assert curve.at.get("half_time") == half
    assert curve.at["long_term"] == long_term
    r = [(v - 0.2) / 0.8 for v in values]
    assert curve.at["area"] == pytest.approx(((r[0] + r[1]) / 2 * log(11) + (r[1] + r[2]) / 2 * (log(61) - log(11))) / log(61))
    assert not list(beside(AttackOutcome("memora", before, tries, shows=["forget_fit"]), None, None))


@pytest.mark.slow
def test_what_is_hidden_comes_back_sooner_than_what_was_never_learned() -> None:
    taught = recalling.taught()
    few: dict[str, Any] = {
        "steps": 40,
        "lr": 1e-2,
        "looks": (5, 10, 20, 40),
        "between": 3,
        "inversion": 20,
        "start_step": 6,
        "guidance": 2.0,
    }
    original, hidden, retrained = (taught.attacked("memora", m, **few) for m in (taught.original, taught.hidden, taught.retrained))
    known, before = (o.before["forget_fit"]["value"] for o in (original, hidden))
    assert known - before > 0.05, "the model hides the concept"
    (of_hidden,) = beside(hidden, original, None)
    (of_retrained,) = beside(retrained, original, None)
    assert of_hidden.at["half_time"] <= 20
    assert of_hidden.at["recovered_at_the_end"] > 0.7
    assert of_hidden.at["long_term"] == 0
    assert of_retrained.at["long_term"] == 1
    assert of_hidden.at["area"] > 2 * of_retrained.at["area"]
    assert original.worst("", "forget_fit").scores["forget_fit"]["value"] - known < 0.02, "it teaches the original nothing"


def test_a_model_of_classes_is_attacked_too(tmp_path: Path) -> None:
    from expunge.io.models import load

    opened = load(denoisers.diffusion_transformer(tmp_path))
    rows = [{"image": r["image"].repeat(2, 0).repeat(2, 1), "label": "red"} for r in FORGET[:2]]
    opened.modality.settings = replace(opened.modality.settings, steps=3, evaluated=2)  # type: ignore[attr-defined]
    outcome = intervene("memora", memora(steps=1, looks=(1,)), opened.model, opened.modality, {"forget": rows})
    assert not outcome.missing
    assert [t.case for t in outcome.tries] == ["0 steps", "1 steps", "omega 2"]
    nowhere = intervene("memora", memora(lora_targets="attn9"), opened.model, opened.modality, {"forget": rows})
    assert "this model has no module 'attn9' to give an adapter" in nowhere.missing[""]


def test_flow_matching_is_inverted_too() -> None:
    model, modality = denoisers.built()
    modality.scheduler = class_of("FlowMatchEulerDiscreteScheduler")(shift=2.0)
    modality.process = process_of(modality.scheduler)
    rows = memora(between=1, guidance=1.0, inversion=40, start_step=36).regenerated(model, modality, FORGET[:2])
    given = torch.stack([torch.from_numpy(r["image"]).permute(2, 0, 1).float() for r in FORGET[:2]])
    drawn = torch.stack([p.float() for p in rows["picture"]])
    apart = (drawn[:, None] - given[None]).abs().mean((2, 3, 4))
    assert apart.min(1).values.max() < 8, "each end is one of the pictures"
