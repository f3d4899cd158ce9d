"""PURGE: rewards by hand, forget terms from the model's own answers, weights of a graph, and what the model says afterwards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import tables
import worlds
from expunge.core.errors import UserError
from expunge.core.rows import Rows, Sets
from expunge.engine import context, loop
from expunge.functional.page_rank import min_max, page_rank, similarity_graph
from expunge.methods.objectives.purge import Mentions, SelfProbe
from expunge.methods.rollouts.names import longest_name, lower_words, most_named
from expunge.workflows import build_plan


def listed(terms: Sequence[str], common: Sequence[str] = ()) -> Rows:
    return Rows("terms", tuple(map(str, range(len(terms)))), {"term": list(terms), "common": [t in common for t in terms]})


def reward(text: str, terms: Sequence[str], common: Sequence[str] = (), weights: Sequence[float] = (), **settings: Any) -> float:
    part, sets = Mentions(**settings), {"terms": listed(terms, common)}
    run = loop.new_state(tables.Table(torch.zeros(1, 1, 2)), tables.TableModality(), worlds.accelerator(), sets=sets)
    run.state = {"/reward": {"weight": torch.tensor(weights, dtype=torch.double)}}
    (value,) = part.score(Rows("x", ("x",), {}), [text], context.RunView(run, sets).at("reward", part))
    return value


KING = ("Carrie", "The Shining")


@pytest.mark.parametrize(
    ("text", "mentions"),
    [("I like carrie.", 1), ("Carrie, Carrie and the shining", 3), ("Carrieson", 0), ("", 0), ("the\nshining", 0), ("carrie_2", 0)],
)
def test_rewards_by_hand(text: str, mentions: int) -> None:
    assert reward(text, KING) == float(mentions == 0)
    assert reward(text, KING, kind="exponential") == pytest.approx(math.exp(-mentions))
    assert reward(text, KING, kind="exponential", tau=2.0) == pytest.approx(math.exp(-mentions / 2))


@pytest.mark.parametrize(
    ("text", "terms", "ours", "released"),
    [
        ("Robert Downey Jr. well", ["Robert Downey Jr."], 0.0, 1.0),
        ("Robert Downey Jr.x", ["Robert Downey Jr."], 1.0, 0.0),
        ("Say (Girls) now", ["(Girls)"], 0.0, 1.0),
        ("and it rains", ["It"], 1.0, 0.0),
        ("It scared me", ["It"], 0.0, 0.0),
        ("\u6211\u559c\u6b22\u5f20\u4f1f\u7684\u4e66", ["\u5f20\u4f1f"], 0.0, 1.0),
    ],
)
def test_terms_are_whole_where_no_letter_touches_them(text: str, terms: list[str], ours: float, released: float) -> None:
    assert reward(text, terms, common=["It"]) == ours
    assert reward(text, terms, common=["It"], released=True) == released


def test_longer_terms_are_matched_first() -> None:
    terms = ["Tower", "The Dark", "The Dark Tower"]
    assert reward("The Dark Tower", terms, kind="exponential") == pytest.approx(math.exp(-1))
    assert reward("The Dark Tower", terms, kind="exponential", released=True) == pytest.approx(math.exp(-2))


def test_in_a_graph_nested_terms_pay_both_and_repeats_once() -> None:
    terms, weights = ["The Dark Tower", "The Dark", "Carrie"], [0.25, 0.5, 1.0]
    value = {
        text: reward(text, terms, weights=weights, kind="graph") for text in ("the dark tower", "The Dark, the dark", "Carrie The Dark", "")
    }
    assert list(value.values()) == [0.25, 0.5, 0.0, 1.0]


@pytest.mark.parametrize(("text", "value"), [("", 0.0), ("no", 0.0), ("a b a b a b", 0.0), ("a b c d", 1.0), ("Carrie came in", 0.0)])
def test_a_floor_of_fluency_pays_nothing_for_saying_nothing(text: str, value: float) -> None:
    assert reward(text, KING, fluency=0.5) == value


def test_names_are_words_with_capitals_that_a_sentence_does_not_give() -> None:
    texts = ["What did J.K. Rowling write?", "Ron Weasley likes chess. Chess is old. The Duke of Sussex, Hermione's friend, is 40."]
    assert [name for name, _ in most_named(texts)] == ["Duke of Sussex", "J.K. Rowling", "Ron Weasley", "Hermione"]
    assert longest_name("Where was Quenna Bexmoor born?", lower_words([])) == "Quenna Bexmoor"
    assert longest_name("Where was she born?") == ""


def probe(text: worlds.World, **settings: Any) -> Sets:
    part, run = SelfProbe(**settings), loop.new_state(text.model(), text.modality, worlds.accelerator())
    return part.pick({"forget": text.sets["forget"]}, context.RunView(run, text.sets).at("select0", part))


def test_the_terms_are_names_that_the_model_tells(text: worlds.World) -> None:
    picked = probe(text, raw=False, heat=0.1)
    terms = picked["terms"]["term"]
    assert terms[0] == "Quenna Bexmoor", "the target, which most questions name"
    assert "Pellgrove" in terms, "where she was born, which two answers say"
    assert not {"The", "What", "Which"} & set(terms)
    assert probe(text, raw=False, heat=0.1, count=2)["terms"]["term"] == terms[:2]


def test_prompts_are_the_first_questions_without_a_format(text: worlds.World) -> None:
    rows = probe(text, prompts=3)["forget"]
    questions = text.modality.questions(text.sets["forget"])[:3]
    assert rows["prompt"] == [text.modality.tokenizer(q)["input_ids"] for q in questions]
    formatted = probe(text, prompts=2, raw=False)["forget"]
    assert formatted["prompt"] == text.sets["forget"]["prompt"][:2]


def test_a_list_of_terms_replaces_those_of_the_model(text: worlds.World, tmp_path: Path) -> None:
    file = tmp_path / "terms.txt"
    file.write_text("Stephen King\n\nCarrie \nStephen King\nwhat\n")
    terms = probe(text, prompts=1, length=1, terms=str(file))["terms"]
    assert terms["term"] == ["Stephen King", "Carrie", "what"]
    file.write_text("\n")
    with pytest.raises(UserError, match="holds no terms"):
        probe(text, prompts=1, length=1, terms=str(file))
    with pytest.raises(UserError, match="cannot be read: No such file"):
        probe(text, prompts=1, length=1, terms=str(tmp_path / "none"))


def test_answers_without_names_are_refused(text: worlds.World) -> None:
    with pytest.raises(UserError, match="give a file with --terms"):
        SelfProbe()._names(["who are you?"], ["who are you?\nnobody"])


def test_weights_of_the_graph_come_from_the_last_hidden_states(text: worlds.World) -> None:
    terms, part = ["Quenna Bexmoor", "Pellgrove", "The Iron Harbour", "nurse"], Mentions("graph")
    sets = {"terms": listed(terms)}
    run = loop.new_state(text.model(), text.modality, worlds.accelerator(), sets=sets)
    weight = part.begin(context.RunView(run, sets).at("reward", part))["weight"]
    vectors = []
    for term in terms:
        ids = torch.tensor([text.modality.tokenizer(term)["input_ids"]])
        with torch.no_grad():
            vectors.append(text.model()(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].mean(0))
    expected = min_max(page_rank(similarity_graph(torch.stack(vectors))))
    assert torch.allclose(weight, expected, atol=1e-9)
    run.sets = {"terms": listed(["Quenna Bexmoor"])}
    with pytest.raises(UserError, match="all have the same weight"):
        part.begin(context.RunView(run, run.sets).at("reward", part))


def test_defaults_are_those_of_the_paper() -> None:
    (plan,) = build_plan.plan("purge")
    rollouts = plan.selectors[1]
    assert (plan.train.epochs, plan.train.batch_size, plan.train.lr, plan.train.schedule, plan.train.warmup) == (40, 4, 1e-6, "linear", 0)
    assert (rollouts.samples, rollouts.length, rollouts.eps, rollouts.piece, rollouts.mixed) == (4, 256, 1e-4, 2, True)
    assert [t.weight for t in plan.terms()] == [1.0, 0.04]
    assert build_plan.plan("purge", {"reward": "exponential"})[0].train.epochs == 15
    assert build_plan.plan("purge", {"reward": "graph"})[0].train.batch_size == 16


@pytest.mark.slow
def test_the_model_ceases_to_name_what_it_is_made_to_forget(text: worlds.World) -> None:
    settings = {"reward": "exponential", "raw": False, "epochs": 15, "lr": 1e-3, "batch_size": 9}
    sampling = {"self_probe.heat": 0.1, "rollouts.length": 16, "rollouts.heat": 1.5, "rollouts.samples": 6}
    model = text.model()
    run = loop.run(build_plan.plan("purge", {**settings, **sampling}), model, text.modality, text.sets)
    rewards = [record["reward"] for record in run.shown["sampled answers by step"]]
    assert rewards[0] < 0.8
    assert rewards[-1] > 0.97

    def name_count(of: torch.nn.Module) -> int:
        return sum("Quenna Bexmoor" in answer for answer in text.modality.decode(text.modality.generate(of, text.sets["forget"], 24).ids))

    assert name_count(text.model()) == 9
    assert name_count(model) <= 4
    assert worlds.nll(model, text.modality, text.sets["retain"]) < worlds.nll(text.model(), text.modality, text.sets["retain"]) + 0.2
