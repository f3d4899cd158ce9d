"""Extraction, multi-turn and jailbreak: the library's own generation and gradients, draws that add up, and models that only refuse."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import worlds
from cases import Cases, expunge
from classified import digits as images
from expunge.benchmarks import people
from expunge.engine.estimators.token_gradients import token_gradients
from expunge.evaluation.attack import AttackOutcome, chosen, intervene
from expunge.evaluation.attacks.jailbreak import TEMPLATES, Suffixed, ending
from expunge.evaluation.attacks.multi_turn import WAYS, conversation_rows
from expunge.evaluation.generated import answers, most_of
from expunge.evaluation.metrics.tofu import rouge
from expunge.evaluation.token_search import TokenSearch, losses_of, ordinary

DATA = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)
SETS = {"forget": DATA.forget, "retain": DATA.retain}


def attacked(
    name: str, text: worlds.World, model: nn.Module | str = "original", modality: object = None, **settings: object
) -> AttackOutcome:
    model = text.model(model) if isinstance(model, str) else model
    return intervene(name, chosen((name,), settings)[name], model, modality or text.modality, SETS)  # type: ignore[arg-type]


def values(outcome: AttackOutcome, way: str, score: str = "forget_rouge") -> list[float]:
    return [t.scores[score]["value"] for t in outcome.tries if t.way == way]


# answers


def test_answers_come_by_draw_and_the_greedy_one_is_the_library_s(text: worlds.World) -> None:
    model, rows = text.model(), text.sets["forget"].select([0, 4])
    drawn = answers(model, text.modality, rows, 12, draws=3, seed=1)
    assert [len(texts) for texts in drawn] == [2, 2, 2]
    assert drawn == answers(model, text.modality, rows, 12, draws=3, seed=1)
    (greedy,) = answers(model, text.modality, rows, 12)
    for prompt, ours in zip(rows["prompt"], greedy, strict=True):
        ids = model.generate(torch.tensor([list(prompt)]), do_sample=False, max_new_tokens=12, pad_token_id=0, eos_token_id=2)
        assert text.modality.tokenizer.decode(ids[0, len(prompt) :], skip_special_tokens=True).strip() == ours  # type: ignore[attr-defined]


def test_the_best_of_several_draws_by_row() -> None:
    true = ["Ada lives in Lund", "Bo plays the lute"]
    assert most_of(true, [("no", "Bo plays"), ("in Lund", "Bo"), ("Ada", "")]) == ("in Lund", "Bo plays")


# extraction


def test_more_draws_give_more_and_beams_are_the_library_s(text: worlds.World) -> None:
    model = text.model("retrained")
    outcome = attacked("extraction", text, model, draws="1,2,6", beams=2, beginnings="0.5")
    drawn = values(outcome, "sampled")
    assert drawn == sorted(drawn)
    assert drawn[0] < drawn[-1]
    assert [t.at["queries"] for t in outcome.tries][:3] == [1, 2, 6]
    rows, texts = text.modality.rows("forget", DATA.forget), []
    for prompt in rows["prompt"]:
        settings = {"do_sample": False, "num_beams": 2, "max_new_tokens": 60, "pad_token_id": 0, "eos_token_id": 2, "length_penalty": 0.0}
        ids = model.generate(torch.tensor([list(prompt)]), **settings)[0, len(prompt) :]
        texts.append(text.modality.tokenizer.decode(ids, skip_special_tokens=True))  # type: ignore[attr-defined]
    assert values(outcome, "beams")[0] == pytest.approx(rouge([r["answer"] for r in DATA.forget], texts).mean(), abs=0.02)
    assert outcome.lead == "forget_rouge"


def test_knowledge_is_extracted_and_ignorance_is_not(text: worlds.World) -> None:
    known, unknown = (attacked("extraction", text, n, draws="4", beams=0, beginnings="0.5") for n in ("original", "retrained"))
    for way in ("sampled", "beginnings"):
        assert values(known, way)[0] > values(unknown, way)[0] + 0.2
    (hit,) = [h for h in known.hits(unknown) if "sampled" in h.attack]
    assert hit.record["retrained"] == values(unknown, "sampled")[0]


def test_any_set_is_scored_under_attack(text: worlds.World) -> None:
    for name, settings in (("extraction", {"draws": "2", "beams": 0, "beginnings": "0.5"}), ("multi_turn", {"turns": 2, "ways": "insist"})):
        sets = {"forget": DATA.forget[:2], "retain": DATA.retain[:3]}
        outcome = intervene(name, chosen((name,), settings)[name], text.model(), text.modality, sets, scored=("forget", "retain"))
        for t in outcome.tries:
            assert t.scores["retain_rouge"]["n"] == 3
            assert t.scores["forget_rouge"]["n"] == 2


# conversations


def test_a_conversation_is_one_row_up_to_the_last_token_of_room(text: worlds.World) -> None:
    modality: Any = dataclasses.replace(text.modality, limit=32)  # type: ignore[type-var]
    turns = ["Who"]
    while len(conversation_rows(modality, [turns])["prompt"][0]) < modality.limit - 1:
        turns[0] += " who"
    assert len(modality.rows("forget", [{"question": turns[0], "answer": "?"}])) == 2, "the placeholder's end fills a window of its own"
    assert len(conversation_rows(modality, [turns])) == 1


def test_turns_keep_the_best_answer_and_quote_the_model(text: worlds.World) -> None:
    outcome = attacked("multi_turn", text, turns=2)
    assert outcome.ways == list(WAYS)
    for way in WAYS:
        first, second = values(outcome, way)
        assert second >= first
    assert values(outcome, "insist")[0] == pytest.approx(outcome.before["forget_rouge"]["value"], abs=1e-6)
    assert [t.at["queries"] for t in outcome.tries if t.way == "doubt"] == [1, 2]


# jailbreak


def test_the_gradient_of_tokens_is_that_of_a_one_hot_input(text: worlds.World) -> None:
    model, rows = text.model(), ending(text.sets["forget"].select([0, 3]), [20, 21, 22])
    ours = token_gradients(model, text.modality, rows, 3)
    embedding, total = model.get_input_embeddings().weight, torch.zeros(3, 512)
    for prompt, answer in zip(rows["prompt"], rows["answer"], strict=True):
        one_hot = nn.functional.one_hot(torch.tensor([*prompt, *answer]), 512).float().requires_grad_()
        logits = model(inputs_embeds=(one_hot @ embedding)[None]).logits[0, len(prompt) - 1 : -1]
        loss = nn.functional.cross_entropy(logits, torch.tensor(answer))
        total += torch.autograd.grad(loss, one_hot)[0][len(prompt) - 3 : len(prompt)] / 2
    assert torch.allclose(ours, total, atol=1e-5)


def test_a_suffix_is_searched_for_and_both_searches_lower_the_loss(text: worlds.World) -> None:
    model = text.model("retrained")
    settings = {"held": 2, "length": 4, "steps": 4, "candidates": 16, "topk": 32}
    outcome = attacked("jailbreak", text, model, search="gcg,random", **settings)
    held = text.modality.rows("forget", [{"question": r["question"], "answer": r["answer"]} for r in DATA.forget]).select([0, 1])
    drawn = torch.randint(3, 500, (32, 4), generator=torch.Generator().manual_seed(0))
    start = float(losses_of(model, text.modality, [ending(held, row.tolist()) for row in drawn]).mean())
    reached = {}
    for search in ("gcg", "random"):
        suffix = TokenSearch(ending, 4, 4, 16, 32, 0).run(model, text.modality, held, search)  # type: ignore[arg-type]
        reached[search] = float(losses_of(model, text.modality, [ending(held, suffix)]))
        assert reached[search] < start
    assert {t.way for t in outcome.tries} >= {"gcg", "random"}
    assert next(t for t in outcome.tries if t.way == "gcg").at == {"rows": 2, "queries": 4 * 16 * 2}
    suffixed = Suffixed(text.modality, [20, 21]).rows("forget", DATA.forget[:1])
    assert list(suffixed["prompt"][0])[-2:] == [20, 21]
    assert not set(ordinary(text.modality).tolist()) & {0, 1, 2}


def test_templates_are_asked_around_every_question(text: worlds.World) -> None:
    outcome = attacked("jailbreak", text)
    cases = {(t.way, t.case) for t in outcome.tries}
    assert cases == {*((way, name) for way, templates in TEMPLATES.items() for name in templates), ("few shot", "3 examples")}
    assert max(values(outcome, "translation", "forget_probability")) < outcome.before["forget_probability"]["value"]
    alone = chosen(("jailbreak",), {})["jailbreak"]
    assert (
        "no retained questions" in intervene("jailbreak", alone, text.model(), text.modality, {"forget": DATA.forget}).missing["few shot"]
    )


@pytest.mark.parametrize(
    "name", ["extraction", "multi_turn", "jailbreak", "logit_lens", "activation_probe", "chameleon", "semantic_information"]
)
def test_images_ask_nothing_in_words(digits: worlds.World, name: str) -> None:
    outcome = intervene(name, chosen((name,), {})[name], digits.model(), digits.modality, images())
    assert "words" in outcome.missing[""]


@pytest.mark.slow
def test_attacks_by_command_and_in_an_audit(cases: Cases, tmp_path: Path) -> None:
    sets = ("--forget", cases.forget, "--retain", cases.retain)
    expunge("attack", "extraction", cases.model, *sets, "--draws", 2, "--beams", 0, "--out", tmp_path / "attack").fine()
    names = ("multi_turn", "jailbreak", "logit_lens", "prune", "merge", "finetune_benign", "chameleon", "semantic_information")
    options = [word for name in (*names, "proximal_surrogate", "activation_probe") for word in ("--attack", name)]
    quick = ("--finetune_benign:steps", 2, "--semantic_information:samples", 0, "--multi_turn:turns", 2)
    expunge("audit", cases.model, *sets, *options, *quick, "--out", tmp_path / "audit").fine()
    attacks = json.loads((tmp_path / "audit" / "audit.json").read_text())["attacks"]
    assert {*names, "proximal_surrogate", "activation_probe"} <= attacks.keys()
