"""Knowledge holes: the two scales, novelty and diversity by their laws, a planted hole, and equal models without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import worlds
from expunge.benchmarks import people
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.engine import loop
from expunge.engine.decorated import Decorated
from expunge.engine.writers import Rules
from expunge.evaluation.attack import AttackOutcome, chosen, intervene
from expunge.evaluation.attacks.knowledge_holes import HoleReward, Search
from expunge.evaluation.hole_judges import RuleJudge, WrittenJudge, badness_of, reads_well
from expunge.evaluation.hole_mending import EarlierKL
from expunge.functional.novelty import ORDERS, bleu, diversity, meaning_novelty, vendi, word_novelty

DATA = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)
SETS = {"forget": DATA.forget[:3], "retain": DATA.retain[:8]}
QUICK = {"terms": 2, "samples": 2, "batch": 2, "steps": 2, "length": 8, "limit": 12, "worst": 1}


def attacked(text: worlds.World, model: Any, **settings: object) -> AttackOutcome:
    return intervene("knowledge_holes", chosen(("knowledge_holes",), {**QUICK, **settings})["knowledge_holes"], model, text.modality, SETS)


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> str:
    world, folder = worlds.text(), tmp_path_factory.mktemp("original")
    world.modality.save(world.model(), folder)
    return str(folder)


# scales


def test_validity_comes_first_and_the_rating_is_turned() -> None:
    assert [badness_of(False, 0), badness_of(True, 0), badness_of(True, 7), badness_of(True, 10)] == [0, 10, 3, 0]
    judge = RuleJudge()
    question = "Where does Ada Lund live?"
    assert judge.badness([question, "of of of", question], ["xx yy", "xx", "in Lund"], ["in Lund"] * 3) == [10, 0, 0]
    assert judge.grades([question] * 3, ["in Lund", "in Oslo", "xx"], ["in Lund"] * 3) == [10, 1 + round(4.5), 1]
    assert [reads_well(q) for q in ("What is Lund?", "Tell me about Lund", "Lund", "is is is is is", "green idea sleeps")] == [
        True,
        True,
        False,
        False,
        False,
    ]


def test_a_writer_judges_on_its_own_scale() -> None:
    def reply(prompt: str) -> str:
        if "understandable request" in prompt:
            return json.dumps({"valid": "Lund" in prompt})
        return json.dumps({"rating": 7, "grade": 4, "supports": True})

    judge = WrittenJudge(Rules("stub", reply))
    assert judge.badness(["What is Lund?", "xx"], ["a", "b"], ["", ""]) == [3, 0]
    assert judge.grades(["What is Lund?"], ["a"], [""]) == [4]
    assert judge.supported(["What is Lund?"], ["Lund is a town."]) == [True]


# novelty and diversity


def test_novelty_by_the_released_class() -> None:
    history = [["what", "is", "the", "boiling", "point", "of", "water", "at", "sea", "level"]]
    question = ["iron" if w == "water" else w for w in history[0]]
    assert [bleu(question, history, n) for n in ORDERS] == pytest.approx([0.83666, 0.75915, 0.65804, 0.57435], abs=1e-5)
    assert word_novelty(question, history) == pytest.approx(-0.70705, abs=1e-5)
    assert word_novelty(history[0], history) == pytest.approx(-1)
    assert (word_novelty(question, []), meaning_novelty(torch.zeros(0))) == (0, 0)
    assert meaning_novelty(torch.tensor([1.0])) == -1


def test_diversity_by_its_laws() -> None:
    assert vendi(torch.ones(5, 5)) == pytest.approx(1 / 5)
    assert vendi(torch.eye(5)) == pytest.approx(1)
    same = ["what", "is", "the", "town", "of", "ada", "lund"]
    assert diversity([same, same]) == pytest.approx(0)


# the search


class Noisy(Decorated):
    """Says noise to every question with a secret word, and is the model to all others."""

    secret = "known"

    def generate(self, model: Any, rows: Any, limit: int, *rest: Any, **named: Any) -> Any:
        """The model's answers, with noise in place of some."""
        samples = self.inner.generate(model, rows, limit, *rest, **named)  # type: ignore[attr-defined]
        noise = self.inner.tokenizer("zq zq zq", add_special_tokens=False)["input_ids"]  # type: ignore[attr-defined]
        asked = self.inner.questions(rows)  # type: ignore[attr-defined]
        samples.ids[:] = [noise if self.secret in q else ids for q, ids in zip(asked, samples.ids, strict=True)]
        return samples


def test_a_planted_hole_is_seen_and_equal_models_have_none(text: worlds.World, original: str) -> None:
    model = text.model()
    equal = attacked(text, model, before=original, steps=0)
    holed = intervene(
        "knowledge_holes",
        chosen(("knowledge_holes",), {**QUICK, "before": original, "steps": 0})["knowledge_holes"],
        model,
        Noisy(text.modality),
        SETS,
    )
    (same,), (hole,) = equal.tries, holed.tries
    assert (same.way, same.at["grade"], same.at["grade_before"], same.at["useless"]) == ("adjacent", 10, 10, 0)
    assert hole.at["grade"] < 10 == hole.at["grade_before"]
    assert hole.at["useless"] > 0
    assert same.at["questions"] <= same.at["generated"]


def test_training_on_earlier_answers_mends_a_planted_hole(text: worlds.World, original: str) -> None:
    """Random weights answer nothing; trained on what the original says to the same questions they do."""
    outcome = attacked(text, text.model("random"), before=original, steps=0, mend=60, mend_lr=5e-3)
    hole, mended, forgotten = outcome.tries
    assert [t.way for t in outcome.tries] == ["adjacent", "mended", "mended"]
    assert mended.at["questions"] == hole.at["questions"]
    assert mended.at["grade"] > hole.at["grade"] + 2
    assert forgotten.case == "rows to forget"
    assert forgotten.scores
    assert "mended" not in {t.way for t in attacked(text, text.model("random"), before=original, steps=0).tries}


def test_the_kl_of_mending_by_hand(text: worlds.World) -> None:
    """0 and no gradient at the earlier model; elsewhere the KL of the earlier probabilities, averaged over the labels."""
    world, rows = text, text.sets["retain"].select(range(4))
    model, earlier = world.model("random"), world.model()
    before = worlds.tensors(earlier)
    train = Train(epochs=0, steps=1, lr=1e-9, batch_size=4, anchor="retain", schedule="constant", warmup=0)
    with torch.no_grad():
        ours, theirs = (world.modality.forward(m.eval(), [rows])[0].log_probs.values for m in (model, earlier))
    expected = float((theirs.exp() * (theirs - ours)).sum(-1).mean())
    losses = [
        loop.run((Plan(EarlierKL("retain", m), train=train),), world.model("random"), world.modality, {"retain": rows}).log[0]["loss"]
        for m in (earlier, world.model("random"))
    ]
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    assert losses[1] == pytest.approx(0, abs=1e-5)
    assert worlds.same(before, worlds.tensors(earlier)), "the earlier model stays as it is"


def test_mending_by_kl_brings_probabilities_near_the_earlier_ones(text: worlds.World, original: str) -> None:
    outcome = attacked(text, text.model("random"), before=original, steps=0, mend=60, mend_lr=5e-3, mend_by="kl")
    hole, trained, _ = outcome.tries
    assert trained.at["grade"] > hole.at["grade"] + 2


def test_unlearning_again_keeps_the_holes(text: worlds.World, original: str) -> None:
    """Fine-tuning on what is kept, in place of unlearning: the questions are answered as before, round after round."""
    again = "finetune lr=1e-3 epochs=20 batch_size=8"
    outcome = attacked(text, text.model("random"), before=original, steps=0, again=again, rounds=2, mix=(0, 50, 0))
    hole, *rounds = outcome.tries
    assert [t.way for t in rounds] == ["round 1", "round 1", "round 2", "round 2"]
    assert [t.case for t in rounds] == ["", "rows to forget", "", "rows to forget"]
    assert min(t.at["grade"] for t in rounds[::2]) >= 9 > hole.at["grade"]
    assert rounds[0].at["questions"] == hole.at["questions"]
    assert rounds[1].scores


def test_methods_that_unlearn_again_are_checked_at_once(text: worlds.World, original: str) -> None:
    for given, complaint in {"npq": "no method|npo", "npo lr": "has no value", "npo rate=1": "no hyperparameter 'rate'"}.items():
        with pytest.raises(UserError, match=complaint):
            attacked(text, text.model(), before=original, steps=0, again=given)
    lacking = attacked(text, text.model(), steps=0, again="npo", writer="")
    assert "give --before MODEL" in lacking.missing[""]


def test_the_reward_is_badness_plus_novelty_and_every_question_is_kept(text: worlds.World) -> None:
    world = text
    search = Search(world.model(), Noisy(world.modality), RuleJudge(), (world.model(), world.modality), 12)
    reward = HoleReward(search)
    first = reward.score(None, ["What is Lund known for?", "aa"], None)  # type: ignore[arg-type]
    assert first == pytest.approx([10, -2])
    assert list(search.questions) == ["What is Lund known for?", "aa"]
    again = reward.score(None, ["What is Lund known for?"], None)  # type: ignore[arg-type]
    assert again[0] < first[0], "it is no longer new"


@pytest.mark.slow
def test_the_search_trains_a_policy_and_leaves_the_models_as_they_are(text: worlds.World, original: str) -> None:
    model = text.model("retrained")
    weights = worlds.tensors(model)
    outcome = attacked(text, model, before=original)
    assert worlds.same(weights, worlds.tensors(model))
    assert "adjacent" in {t.way for t in outcome.tries} | set(outcome.missing)
    assert "latent" in {t.way for t in outcome.tries} | set(outcome.missing)
    again = attacked(text, model, before=original)
    assert [t.at for t in again.tries] == [t.at for t in outcome.tries]


def test_without_a_yardstick_it_says_what_is_missing(text: worlds.World, tmp_path: Path) -> None:
    assert "give --before MODEL" in attacked(text, text.model()).missing[""]
