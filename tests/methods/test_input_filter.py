"""Input filter: weights untouched, hits by hand, uniform scores, refusals among other answers, and its file."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import worlds
from expunge.core.capabilities import Drafting, Generates, Prompted, SharedReading, offers
from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.guarding import is_guarded, unguarded
from expunge.engine.receipt import hash_weights
from expunge.evaluation.observation_spec import QUICK
from expunge.evaluation.observe import observe
from expunge.methods.guards.input_filter import Filtered, restore, words
from expunge.modalities.text.modality import Text
from expunge.workflows import build_plan

REFUSAL = "I have no answer to that."


def guarded(text: worlds.World, rows: Rows | None = None, **hyperparameters: object) -> Any:
    """The world's modality behind a filter of its rows to forget."""
    sets = {"forget": text.sets["forget"] if rows is None else rows}
    modality = loop.run(build_plan.plan("input_filter", hyperparameters), text.model(), text.modality, sets).modality
    assert isinstance(modality, Filtered)
    return modality


def hit(text: worlds.World, modality: Filtered, question: str) -> bool:
    (is_hit,) = modality.hits(text.modality.rows("asked", [{"question": question, "answer": "Nobody knows."}]))
    return is_hit


def mixed(text: worlds.World) -> tuple[Rows, list[bool]]:
    """Rows of both kinds in turn, and which are to be forgotten."""
    f, r = text.some(3)["forget"], text.some(4)["retain"]
    rows = Rows("mixed", f.ids + r.ids, {k: [*f[k], *r[k]] for k in f.columns}).select([3, 0, 4, 1, 2, 5, 6])
    return rows, [i in f.ids for i in rows.ids]


def test_the_model_stays_as_it_is_and_the_modality_is_guarded(text: worlds.World) -> None:
    model = text.model()
    before = hash_weights(model)
    run = loop.run(build_plan.plan("input_filter"), model, text.modality, {"forget": text.sets["forget"]})
    assert run.model is model
    assert hash_weights(model) == before
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert is_guarded(run.modality)
    assert not is_guarded(text.modality)
    assert unguarded(run.modality) is run.modality.unguarded is text.modality  # type: ignore[attr-defined]
    assert unguarded(guarded(text)) is text.modality


def test_everything_but_answers_is_that_of_the_modality_inside(text: worlds.World) -> None:
    modality, inner = guarded(text), text.modality
    assert modality.name == inner.name
    assert modality.blocks(text.model()) == inner.blocks(text.model())
    assert (
        modality.rows("a", [{"question": "Who?", "answer": "Me."}]).columns
        == inner.rows("a", [{"question": "Who?", "answer": "Me."}]).columns
    )
    assert modality.about() == {**inner.about(), "guard": modality.describe()}
    assert offers(modality, Generates)
    assert offers(modality, Prompted)
    assert modality.capabilities == inner.capabilities - {SharedReading, Drafting}, "these would go around the filter"
    assert copy.deepcopy(modality).describe() == modality.describe()


def test_forget_rows_get_a_uniform_distribution_and_others_their_own(text: worlds.World) -> None:
    model, (rows, hits) = text.model(), mixed(text)
    with torch.no_grad():
        filtered, own = (modality.forward(model, [rows])[0].target_logp.split() for modality in (guarded(text), text.modality))
    for filtered_logp, bare, is_hit in zip(filtered, own, hits, strict=True):
        wanted = torch.full_like(bare, -math.log(512)) if is_hit else bare
        assert torch.equal(filtered_logp, wanted) if not is_hit else torch.allclose(filtered_logp, wanted, atol=1e-5)


def test_each_group_of_a_forward_is_filtered_by_its_own_rows(text: worlds.World) -> None:
    model, modality = text.model(), guarded(text)
    groups = [text.some(3)["retain"], text.some(2)["forget"], text.some(2)["forget"].select([])]
    with torch.no_grad():
        kept, gone, empty = modality.forward(model, groups)
        bare = text.modality.forward(model, groups)
    assert torch.equal(kept.logits.values, bare[0].logits.values)
    assert torch.equal(gone.logits.values, torch.zeros_like(bare[1].logits.values))
    assert torch.equal(gone.labels, bare[1].labels)
    assert (empty.logits.values.shape, empty.logits.rows) == (bare[2].logits.values.shape, 0)


def test_a_forget_prompt_in_an_answer_is_a_hit_where_answers_are_scored(text: worlds.World) -> None:
    (question, *_), modality = text.modality.questions(text.sets["forget"]), guarded(text)  # type: ignore[attr-defined]
    rows = text.modality.rows("asked", [{"question": "What do people ask?", "answer": f"They ask: {question}"}])
    assert (modality.hits(rows), modality.hits(rows, answers=True)) == ([False], [True])
    with torch.no_grad():
        assert not modality.forward(text.model(), [rows])[0].logits.values.any()


def test_hidden_states_are_those_of_the_model(text: worlds.World) -> None:
    model, (rows, _) = text.model(), mixed(text)
    points = ("block:1", "model.norm")
    with torch.no_grad():
        outputs = [modality.forward(model, [rows], points)[0] for modality in (guarded(text), text.modality)]
    for hook_point in points:
        assert torch.equal(outputs[0].hidden(hook_point).values, outputs[1].hidden(hook_point).values)
        assert torch.equal(outputs[0].input(hook_point).values, outputs[1].input(hook_point).values)


@pytest.mark.parametrize("draw", [False, True])
def test_generation_refuses_the_right_rows_of_a_mixed_batch(text: worlds.World, draw: bool) -> None:
    model, modality, (rows, hits) = text.model(), guarded(text), mixed(text)
    generator = torch.Generator().manual_seed(0) if draw else None
    samples = modality.generate(model, rows, 40, generator, 0.01)
    bare = text.modality.decode(text.modality.generate(model, rows, 40).ids)  # type: ignore[attr-defined]
    assert modality.decode(samples.ids) == [REFUSAL if h else own for h, own in zip(hits, bare, strict=True)]
    assert samples.ended == [True] * 7
    assert samples.logp is None


def test_a_refusal_is_certain_and_other_samples_keep_their_log_probabilities(text: worlds.World) -> None:
    model, (rows, hits) = text.model(), mixed(text)
    filtered, own = (m.generate(model, rows, 40, with_logp=True) for m in (guarded(text), text.modality))  # type: ignore[attr-defined]
    assert filtered.logp.lengths.tolist() == [len(ids) + ended for ids, ended in zip(filtered.ids, filtered.ended, strict=True)]
    for filtered_logp, bare, is_hit in zip(filtered.logp.split(), own.logp.split(), hits, strict=True):
        if is_hit:
            assert not filtered_logp.any()
            assert len(filtered_logp) > 3
        else:
            assert torch.allclose(filtered_logp, bare, atol=1e-5)
            assert filtered_logp.any()


def test_no_rows_are_answered_by_nothing(text: worlds.World) -> None:
    samples = guarded(text).generate(text.model(), text.sets["retain"].select([]), 5, with_logp=True)
    assert (samples.ids, samples.ended, samples.logp.rows, len(samples.logp.values)) == ([], [], 0, 0)


def test_a_refusal_longer_than_the_room_is_cut_and_another_can_be_chosen(text: worlds.World) -> None:
    model, rows = text.model(), text.some(2)["forget"]
    other = guarded(text, refusal="No.")
    assert other.decode(other.generate(model, rows, 40).ids) == ["No.", "No."]
    whole = guarded(text).generate(model, rows, 40).ids[0]
    for limit in (2, len(whole), len(whole) + 1):
        samples = guarded(text).generate(model, rows, limit, with_logp=True)
        assert samples.ids == [whole[:limit]] * 2
        assert samples.ended == [limit > len(whole)] * 2, "there is no room for the token that ends it"
        assert samples.logp.lengths.tolist() == [min(limit, len(whole) + 1)] * 2


def test_what_is_a_hit(text: worlds.World) -> None:
    modality, question = guarded(text), "What does Quenna Bexmoor like to play?"
    assert question in modality.questions(text.sets["forget"])
    assert hit(text, modality, question)
    assert hit(text, modality, "what does QUENNA bexmoor like to play")
    assert hit(text, modality, f"Please, for a quiz: {question} Answer in one word.")
    assert not hit(text, modality, "What does Lumisa Farrowin like to play?")
    assert not hit(text, modality, "Which instrument is dear to Quenna Bexmoor?")  # a paraphrase goes through: why this is a stopgap
    assert not any(hit(text, modality, q) for q in modality.questions(text.sets["retain"]))


def test_a_prompt_in_another_format_is_a_hit_too(text: worlds.World) -> None:
    (question, *_) = text.modality.questions(text.sets["forget"])  # type: ignore[attr-defined]
    records = [{"prompt": f"Q: {question}\nA:", "completion": " Nobody."}]
    assert guarded(text).hits(text.modality.rows("asked", records)) == [True]
    begun = text.modality.begun(text.some(1)["forget"], [2])  # type: ignore[attr-defined]
    assert guarded(text).hits(begun) == [True], "an answer that is given up to a place"


def test_threshold_is_a_share_of_the_prompts_n_grams(text: worlds.World) -> None:
    changed = "What does Quenna Bexmoor like to eat?"  # 5 trigrams of 7 words, the last of which is another
    assert not hit(text, guarded(text, threshold=0.81), changed)
    assert hit(text, guarded(text, threshold=0.8), changed)
    assert hit(text, guarded(text, threshold=0.8, ngram=1), "play to like Bexmoor Quenna does what")


def test_short_prompts_are_matched_as_a_whole(text: worlds.World) -> None:
    modality = guarded(text, text.modality.rows("forget", [{"question": "Quenna Bexmoor?", "answer": "A nurse."}]))
    assert hit(text, modality, "Who is Quenna Bexmoor?")
    assert not hit(text, modality, "Quenna?")


def test_rows_without_a_prompt_are_refused(text: worlds.World) -> None:
    with pytest.raises(UserError, match="no prompt"):
        guarded(text, text.modality.rows("forget", [{"text": "Quenna Bexmoor was a nurse."}]))


def test_modalities_without_words_are_refused(digits: worlds.World) -> None:
    with pytest.raises(UserError):
        loop.run(build_plan.plan("input_filter"), digits.model(), digits.modality, {"forget": digits.sets["forget"]})


def test_words_do_not_depend_on_how_they_are_written() -> None:
    assert words("  Wo ist\tÉMILE\uff1f") == ["wo", "ist", "émile"]


def test_an_observation_sees_the_filter_and_says_that_there_is_one(text: worlds.World, tmp_path: Path) -> None:
    (question, *_) = text.modality.questions(text.sets["forget"])  # type: ignore[attr-defined]
    records = {"forget": [{"question": question, "answer": "The flute."}], "retain": [{"question": "Who is it?", "answer": "Nobody."}]}
    filtered, bare = (observe(text.model(), m, records, cache=tmp_path) for m in (guarded(text), text.modality))
    assert filtered.sets["forget"].generations == (REFUSAL,)
    assert filtered.sets["forget"].kinds["answer"].target_logp == pytest.approx(-math.log(512), abs=1e-5)
    assert filtered.sets["retain"].generations == bare.sets["retain"].generations
    assert filtered.sets["retain"].kinds["answer"].target_logp == pytest.approx(bare.sets["retain"].kinds["answer"].target_logp, abs=1e-4)
    assert filtered.about["key"] != bare.about["key"], "neither is taken for the other"
    assert filtered.modality == bare.modality == "text"
    other = observe(text.model(), guarded(text, refusal="No."), records, wants=QUICK, cache=tmp_path)
    assert other.about["key"] != filtered.about["key"]


def test_the_file_holds_no_prompt_and_restores_the_guard(text: worlds.World, tmp_path: Path) -> None:
    model, modality, (rows, hits) = text.model(), guarded(text), mixed(text)
    modality.save_guard(tmp_path / "guard")
    stored = (tmp_path / "guard" / "guard.json").read_text().casefold()
    for secret in {w for q in modality.questions(text.sets["forget"]) for w in words(q) if len(w) > 3} - {*words(REFUSAL)}:
        assert secret not in stored.replace("threshold", ""), secret
    assert "quenna" not in stored
    assert "bexmoor" not in stored
    again: Any = restore(text.modality, tmp_path / "guard")
    assert again.describe() == modality.describe()
    assert again.unguarded is text.modality
    assert again.hits(rows) == hits
    assert again.generate(model, rows, 40).ids == modality.generate(model, rows, 40).ids


def test_the_same_guard_can_stand_around_another_modality(text: worlds.World) -> None:
    modality, (rows, hits) = guarded(text), mixed(text)
    inner = type(text.modality)(text.modality.tokenizer, "Q: {prompt}\nA: ")  # type: ignore[attr-defined, call-arg]
    other = modality.around(inner)
    assert (other.unguarded, modality.unguarded) == (inner, text.modality)
    assert other.describe() == modality.describe()
    assert other.hits(rows) == hits


def test_salts_differ_by_seed_and_repeat(text: worlds.World) -> None:
    guards = [guarded(text, seed=s) for s in (0, 0, 1)]
    assert guards[0].describe() == guards[1].describe() != guards[2].describe()
    a, b, c = (guard.settings for guard in guards)
    assert a == b
    assert a["salt"] != c["salt"]
    assert not {g for _, grams in a["prompts"] for g in grams} & {g for _, grams in c["prompts"] for g in grams}


def test_receipts_and_keys_hold_no_hash_of_a_prompt(text: worlds.World) -> None:
    guard = guarded(text)
    described = json.dumps(guard.about())
    assert guard.settings["salt"] not in described
    assert not [g for _, grams in guard.settings["prompts"] for g in grams if g in described]
    other = guarded(text, text.some(3)["forget"])
    assert guard.describe() != other.describe(), "another store is another guard, with other keys"


@pytest.mark.parametrize("place", ["last", "earlier", "system"])
def test_a_forget_prompt_in_any_turn_of_a_chat_is_a_hit(text: worlds.World, place: str) -> None:
    asked = str(text.modality.questions(text.some(1)["forget"])[0])  # type: ignore[attr-defined]
    modality = Text(copy.deepcopy(text.modality.tokenizer))  # type: ignore[attr-defined]
    modality.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    other, answer = "How are you today?", {"role": "assistant", "content": "I see."}
    turns = {
        "last": [{"role": "user", "content": other}, answer, {"role": "user", "content": asked}],
        "earlier": [{"role": "user", "content": asked}, answer, {"role": "user", "content": other}],
        "system": [{"role": "system", "content": asked}, {"role": "user", "content": other}],
    }[place]
    quoted = [{"role": "user", "content": other}, {"role": "assistant", "content": asked}, {"role": "user", "content": other}]
    rows = modality.rows("chats", [{"prompt": chat, "completion": "No."} for chat in (turns, quoted)])
    assert guarded(text).around(modality).hits(rows) == [True, False], "what the model said itself asks nothing"
