"""Searches for prompts of models that draw: what trains, what stays, and that a name learned for a hidden concept brings it back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import denoisers
import recalling
import worlds
from expunge.engine import loop
from expunge.evaluation.attack import AttackOutcome, chosen, intervene
from expunge.evaluation.attacks import relearn
from expunge.evaluation.learned_words import LearnedWords

RECORDS = denoisers.records(2)
SETS = {"forget": RECORDS[:4], "retain": RECORDS[4:]}
NAMES = ("prompt_search", "concept_inversion")
FEW = {"steps": 2, "lr": 0.1, "every": 1}


def attacked(name: str, sets: Any = SETS, **hyperparameters: Any) -> AttackOutcome:
    model, modality = denoisers.built()
    before = worlds.tensors(model)
    outcome = intervene(name, chosen((name,), {**FEW, **hyperparameters})[name], model, modality, sets)
    assert worlds.same(before, worlds.tensors(model))
    return outcome


@pytest.mark.parametrize("name", NAMES)
def test_the_words_train_and_nothing_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []

    def run(plans: Any, model: Any, *others: Any, **options: Any) -> Any:
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        result = loop.run(plans, model, *others, **options)
        runs.append({n for n, p in model.named_parameters() if not torch.equal(p, before[n])})
        return result

    monkeypatch.setattr(relearn, "run", run)
    outcome = attacked(name)
    ways = ["embedding", "tokens"] if name == "prompt_search" else [""]
    assert runs == [{"text_encoder.weights"}] * len(ways)
    assert outcome.ways == ways
    assert [t.case for t in outcome.tries] == ["0 steps", "1 steps", "2 steps"] * len(ways)
    assert outcome.tries[0].scores != outcome.tries[2].scores


def test_an_inversion_begins_with_the_model_as_it_is() -> None:
    outcome = attacked("concept_inversion")
    assert outcome.tries[0].scores["forget_fit"]["value"] == pytest.approx(outcome.before["forget_fit"]["value"], rel=1e-5)
    assert outcome.tries[0].at["rows"] == 4


def test_seeds_decide() -> None:
    model, modality = denoisers.built()  # a tokenizer that is trained anew may number its words in another way
    attacks = [chosen(("prompt_search",), {**FEW, "ways": ("tokens",), "seed": s})["prompt_search"] for s in (0, 0, 1)]
    first, again, other = (intervene("prompt_search", a, model, modality, SETS).tries[-1].scores for a in attacks)
    assert first == again != other


def test_what_cannot_be_searched_is_named(text: worlds.World) -> None:
    for name in NAMES:
        outcome = intervene(
            name, chosen((name,), {})[name], text.model(), text.modality, {"forget": [{"question": "Who?", "answer": "I."}]}
        )
        assert "pictures that the model makes out of noise" in outcome.missing[""]
        assert "starts from 1 pictures" in attacked(name, {"forget": [{"prompt": "a red bar"}]}).missing[""]
    nothing = attacked("concept_inversion", {"forget": [{**RECORDS[0], "caption": c} for c in ("dogs", "cats")]})
    assert "give --concept WORDS" in nothing.missing[""]


def test_a_model_of_classes_reads_no_words(tmp_path: Path) -> None:
    from expunge.io.models import load

    opened = load(denoisers.diffusion_transformer(tmp_path))
    rows = [{"image": RECORDS[0]["image"].repeat(2, 0).repeat(2, 1), "label": "red"}]
    outcome = intervene("prompt_search", chosen(("prompt_search",), {})["prompt_search"], opened.model, opened.modality, {"forget": rows})
    assert "the model reads none: it is given classes" in outcome.missing[""]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_other_words_bring_back_what_is_hidden_behind_one(name: str) -> None:
    """The model draws blue for the word red: what is learned before it, or in its place, is to raise the fit of red pictures again."""
    taught = recalling.taught()
    settings = {"steps": 60, "lr": 0.05, "every": 60}
    settings |= {"embedding_lr": 0.05, "ways": ("embedding",), "pictures": 6} if name == "prompt_search" else {}
    fits = {}
    for model in ("original", "hidden", "retrained"):
        outcome = taught.attacked(name, getattr(taught, model), **settings)
        fits[model] = outcome.before["forget_fit"]["value"], outcome.tries[-1].scores["forget_fit"]["value"]
    assert fits["hidden"][0] < fits["original"][0] - 0.02
    gained = {model: after - before for model, (before, after) in fits.items()}
    assert gained["hidden"] > 0.5 * (fits["original"][0] - fits["hidden"][0])
    assert gained["hidden"] > 2 * gained["retrained"]


def test_learned_words_are_copied_with_the_model() -> None:
    import copy

    model, modality = denoisers.built()
    from expunge.evaluation.prompted_denoisers import tokens_of

    model.text_encoder = LearnedWords(model.text_encoder, tokens_of(modality, ""), 2)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.text_encoder.weights.add_(1)
    assert not torch.equal(modality.encode(model, ["a red bar"]), modality.encode(twin, ["a red bar"]))
