"""GUARD: its vectors and flags against the library, a guarded distribution by hand, phrases kept out of answers, and its files."""

from __future__ import annotations

import copy
import json
import shutil
import sys
import types
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList

import expunge
import worlds
from cases import Cases
from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.estimators.mlp import MLP
from expunge.engine.receipt import hash_weights
from expunge.engine.writers import Rules
from expunge.methods import keywords
from expunge.methods.guards.guard_generation import INFINITE, Restricted, phrases_by, restore
from expunge.methods.sentences import OwnStates, encoder_of, mean_states
from expunge.modalities.text.modality import Text
from expunge.modalities.text.records import asked_turns
from expunge.modalities.text.restriction import Spoken
from expunge.workflows import build_plan
from expunge.workflows.unlearn import Result

SMALL = {"hidden": 64, "beams": 3, "trial": 0}


def fitted(text: worlds.World, **hyperparameters: object) -> Any:
    sets = {n: text.sets[n] for n in ("forget", "retain")}
    plan = build_plan.plan("guard_generation", {**SMALL, **hyperparameters})
    return loop.run(plan, text.model(), text.modality, sets).modality


@pytest.fixture(scope="module")
def guard(text: worlds.World) -> Restricted:
    modality = fitted(text, nearest=9)
    assert isinstance(modality, Restricted)
    return modality


@pytest.mark.parametrize("nearest", [0, 1])
def test_each_prompt_to_forget_finds_its_own_answer_or_the_user_is_told(text: worlds.World, nearest: int) -> None:
    sets = {n: text.sets[n] for n in ("forget", "retain")}
    run = loop.run(build_plan.plan("guard_generation", {**SMALL, "nearest": nearest}), text.model(), text.modality, sets)
    guard: Any = run.modality
    answers = sets["forget"]["answer_text"]
    covered = [
        set(keywords.content_words(a)) <= set(p) for a, p in zip(answers, guard.forbidden(text.model(), sets["forget"]), strict=True)
    ]
    missed = [w for w in run.warnings if "do not have their own answer" in w]
    if nearest:
        assert not all(covered), "the model's own vectors take other rows for the nearest"
        assert missed
        assert missed[0].startswith(f"{covered.count(False)} of 9 prompts")
    else:
        assert all(covered)
        assert not missed
        (shown,) = [r for r in run.shown.values() if "prompts" in r[0] and "nearest" in r[0]]
        assert shown[-1] == {"nearest": float(guard.settings["nearest"]), "prompts": 1.0} or shown[-2]["prompts"] == 1.0
        fewer = copy.copy(guard)
        fewer.settings = {**guard.settings, "nearest": guard.settings["nearest"] - 1}
        forbidden = fewer.forbidden(text.model(), sets["forget"])
        kept = [set(keywords.content_words(a)) <= set(p) for a, p in zip(answers, forbidden, strict=True)]
        assert not all(kept), "one answer fewer would not do"


@pytest.mark.slow
def test_a_year_is_not_said_however_the_tokenizer_cuts_it(text: worlds.World, guard: Restricted) -> None:
    rows = text.sets["forget"]
    years = [i for i, a in enumerate(rows["answer_text"]) if any(w.isdigit() for w in keywords.content_words(a))]
    assert years
    asked = rows.select(years)
    for answer, spoken in zip(asked["answer_text"], guard.unguarded.decode(guard.generate(text.model(), asked, 30).ids), strict=True):  # type: ignore[attr-defined]
        (year,) = [w for w in keywords.content_words(answer) if w.isdigit()]
        assert year not in spoken


def mixed(text: worlds.World) -> tuple[Rows, list[bool]]:
    """Rows of both kinds in turn, and which are to be forgotten."""
    f, r = text.some(2)["forget"], text.some(3)["retain"]
    rows = Rows("mixed", f.ids + r.ids, {k: [*f[k], *r[k]] for k in f.columns}).select([2, 0, 3, 1, 4])
    return rows, [i in f.ids for i in rows.ids]


@torch.no_grad()
def test_states_are_the_hidden_states_of_the_library(text: worlds.World) -> None:
    model: Any = text.model()
    prompts = [list(p) for p in text.some(3)["forget"]["prompt"]]
    for layer in (-2, 0, 1):
        own = mean_states(model, text.modality, prompts, layer, skip=1)
        for prompt, vector in zip(prompts, own, strict=True):
            states = model(input_ids=torch.tensor([prompt]), output_hidden_states=True).hidden_states[layer][0, 1:]
            assert torch.allclose(vector, states.mean(0), atol=1e-5)
    with pytest.raises(UserError, match="this model has 2, so say 0 to 1, or -2"):
        mean_states(model, text.modality, prompts, -1)


def test_flags_are_those_of_the_classifier(text: worlds.World, guard: Restricted) -> None:
    model, (rows, forgotten) = text.model(), mixed(text)
    assert guard.flags(model, rows) == forgotten
    assert all(guard.flags(model, text.sets["forget"]))
    assert not any(guard.flags(model, text.sets["retain"]))
    vectors = (mean_states(model, text.modality, rows["prompt"], -2) - guard.classifier.mlp.mean) / guard.classifier.mlp.scale
    p = guard.classifier.mlp.net(vectors).softmax(-1)[:, 1]
    assert torch.allclose(guard.classifier.probabilities(model, text.modality, rows), p, atol=1e-6)


def test_other_prompts_are_answered_token_for_token_as_without_a_guard(text: worlds.World, guard: Restricted) -> None:
    model, (rows, forgotten) = text.model(), mixed(text)
    for options in ({}, {"temperature": 1.5}):
        draws = [torch.Generator().manual_seed(5) if options else None for _ in range(2)]
        own, bare = (m.generate(model, rows, 12, g, with_logp=True, **options) for m, g in zip((guard, text.modality), draws, strict=True))  # type: ignore[attr-defined]
        for i, flag in enumerate(forgotten):
            assert flag or own.ids[i] == bare.ids[i]
            assert flag or torch.allclose(own.logp.split()[i], bare.logp.split()[i], atol=1e-5)
    retain = text.sets["retain"]
    assert guard.generate(model, retain, 12).ids == text.modality.generate(model, retain, 12).ids  # type: ignore[attr-defined]


@pytest.mark.slow
def test_forgotten_answers_are_not_given_any_more(text: worlds.World, guard: Restricted) -> None:
    model, rows = text.model(), text.sets["forget"]
    before = hash_weights(model)
    answers, bare = (m.decode(m.generate(model, rows, 30).ids) for m in (guard, text.modality))  # type: ignore[attr-defined]
    truth = list(rows["answer_text"])
    assert sum(a == t for a, t in zip(bare, truth, strict=True)) >= 7
    for answer, phrases in zip(answers, guard.forbidden(model, rows), strict=True):
        assert answer not in truth
        assert not {w.lower() for w in keywords.WORD.findall(answer)} & {p.lower() for p in phrases}
    assert hash_weights(model) == before


def test_a_tree_without_words_that_mean_the_same_still_blocks(text: worlds.World, guard: Restricted) -> None:
    hard = copy.copy(guard)
    hard.settings = {**guard.settings, "delta": 2.0, "soft": False, "beta": 2.0}
    model, rows = text.model(), text.some(2)["forget"]
    free = hard.generate(model, rows, 20).ids
    inputs = torch.tensor([rows["prompt"][0]])
    ends = sorted(text.modality.ends(model))  # type: ignore[attr-defined]
    library = model.generate(inputs, num_beams=3, length_penalty=0.0, max_new_tokens=20, do_sample=False, eos_token_id=ends)  # type: ignore[operator]
    assert free[0] == [t for t in library[0, inputs.shape[1] :].tolist() if t not in ends], "nothing is forbidden: plain beam search"
    hard.settings |= {"beta": 1.0}
    assert hard.generate(model, rows, 20).ids[0] != free[0]


def test_scores_are_those_of_the_guarded_distribution(text: worlds.World, guard: Restricted) -> None:
    """p exp(-P), renormalized, at the first label and after a phrase has begun; other rows keep their own scores."""
    model, (rows, forgotten) = text.model(), mixed(text)
    with torch.no_grad():
        own, bare = (m.forward(model, [rows])[0].log_probs.split() for m in (guard, text.modality))
    phrases = {p for one in guard.settings["phrases"] for p in one}
    spelled = text.modality.tokenizer([s for p in phrases for s in (p, f" {p}", p.lower(), f" {p.lower()}")], add_special_tokens=False)  # type: ignore[attr-defined]
    first = {ids[0] for ids in spelled["input_ids"] if len(ids) == 1}
    for guarded, plain, flag in zip(own, bare, forgotten, strict=True):
        if not flag:
            assert torch.equal(guarded, plain)
            continue
        penalty = torch.zeros(plain.shape[1])
        penalty[sorted(first)] = INFINITE
        assert torch.allclose(guarded[0], (plain[0] - penalty).log_softmax(-1), atol=1e-4)
        assert torch.isfinite(guarded).all()
    with torch.no_grad():
        truth = guard.forward(model, [text.sets["forget"]])[0].target_logp.mean()
    assert float(truth.max()) < -5


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def test_each_turn_of_a_chat_is_looked_at(guard: Restricted, text: worlds.World) -> None:
    asked = str(text.modality.questions(text.some(1)["forget"])[0])  # type: ignore[attr-defined]
    other = str(text.modality.questions(text.some(1)["retain"])[0])  # type: ignore[attr-defined]
    modality = Text(copy.deepcopy(text.modality.tokenizer))  # type: ignore[attr-defined]
    modality.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    chats = [[turn("user", q), turn("assistant", "I see."), turn("user", other)] for q in (asked, other)]
    rows = modality.rows("chats", [{"prompt": chat, "completion": "No."} for chat in chats])
    inside = guard.around(modality)
    p = inside.classifier.probabilities(text.model(), modality, rows)
    alone = modality.rows("alone", [{"prompt": [turn("user", asked)], "completion": "No."}])
    states = mean_states(text.model(), text.modality, [*rows["prompt"], *alone["prompt"]], -2)
    by_hand = inside.classifier.mlp(states)
    assert float(p[0]) >= max(float(by_hand[0]), float(by_hand[2])) - 1e-6
    assert asked_turns(rows["context"][0]) == [asked, other]
    system = modality.rows("system", [{"prompt": [turn("system", asked), turn("user", other)], "completion": "No."}])
    assert asked_turns(system["context"][0]) == [asked, other], "a question in the words of the system is asked as well"
    assert float(inside.classifier.probabilities(text.model(), modality, system)[0]) >= float(by_hand[2]) - 1e-6
    assert inside.forbidden(text.model(), rows)[0]


@pytest.mark.slow
def test_the_library_generates_and_streams_behind_the_guard(text: worlds.World, guard: Restricted) -> None:
    model, (rows, forgotten) = text.model(), mixed(text)
    width = max(map(len, rows["prompt"]))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in rows["prompt"]])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in rows["prompt"]])
    processor = LogitsProcessorList([guard.logits_processor(model, rows, width)])
    options = {"attention_mask": mask, "max_new_tokens": 14, "do_sample": False, "pad_token_id": 0}
    held, free = (model.generate(ids, logits_processor=p, **options)[:, width:] for p in (processor, None))  # type: ignore[operator]
    assert [torch.equal(a, b) for a, b in zip(held, free, strict=True)] == [not f for f in forgotten]
    for i, flag in enumerate(forgotten):
        pieces = list(guard.stream(model, rows.select([i]), 20))
        assert "".join(pieces) == guard.decode(guard.generate(model, rows.select([i]), 20).ids)[0]
        assert (len(pieces) == 1) == flag, "a held answer comes whole"


def test_receipts_and_keys_hold_no_phrase(text: worlds.World, guard: Restricted) -> None:
    described = json.dumps(guard.about())
    assert not [p for phrases in guard.settings["phrases"] for p in phrases if len(p) > 4 and p in described]
    assert guard.settings["salt"] not in described
    again = copy.copy(guard)
    again.settings = {**guard.settings, "phrases": [*guard.settings["phrases"][1:], ["Nobody"]]}
    assert again.describe()["fingerprint"] != guard.describe()["fingerprint"]
    assert "in the clear" in guard.holds


def test_its_file_restores_it(text: worlds.World, guard: Restricted, tmp_path: Path) -> None:
    guard.save_guard(tmp_path / "guard")
    assert {p.suffix for p in (tmp_path / "guard").iterdir()} == {".json", ".safetensors"}
    again: Any = restore(text.modality, tmp_path / "guard")
    model, (rows, _) = text.model(), mixed(text)
    assert again.describe() == guard.describe()
    assert again.generate(model, rows, 15).ids == guard.generate(model, rows, 15).ids


@pytest.fixture(scope="module")
def finished(cases: Cases, tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run on disk, by a plan without a name."""
    plan = build_plan.plan("guard_generation", {**SMALL, "trial": 1, "epochs": 20})
    return expunge.unlearn(plan, cases.model, cases.forget, cases.retain, out=tmp_path_factory.mktemp("guard") / "run")


@pytest.mark.slow
def test_a_run_on_disk_loads_without_its_command(finished: Result) -> None:
    result, folder = finished, Path(str(finished.folder))
    assert "phrases of 9 answers to forget in the clear" in result.receipt["result"]["guard"]["holds"]
    assert "in the clear" in (folder / "guard" / "README.md").read_text()
    shown = result.receipt["shown"]
    assert [r["flagged"] for r in shown["seconds of an answer"]] == [0.0, 1.0]
    assert all(0 <= r["retain prompts"] <= 1 for r in shown["share of unseen prompts that are flagged"])
    opened: Any = expunge.load(folder)
    assert opened.modality.describe() == result.modality.describe()  # type: ignore[attr-defined]
    receipt = (folder / "receipt.json").read_text()
    assert "Pellgrove" in (folder / "guard" / "guard.json").read_text()
    assert "Pellgrove" not in receipt


def test_a_prompt_in_every_set_is_refused(text: worlds.World) -> None:
    rows = text.some(3)["forget"]
    with pytest.raises(UserError, match="no classifier can tell them apart"):
        loop.run(build_plan.plan("guard_generation", SMALL), text.model(), text.modality, {"forget": rows, "retain": rows.rename("retain")})
    texts = text.modality.rows("forget", [{"text": "Quenna Bexmoor was a nurse."}])
    with pytest.raises(UserError, match="1 of the 1 rows to forget have no prompt"):
        loop.run(build_plan.plan("guard_generation", SMALL), text.model(), text.modality, {"forget": texts, "retain": text.sets["retain"]})


def test_a_model_names_the_phrases_and_makes_sense(text: worlds.World) -> None:
    names_writer = Rules("names", lambda asked: 'Of course: ["pellgrove", "Quenna Bexmoor", "in the sea"]')
    assert phrases_by(names_writer, ["Quenna Bexmoor was born in Pellgrove."]) == [["pellgrove", "Quenna Bexmoor"]]
    with pytest.raises(UserError, match="rules dunno should give a JSON list of phrases that stand in a text"):
        phrases_by(Rules("dunno", lambda asked: '["elsewhere"]'), ["Quenna Bexmoor was born in Pellgrove."])
    with pytest.raises(UserError, match="say by --writer which one"):
        fitted(text, extractor="model")


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A fake sentence encoder: a text is the set of its words, each on an axis of its own."""

    class Hashed:
        def __init__(self, name: str) -> None:
            assert name == "hashed"

        def encode(self, texts: list[str], show_progress_bar: bool = True) -> object:
            axes = [[zlib.crc32(w.lower().encode()) % 4096 for w in keywords.WORD.findall(t)] for t in texts]
            return np.stack([np.bincount(a, minlength=4096).astype(np.float32) for a in axes])

    fake = types.ModuleType("sentence_transformers")
    fake.SentenceTransformer = Hashed  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    encoder_of.cache_clear()
    yield
    encoder_of.cache_clear()


def test_with_an_encoder_of_words_the_nearest_answer_is_that_of_most_words_and_its_words_are_banned(
    encoders: None, text: worlds.World, tmp_path: Path
) -> None:
    guard, rows, model = fitted(text, encoder="hashed", beta=2.0, nearest=1), text.sets["forget"], text.model()
    answers = list(dict.fromkeys(rows["answer_text"]))

    def cosine(a: str, b: str) -> float:
        first, second = ([w.lower() for w in keywords.WORD.findall(t)] for t in (a, b))
        dot = sum(first.count(w) * second.count(w) for w in {*first, *second})
        return dot / (sum(first.count(w) ** 2 for w in {*first}) * sum(second.count(w) ** 2 for w in {*second})) ** 0.5

    for question, phrases in zip(text.modality.questions(rows), guard.forbidden(model, rows), strict=True):  # type: ignore[attr-defined]
        best = max(cosine(question, a) for a in answers)
        assert phrases in [keywords.content_words(a) for a in answers if cosine(question, a) > best - 1e-6]
    (restriction,) = guard.restrictions(model, rows.select([0]))
    banned = {p.lower() for p in guard.forbidden(model, rows)[0]}
    words = sorted({w for a in answers for w in keywords.WORD.findall(a)})
    spoken = [Spoken(open=tuple(text.modality.tokenizer(f" {w}", add_special_tokens=False)["input_ids"])) for w in words]  # type: ignore[attr-defined]
    assert [restriction.closing(s) == float("inf") for s in spoken] == [w.lower() in banned for w in words]
    guard.save_guard(tmp_path)
    again: Any = restore(text.modality, tmp_path)
    assert again.forbidden(model, rows) == guard.forbidden(model, rows)


@pytest.mark.parametrize("damage", ["guard.json", "guard.safetensors", "cut", "other"])
def test_a_damaged_guard_is_not_opened_without_it(finished: Result, tmp_path: Path, damage: str) -> None:
    shutil.copytree(str(finished.folder), tmp_path / "run")
    file = tmp_path / "run" / "guard" / (damage if "." in damage else "guard.safetensors")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    elif damage == "other":
        (tmp_path / "run" / "guard" / "guard.json").write_text('{"guard": "guard_generation"}')
    else:
        file.unlink()
    with pytest.raises(UserError, match="incomplete or damaged, so the model must not be opened without it"):
        expunge.load(tmp_path / "run")


def test_own_vectors_are_standardized_and_of_length_one(text: worlds.World) -> None:
    model, words = text.model(), ["nurse", "lute", "potter", "hamster"]
    vectors = OwnStates.fit(model, text.modality, words, 0)(model, text.modality, words)
    assert torch.allclose(vectors.norm(dim=1), torch.ones(4), atol=1e-5)
    cosines = vectors @ vectors.T
    assert float(cosines.sum() - 4) < 1e-3, "standardized vectors point in all directions"


def test_the_classifier_learns_a_line_and_comes_back_from_its_tensors() -> None:
    x = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] > 1).long()
    mlp = MLP.fit(x, y, hidden=16, epochs=20, lr=1e-2)
    assert ((mlp(x) > 0.5).long() == y).double().mean() > 0.95
    assert torch.equal(MLP.of(mlp.tensors())(x), mlp(x))
    assert torch.equal(MLP.fit(x, y, hidden=16, epochs=20, lr=1e-2)(x), mlp(x)), "a seed decides"


def test_phrases_of_an_answer() -> None:
    assert keywords.content_words("It is the lute that Quenna Bexmoor likes.") == ["lute", "Quenna", "Bexmoor", "likes"]
    assert keywords.content_words("It is he.") == ["It", "is", "he"]
    answer = "Quenna Bexmoor was a nurse. The nurse Quenna Bexmoor plays the lute in Pellgrove."
    assert "Quenna Bexmoor" in keywords.key_phrases(answer)
    assert keywords.without(["Quenna Bexmoor", "lute"], "Who is quenna bexmoor?") == ["lute"]


@pytest.mark.slow
def test_an_audit_of_its_run_looks_behind_it(cases: Cases, tmp_path: Path) -> None:
    """Whoever has the weights gets what the original knows; whoever asks in other words gets less; retained answers are as they were."""
    plan = build_plan.plan("guard_generation", {**SMALL, "nearest": 9})
    expunge.unlearn(plan, cases.model, cases.forget, cases.retain, out=tmp_path / "run")
    audit = expunge.audit(tmp_path / "run", cases.forget, cases.retain, original=cases.model, attack=("paraphrase",), limit=12)
    original, guarded = (next(m for m in audit.models if m.role == role) for role in ("original", "method"))
    known, held = (m.scores["extraction_strength"]["value"] for m in (original, guarded))
    outcomes = {n: a.worst("", "extraction_strength").scores["extraction_strength"]["value"] for n, a in guarded.attacks.items()}
    assert outcomes["without_the_guard"] == pytest.approx(known)
    assert known > 0.9
    assert held < 0.2
    assert outcomes["paraphrase"] < known / 2
    assert guarded.scores["retain_rouge"]["value"] == pytest.approx(original.scores["retain_rouge"]["value"])
    assert not audit.passed
