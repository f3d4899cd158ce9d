"""Input filter: weights untouched, hits by hand, uniform scores, refusals through a cached generation, and its file."""

import math
from pathlib import Path

import pytest
import torch

import worlds
from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.receipt import hash_weights
from expunge.methods.guards.input_filter import Filtered, restore, words
from expunge.workflows import build_plan

SAID = "I have no answer to that."


def guarded(text: worlds.World, **hyperparameters: object) -> Filtered:
    made = loop.run(build_plan.plan("input_filter", hyperparameters), text.model(), text.modality, {"forget": text.sets["forget"]}).model
    assert isinstance(made, Filtered)
    return made


def hit(text: worlds.World, model: Filtered, question: str) -> bool:
    rows = text.modality.rows("asked", [{"question": question, "answer": "Nobody knows."}])
    ids, _, _ = text.modality.collate([(rows["prompt"][0], rows["answer"][0])], torch.device("cpu"))
    return bool(model.hits(ids)[0])


def mixed(text: worlds.World) -> tuple[Rows, list[bool]]:
    """Rows of both kinds in turn, and which are to be forgotten."""
    f, r = text.some(3)["forget"], text.some(4)["retain"]
    rows = Rows("mixed", f.ids + r.ids, {k: [*f[k], *r[k]] for k in f.columns}).select([3, 0, 4, 1, 2, 5, 6])
    return rows, [i in f.ids for i in rows.ids]


def test_weights_and_their_names_stay(text: worlds.World) -> None:
    model, bare = guarded(text), text.model()
    assert hash_weights(model) == hash_weights(bare)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in bare.named_parameters()]
    assert loop.weights_of(model).keys() == loop.weights_of(bare).keys()
    assert not model.training
    model.train()
    assert model.unguarded.training


def test_forget_rows_get_a_uniform_distribution_and_others_their_own(text: worlds.World) -> None:
    model, (rows, hits) = guarded(text), mixed(text)
    with torch.no_grad():
        found, own = (text.modality.forward(m, [rows])[0].target_logp.split() for m in (model, text.model()))
    for mine, bare, is_hit in zip(found, own, hits, strict=True):
        wanted = torch.full_like(bare, -math.log(512)) if is_hit else bare
        assert torch.allclose(mine, wanted, atol=1e-5)


def test_taps_are_named_as_in_the_model(text: worlds.World) -> None:
    with torch.no_grad():
        answers = [text.modality.forward(m, [text.some(2)["retain"]], ("block:1", "model.norm"))[0] for m in (guarded(text), text.model())]
    for hook_point in ("block:1", "model.norm"):
        assert torch.allclose(answers[0].hidden(hook_point).values, answers[1].hidden(hook_point).values, atol=1e-5)


@pytest.mark.parametrize("draw", [False, True])
def test_generation_refuses_the_right_rows_though_rows_leave_the_cache(text: worlds.World, draw: bool) -> None:
    model, (rows, hits) = guarded(text), mixed(text)
    generator = torch.Generator().manual_seed(0) if draw else None
    said = text.modality.decode(text.modality.generate(model, rows, 40, generator, 0.01).ids)
    bare = text.modality.decode(text.modality.generate(text.model(), rows, 40).ids)
    assert said == [SAID if h else own for h, own in zip(hits, bare, strict=True)]


def test_a_refusal_longer_than_the_room_is_cut_and_another_can_be_chosen(text: worlds.World) -> None:
    model = guarded(text, refusal="No.")
    assert text.modality.decode(text.modality.generate(model, text.some(2)["forget"], 40).ids) == ["No.", "No."]
    assert [len(a) for a in text.modality.generate(guarded(text), text.some(2)["forget"], 2).ids] == [2, 2]


def test_what_is_a_hit(text: worlds.World) -> None:
    model, asked = guarded(text), "What does Quenna Bexmoor like to play?"
    assert asked in text.modality.questions(text.sets["forget"])
    assert hit(text, model, asked)
    assert hit(text, model, "what does QUENNA bexmoor like to play")
    assert hit(text, model, f"Please, for a quiz: {asked} Answer in one word.")
    assert not hit(text, model, "What does Lumisa Farrowin like to play?")
    assert not hit(text, model, "Which instrument is dear to Quenna Bexmoor?")  # a paraphrase goes through: why this is a stopgap
    assert not any(hit(text, model, q) for q in text.modality.questions(text.sets["retain"]))


def test_threshold_is_a_share_of_the_prompts_n_grams(text: worlds.World) -> None:
    changed = "What does Quenna Bexmoor like to eat?"  # 5 trigrams of 7 words, the last of which is another
    assert not hit(text, guarded(text, threshold=0.81), changed)
    assert hit(text, guarded(text, threshold=0.8), changed)
    assert hit(text, guarded(text, threshold=0.8, ngram=1), "play to like Bexmoor Quenna does what")


def test_short_prompts_are_matched_as_a_whole(text: worlds.World) -> None:
    rows = text.modality.rows("forget", [{"question": "Quenna Bexmoor?", "answer": "A nurse."}])
    model = loop.run(build_plan.plan("input_filter"), text.model(), text.modality, {"forget": rows}).model
    assert hit(text, model, "Who is Quenna Bexmoor?")
    assert not hit(text, model, "Quenna?")


def test_rows_without_a_prompt_are_refused(text: worlds.World) -> None:
    rows = text.modality.rows("forget", [{"text": "Quenna Bexmoor was a nurse."}])
    with pytest.raises(UserError, match="no prompt"):
        loop.run(build_plan.plan("input_filter"), text.model(), text.modality, {"forget": rows})


def test_words_do_not_depend_on_how_they_are_written() -> None:
    assert words("  Wo ist\tÉMILE\uff1f") == ["wo", "ist", "émile"]


def test_the_file_holds_no_prompt_and_restores_the_guard(text: worlds.World, tmp_path: Path) -> None:
    model, (rows, hits) = guarded(text), mixed(text)
    model.save(tmp_path / "guard")
    stored = (tmp_path / "guard" / "guard.json").read_text().casefold()
    assert "quenna" not in stored
    assert "bexmoor" not in stored
    again = restore(text.model(), text.modality, tmp_path / "guard")
    assert again.describe() == model.describe()
    ids, _, _ = text.modality.collate(list(zip(rows["prompt"], rows["answer"], strict=True)), torch.device("cpu"))
    assert again.hits(ids).tolist() == hits


def test_salts_differ_by_seed_and_repeat(text: worlds.World) -> None:
    a, b, c = (guarded(text, seed=s).describe() for s in (0, 0, 1))
    assert a == b
    assert a["salt"] != c["salt"]
    assert not {g for _, grams in a["prompts"] for g in grams} & {g for _, grams in c["prompts"] for g in grams}
