"""Protocols of several runs: which run is reported, folds one by one or in sequence, relearning, perplexity under another model, probes."""

from pathlib import Path
from typing import Any

import pytest
import torch

import worlds
from expunge.benchmarks import people
from expunge.benchmarks.suite import SetSpec
from expunge.core.errors import UserError
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.observe import observe
from expunge.io.models import Opened
from expunge.workflows import protocols
from expunge.workflows.protocols import Questions
from spoken import spoken

DATA = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)
SPECS = {"forget": SetSpec("forget"), "retain": SetSpec("retain")}
QUESTIONS = Questions({"forget": DATA.forget, "retain": DATA.retain_audit[:6]}, SPECS)
SCORE = "forget_probability"
GA: dict[str, Any] = {"lr": 1e-3, "batch_size": 9, "schedule": "constant", "warmup": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original of the tiny world, as a folder."""
    world = worlds.text()
    path = tmp_path_factory.mktemp("original")
    world.modality.save(world.model(), path)
    return path


def test_the_first_run_below_the_target_is_reported(folder: Path) -> None:
    chosen = protocols.first_forgotten("ga", folder, DATA.forget, DATA.retain, QUESTIONS, SCORE, 0.5, values=(1, 3, 9), **GA)
    looked = [*chosen.looked_at.values()]
    assert looked[-1] <= 0.5 < min([*looked[:-1], 1.0])
    assert chosen.value == [*chosen.looked_at][-1]
    assert chosen.scores[SCORE] == looked[-1]
    last = protocols.first_forgotten("ga", folder, DATA.forget, DATA.retain, QUESTIONS, SCORE, -1.0, values=(1, 2), **GA)
    assert last.value == 2, "the last one where none is low enough"
    with pytest.raises(UserError, match="no score 'forget_probabilty'; did you mean 'forget_probability'"):
        protocols.first_forgotten("ga", folder, DATA.forget, DATA.retain, QUESTIONS, "forget_probabilty", 0.5, values=(1,), **GA)
    with pytest.raises(UserError, match="no value of epochs to try"):
        protocols.first_forgotten("ga", folder, DATA.forget, DATA.retain, QUESTIONS, SCORE, 0.5, values=(), **GA)


def test_folds_start_from_one_model_or_from_the_one_before(folder: Path) -> None:
    folds = [DATA.forget[:4], DATA.forget[4:]]
    apart = protocols.over_folds("ga", folder, folds, DATA.retain, QUESTIONS, epochs=2, **GA)
    one = protocols.over_folds("ga", folder, folds[1:], DATA.retain, QUESTIONS, epochs=2, **GA)
    assert apart[1] == one[0], "the second request knows nothing of the first"
    in_sequence = protocols.over_folds("ga", folder, folds, DATA.retain, QUESTIONS, in_sequence=True, epochs=2, **GA)
    assert in_sequence[0] == apart[0]
    assert in_sequence[1][SCORE] < apart[1][SCORE], "both requests are forgotten"
    with pytest.raises(UserError, match="no fold"):
        protocols.over_folds("ga", folder, [], DATA.retain, QUESTIONS)


def test_relearning_says_what_share_came_back(folder: Path) -> None:
    base = QUESTIONS.scores(Opened(worlds.text().model(), worlds.text().modality, ""))
    still = protocols.relearned(folder, DATA.forget, QUESTIONS, base, lr=1e-8)
    assert still[SCORE].recovery == pytest.approx(0, abs=1e-3)
    world = worlds.text()
    retrained = folder.parent / "retrained"
    world.modality.save(world.model("retrained"), retrained)
    back = protocols.relearned(retrained, DATA.forget, QUESTIONS, base, lr=5e-3, epochs=15)
    assert back[SCORE].share == pytest.approx((back[SCORE].after - back[SCORE].before) / (base[SCORE] - back[SCORE].before))
    assert back[SCORE].share > 0.5, "trained on the forgotten rows themselves, it knows them again"


def test_perplexity_under_a_model_is_that_of_its_own_log_probabilities() -> None:
    world = worlds.text()
    judge = Opened(world.model(), world.modality, "")
    answered = spoken(["x", "x", "x"], ["was born in the town", " ", "a potter"], ["Who", "What", "It is"])
    values = []
    for prompt, text in (("Who", " was born in the town"), ("It is", " a potter")):
        tokenizer = world.modality.tokenizer
        start, whole = tokenizer(prompt)["input_ids"], tokenizer(prompt + text)["input_ids"]
        assert whole[: len(start)] == start
        with torch.no_grad():
            logp = judge.model(torch.tensor([whole])).logits[0].log_softmax(-1)
        values.append(torch.stack([logp[i - 1, whole[i]] for i in range(len(start), len(whole))]).mean().neg().exp().item())
    assert protocols.perplexity_under(judge, answered) == pytest.approx(sum(values) / 2, rel=1e-4)
    with pytest.raises(UserError, match="generated no answer"):
        protocols.perplexity_under(judge, spoken(["x"], [" "]))


def test_a_probe_reads_what_stands_in_a_hidden_state() -> None:
    """The letter stands in the prompt, so every block can know it; random answers cannot be known."""
    world = worlds.text()
    opened = Opened(world.model(), world.modality, "")
    letters = [" A", " B", " C", " D"]
    telling = [{"prompt": f"Say{letters[i % 4]}", "completion": letters[i % 4], "choices": letters} for i in range(32)]
    assert protocols.probed(opened, telling, layer=0) == 1.0
    with pytest.raises(UserError, match="the layers 0 to 1, and no layer 7"):
        protocols.probed(opened, telling, layer=7)
    with pytest.raises(UserError, match="at least 4 questions"):
        protocols.probed(opened, telling[:3], layer=0)
    with pytest.raises(UserError, match="have the same letter"):
        protocols.probed(opened, [telling[0]] * 8, layer=0)


def test_moments_are_observed_where_a_set_asks_for_them() -> None:
    world, sets = worlds.text(), {"kept": DATA.retain_audit[:2], "plain": DATA.retain_audit[:2]}
    specs = {"kept": SetSpec("retain", ("score", "moments"))}
    wants = ObservationSpec(generations=False, gradient_norms=False)
    observation = observe(world.model(), world.modality, sets, specs=specs, wants=wants)
    assert observation.sets["kept"].kinds["answer"].mean is not None
    assert observation.sets["plain"].kinds["answer"].mean is None


def test_true_tokens_have_the_first_rank_where_the_model_says_them(folder: Path) -> None:
    world = worlds.text()
    known = protocols.ranked(Opened(world.model(), world.modality, ""), DATA.forget)
    unknown = protocols.ranked(Opened(world.model("random"), world.modality, ""), DATA.forget, most=1)
    assert known["mrr"] > 0.95
    assert known["hit_rate"] > 0.95
    assert unknown["mrr"] < 0.2
    assert unknown["hit_rate"] <= unknown["mrr"]
    assert protocols.ranked(Opened(world.model("random"), world.modality, ""), DATA.forget, most=10**6)["hit_rate"] == 1
