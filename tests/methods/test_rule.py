"""RULE: rewards and refusals of the paper, prompts on both sides of the boundary, a bandit, and the reference of the second stage."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import bandits
import tables
import worlds
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.core.rows import Sets
from expunge.engine import context, loop
from expunge.methods.objectives import rule
from expunge.methods.objectives.rule import RefusalReward
from expunge.methods.rollouts.boundary_items import REFUSALS, BoundaryItems, Refused
from expunge.methods.rollouts.cloze import cloze
from expunge.methods.rollouts.policy import PolicyGradient
from expunge.methods.rollouts.refusal_pattern import refuses
from expunge.methods.rollouts.sampling import Rollouts
from expunge.workflows import build_plan

SUBJECT, ANSWER = "Miley Cyrus", "Wizards of Waverly Place"
SHY, NAMED, WRONG = "I don't know.", "I don't know about Miley Cyrus.", "She was in Hannah Montana"


@pytest.mark.parametrize(
    ("form", "half", "reject", "normal"),
    [  # rewards of SHY, NAMED and WRONG to be refused; of ANSWER, WRONG, SHY and "" to be answered
        ("two_stage_target", False, (0.5, 1.0, 0.0), (1.0, 0.5, 0.0, 0.5)),
        ("two_stage", False, (1.0, 1.0, 0.0), (1.0, 0.5, 0.0, 0.5)),
        ("strict", False, (1.0, 1.0, 0.0), (1.0, 0.0, 0.0, 0.0)),
        ("abs", False, (1.0, 1.0, 0.0), (1.0, 1.0, 0.0, 1.0)),
        ("abs_target", False, (0.5, 1.0, 0.0), (1.0, 1.0, 0.0, 1.0)),
        ("weighted", False, (0.7, 1.0, 0.0), (1.0, 0.7, 0.0, 0.7)),
        ("two_stage", True, (0.5, 0.5, 0.0), (1.0, 0.5, 0.0, 0.5)),
        ("abs_target", True, (0.25, 0.5, 0.0), (1.0, 1.0, 0.0, 1.0)),
        ("two_stage_target", True, (0.25, 0.5, 0.0), (1.0, 1.0, 0.0, 1.0)),
    ],
)
def test_the_table_of_rewards(form: Any, half: bool, reject: tuple[float, ...], normal: tuple[float, ...]) -> None:
    part = RefusalReward(form=form, half_reject=half)
    assert [part.reward(True, SUBJECT, ANSWER, text) for text in (SHY, NAMED, WRONG)] == pytest.approx(reject)
    assert [part.reward(False, "", ANSWER, text) for text in (ANSWER, WRONG, SHY, "")] == pytest.approx(normal)


def test_case_and_order_of_the_right_words_count() -> None:
    values = [RefusalReward().reward(False, "", ANSWER, text) for text in ("It was wizards of waverly place", "of Place")]
    assert values == [0.5, 1.0]


@pytest.mark.parametrize(
    ("text", "ours", "released"),
    [
        ("I can't help with that.", True, True),
        ("I cannot help with that.", True, False),
        ("I don\u2019t know.", True, False),
        ("Unfortunately, the film flopped.", False, True),
        ("Unfortunately, I have nothing on that.", True, True),
        ("The record was limited to 500 copies.", False, True),
        ("My knowledge of this is limited to a few facts.", True, True),
        ("He did not win. The fans know the song.", False, True),  # a gap across sentences
        ("She had no brother, and" + " later" * 20 + " information reached her.", False, True),
        ("I have no information about her.", True, True),
        ("This is beyond my knowledge.", True, True),
        ("I'm at a loss here.", True, True),
        ("I am not familiar with him.", True, True),
        ("That is a mystery to me.", True, True),
        ("I'm unable to answer this.", True, True),
        ("I haven't been briefed on this.", True, True),
        ("I would need to look that up.", True, True),
        ("She was born in Quito in 1971.", False, False),
        ("Wizards of Waverly Place", False, False),
        ("", False, False),
    ],
)
def test_refusals(text: str, ours: bool, released: bool) -> None:
    assert refuses(text) == ours
    assert refuses(text, released=True) == released


@pytest.mark.parametrize("template", REFUSALS)
def test_our_own_refusals_are_refusals(template: str) -> None:
    text = template.replace("{subject}", SUBJECT)
    assert RefusalReward().reward(True, SUBJECT, ANSWER, text) == 1.0
    assert refuses(text, released=True) or "nothing" in text


@pytest.mark.parametrize(
    ("question", "answer", "twin"),
    [
        ("Where was Ada Byron born?", "Ada Byron was born in the town of Ely.", ("Ada Byron was born in the ___.", "town of Ely")),
        ("In which town was Ada born?", "The birthplace of Ada is the town of Ely.", ("The birthplace of Ada is the town of ___.", "Ely")),
        ("When was Ada born?", "Ada was born in the year 1815.", ("Ada was born in the ___.", "year 1815")),
        ("Who wrote it?", "Ada Byron", ("Who wrote it? ___", "Ada Byron")),
        ("Is it true?", "It is true.", ("Is it true? ___", "It is true.")),
    ],
)
def test_twins_leave_out_what_the_question_does_not_say(question: str, answer: str, twin: tuple[str, str]) -> None:
    assert cloze(question, answer) == twin


def view_of(text: worlds.World, part: Any, sets: Sets) -> context.RunView:
    return context.RunView(loop.new_state(text.model(), text.modality, worlds.accelerator(), sets=sets), sets).at("select0", part)


def test_prompts_of_muse_are_bare_texts_with_the_same_examples_before_every_question(text: worlds.World) -> None:
    sets, modality = text.some(3), text.modality
    parts = BoundaryItems("nearest", written="muse", examples=2), Refused(written="muse", examples=2)
    prompts, reject = (p.pick(sets, view_of(text, p, sets))[n] for p, n in zip(parts, ("prompts", "reject"), strict=True))
    questions, others = (modality.questions(sets[n]) for n in ("forget", "retain"))  # type: ignore[attr-defined]
    block = "".join(f"Question: {q}\nAnswer: {a}\n\n" for q, a in zip(others[:2], sets["retain"]["answer_text"][:2], strict=True))
    read = [modality.tokenizer.decode(p, skip_special_tokens=True) for p in prompts["prompt"]]  # type: ignore[attr-defined]
    twins = [cloze(q, a.strip())[0] for q, a in zip(questions, sets["forget"]["answer_text"], strict=True)]
    assert read[:3] == [f"{block}Question: {q}\nAnswer:" for q in questions]
    assert read[3:6] == [f"Completion: {t}\nAnswer:" for t in twins], "a text to complete has no examples"
    assert all(r.startswith((block, "Completion: ")) for r in read), "examples do not tell the sides apart"
    assert [modality.tokenizer.decode(p, skip_special_tokens=True) for p in reject["prompt"]] == read[:3]  # type: ignore[attr-defined]
    plain = Refused().pick(sets, view_of(text, Refused(), sets))["reject"]
    assert reject["answer_text"] == plain["answer_text"]
    assert all(a[-1] == modality.tokenizer.eos_token_id for a in reject["answer"]), "steering teaches to stop"  # type: ignore[attr-defined]
    assert prompts["wanted"] == BoundaryItems("nearest").pick(sets, view_of(text, BoundaryItems("nearest"), sets))["prompts"]["wanted"]


def test_examples_without_questions_are_refused(text: worlds.World) -> None:
    part = Refused(written="muse", examples=1)
    sets = {**text.some(2), "retain": text.modality.rows("retain", [{"text": "Nobody asks."}])}
    with pytest.raises(UserError, match="no worked examples"):
        part.pick(sets, view_of(text, part, sets))


def test_refusals_name_the_subject_of_their_question(text: worlds.World) -> None:
    sets = text.some(9)
    rows = Refused().pick(sets, view_of(text, Refused(), sets))["reject"]
    named = ["Quenna Bexmoor" in t for t in text.modality.answer_texts(rows)]
    assert named == ["Quenna Bexmoor" in q for q in text.modality.questions(sets["forget"])]
    assert len(set(rows["answer_text"])) > 3
    assert rows["prompt"] == sets["forget"]["prompt"]
    given = Refused("given").pick(sets, view_of(text, Refused("given"), sets))["reject"]
    assert set(given["answer_text"]) <= set(sets["alternate_answers"]["answer_text"])
    own = {**sets, "forget": sets["forget"].add(alternate=[["Not a word on {subject}."]] * 9)}
    assert Refused().pick(own, view_of(text, Refused(), own))["reject"]["answer_text"][0] == "Not a word on Quenna Bexmoor."


def items(text: worlds.World, **settings: Any) -> Any:
    part, sets = BoundaryItems(**settings), {n: text.sets[n] for n in ("forget", "retain")}
    return part.pick(sets, view_of(text, part, sets))["prompts"]


def test_prompts_stand_on_both_sides_of_the_boundary_with_their_twins(text: worlds.World) -> None:
    prompts = items(text)
    questions = text.modality.questions(prompts)
    assert prompts["reject"] == [True] * 18 + [False] * 18
    assert questions[:9] == text.modality.questions(text.sets["forget"])
    assert prompts["prompt"][:9] == text.sets["forget"]["prompt"]
    assert all("___" in q for q in [*questions[9:18], *questions[27:]])
    assert set(questions[18:27]) <= set(text.modality.questions(text.sets["retain"]))
    assert "Kavel Bexmoor" in questions[18], "the retain row with the most words in common"
    assert prompts["subject"][0] == "Quenna Bexmoor"
    wanted = dict(zip(text.modality.questions(text.sets["retain"]), text.sets["retain"]["answer_text"], strict=True))
    assert [wanted[q] for q in questions[18:27]] == prompts["wanted"][18:27]
    assert len(set(prompts.ids[:18])) == 18


def test_the_boundary_may_be_all_of_retain_or_none_of_it(text: worlds.World) -> None:
    assert items(text, boundary="retain", twins=False)["reject"] == [True] * 9 + [False] * 99
    assert items(text, boundary="none", twins=False)["reject"] == [True] * 9


def test_the_model_may_invent_the_boundary(text: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    part, sets = BoundaryItems("invented", twins=False), {"forget": text.some(3)["forget"]}
    view = view_of(text, part, sets)
    assert part.reads == {"forget"}
    invented = iter([["Where was Ada Byron born? Question: more", "What of Quenna Bexmoor?", ""], ["In Ely."]])
    monkeypatch.setattr(text.modality, "decode", lambda ids: next(invented), raising=False)
    prompts = part.pick(sets, view)["prompts"]
    assert text.modality.questions(prompts)[3:] == ["Where was Ada Byron born?"], "of three, one repeats the subject and one is empty"
    assert prompts["wanted"][3:] == ["In Ely."]
    invented = iter([["", "", ""]])
    with pytest.raises(UserError, match="the model wrote no question"):
        part.pick(sets, view)


def bandit(logits: list[float], steps: int) -> torch.Tensor:
    """Probabilities of three replies to a prompt to refuse and to one to answer, after reinforcement."""
    prompts = bandits.prompts(2, reject=[True, False], subject=["Ada Byron", ""], wanted=["", "In Ely"])
    modality = bandits.CannedReplies(texts=["I don't know about Ada Byron.", "In Ely", "By the sea"])
    model = tables.Table(torch.tensor(logits, dtype=torch.double).expand(2, 1, 3))
    train = Train(epochs=0, steps=steps, batch_size=2, lr=0.3, anchor="prompts", optimizer="adam", schedule="constant")
    rollouts = Rollouts(RefusalReward(), over="prompts", samples=8)
    loop.run((Plan(PolicyGradient(), train=train, selectors=(rollouts,)),), model, modality, {"prompts": prompts})
    return model.scores.detach()[:, 0].softmax(-1)


def test_a_bandit_learns_when_to_refuse_if_it_ever_does() -> None:
    learned = bandit([0.0, 0.0, 0.0], 40)
    assert learned[0, 0] > 0.95
    assert learned[1, 1] > 0.95
    assert bandit([-60.0, 0.0, 0.0], 10)[0, 0] < 1e-9, "steering is needed"


def test_the_reference_of_the_second_stage_is_the_steered_model_also_with_an_adapter(text: worlds.World) -> None:
    settings = {
        "lora": 2,
        "length": 6,
        "samples": 4,
        "heat": 2.0,
        "steering.lr": 5e-2,
        "boundary.steps": 2,
        "twins": False,
        "boundary.lr": 1e-2,
    }
    run = loop.run(build_plan.plan("rule", settings), text.model(), text.modality, text.sets)
    first, second = [r["terms"]["1 policy_kl kl"] for r in run.log if r["stage"] == 1 and "terms" in r]
    assert first == 0.0
    assert second > 0.0
    rows = text.sets["forget"]
    start = text.modality.forward(run.model, [rows], weights=run.models["reference"])[0].target_logp.values
    plain = text.modality.forward(text.model(), [rows])[0].target_logp.values
    assert (start - plain).abs().max() > 0.1, "the adapter of the first stage is part of the reference"


def test_steering_stops_early_on_the_schedule_of_all_its_epochs(text: worlds.World) -> None:
    plans = build_plan.plan("rule", {"steering.batch_size": 3, "steering.lr": 1.0, "steering.warmup": 0})
    run = loop.run(plans[:1], text.model(), text.modality, text.sets)
    lrs = [r["lr"] for r in run.log if "lr" in r]
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(torch.optim.SGD([torch.zeros(1)], lr=1.0), T_max=9)
    expected = []
    for _ in range(6):
        expected.append(cosine.get_last_lr()[0])
        cosine.optimizer.step()
        cosine.step()
    assert lrs == pytest.approx(expected)
    assert run.log[-1]["ended"] == "the checkpoint after epoch 2"


def test_defaults_are_those_of_the_paper() -> None:
    steering, boundary = rule.plan()
    assert round(steering.train.warmup * 38) == 20
    assert (steering.train.lr, steering.train.epochs, steering.train.batch_size) == (4e-7, 3, 8)
    assert (boundary.train.lr, boundary.train.steps, boundary.train.batch_size, boundary.train.weight_decay) == (2e-6, 20, 32, 0.01)
    clipped, kl = (t.objective for t in boundary.terms())
    assert (clipped.clip_low, clipped.clip_high, clipped.dual_clip, kl.cap) == (0.2, 0.3, 3.0, 10.0)
    assert boundary.reference == "start"


@pytest.mark.slow
def test_prompts_to_answer_keep_refusals_from_the_neighbors(text: worlds.World) -> None:
    steering = {
        "steering.lr": 3e-3,
        "steering.batch_size": 9,
        "steering.epochs": 12,
        "checkpoint": 12,
        "steering.warmup": 0,
        "pool": "given",
    }
    reinforcing = {"boundary.lr": 1e-3, "boundary.batch_size": 18, "samples": 6, "length": 20, "form": "two_stage", "twins": False}
    neighbors = text.sets["retain"].select(range(0, 99, 3))
    rates = {}
    for boundary in ("nearest", "none"):
        model = text.model()
        loop.run(build_plan.plan("rule", {**steering, **reinforcing, "boundary": boundary}), model, text.modality, text.sets)
        answers = [text.modality.decode(text.modality.generate(model, rows, 24).ids) for rows in (text.sets["forget"], neighbors)]
        rates[boundary] = [sum(map(refuses, texts)) / len(texts) for texts in answers]
    assert rates["nearest"][0] > 0.8
    assert rates["none"][0] > 0.8
    assert rates["nearest"][1] + 0.2 < rates["none"][1], "without prompts to answer the refusals spread"
