"""ICU: losses against formulas on a table of logits, pairs, resting rows, the stop rule, and the outcome."""

import math
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch

import tables
import worlds
from expunge.core.errors import UserError
from expunge.core.rows import Rows, Sets
from expunge.engine import context, loop
from expunge.functional.memorization import extraction_likelihood, memorization_accuracy
from expunge.methods.objectives import icu
from expunge.methods.objectives.icu import IcuStop, Keep, Neighbors, Recited, bert_score, bleu, most_similar
from expunge.methods.terms import Ascent
from expunge.workflows import build_plan


def paired_sets() -> Sets:
    """Rows to forget and the rows to learn, pair by pair."""
    sets = tables.batch()
    return {"forget": sets["forget"], "learn": sets["retain"].rename("learn")}


@pytest.mark.parametrize("micro_batch_size", [0, 1, 2])
def test_value_and_gradient_equal_the_formula(micro_batch_size: int) -> None:
    sets, table, reference = paired_sets(), tables.scores(9).requires_grad_(), tables.scores(9, seed=1)
    forget, learn = (torch.cat(tables.logps(table, sets[n])) for n in ("forget", "learn"))
    places = [(p, t) for p, answer in zip(sets["learn"]["prompt"], sets["learn"]["answer"], strict=True) for t in range(len(answer))]
    cross = torch.stack([(reference[p, t].softmax(0) * table[p, t].log_softmax(0)).sum() for p, t in places])
    expected = forget.mean() - 0.5 * learn.mean() - cross.mean()
    value, grad = tables.ask(build_plan.plan("icu")[0].action, sets, table.detach(), reference, micro_batch_size)
    assert value == pytest.approx(float(expected.detach()), rel=1e-12)
    assert torch.allclose(grad, tables.slope(expected, table), atol=1e-12)


def test_equals_gradient_ascent_without_the_other_terms() -> None:
    sets, table = paired_sets(), tables.scores(9)
    value, grad = tables.ask(build_plan.plan("icu", {"learn_weight": 0, "kl_weight": 0})[0].action, sets, table)
    ascent_value, ascent_grad = tables.ask(Ascent(), sets, table)
    assert value == ascent_value
    assert torch.equal(grad, ascent_grad)


def test_keep_equals_the_entropy_at_the_reference_and_has_no_gradient_there() -> None:
    sets, table = paired_sets(), tables.scores(9)
    places = [(p, t) for p, answer in zip(sets["learn"]["prompt"], sets["learn"]["answer"], strict=True) for t in range(len(answer))]
    p = torch.stack([table[a].softmax(0) for a in places])
    value, grad = tables.ask(Keep(), sets, table)
    assert value == pytest.approx(float(-(p * p.log()).sum(-1).mean()))
    assert grad.abs().max() < 1e-15


def test_most_similar_compares_words_without_an_encoder() -> None:
    pool = ["a red cat sleeps", "the year is 1929", "music by night"]
    assert most_similar(["In which year? 1929", "a cat"], pool) == [1, 0]


def test_each_row_is_paired_with_a_similar_retain_row(text: worlds.World) -> None:
    part = Neighbors()
    learn = part.pick(text.sets, view(text, part))["learn"]
    assert len(learn) == len(text.sets["forget"])
    assert set(learn.ids) <= set(text.sets["retain"].ids)
    topics = [
        {w for w in ("born", "book", "instrument", "mother", "father") if w in q} for q in text.modality.questions(text.sets["forget"])
    ]
    questions = text.modality.questions(learn)
    assert all(any(w in q for w in words) for words, q in zip(topics, questions, strict=True) if words)


@pytest.mark.parametrize(
    ("generated", "true", "expected"),
    [
        ("The cat sat.", "the cat sat .", 1.0),
        ("a b c d e", "a b c d f", (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25),
        ("a b c d", "a b c d e", math.exp(1 - 5 / 4)),
        ("Paris", "Paris", 1.0),
        ("a b c x d e f", "a b c y d e f", 0.0),
        ("", "a b", 0.0),
    ],
)
def test_bleu_equals_the_formula(generated: str, true: str, expected: float) -> None:
    assert bleu(generated, true) == pytest.approx(expected, abs=1e-12)


def view(world: worlds.World, part: object, model: torch.nn.Module | None = None, **sets: Rows) -> context.RunView:
    run = loop.new_state(model or world.model(), world.modality, worlds.accelerator())
    return context.RunView(run, {**world.sets, **sets}).at("part", part)


def pairs(world: worlds.World) -> dict[str, Rows]:
    """Two rows that the model knows and two that it has never seen, with neighbors."""
    known, unknown = world.sets["retain"].select([0, 1]), world.sets["holdout"].select([0, 1])
    return {"forget": known.concat(unknown).rename("forget"), "learn": world.sets["retain"].select([2, 3, 4, 5]).rename("learn")}


def test_rows_that_the_model_no_longer_recites_rest_with_their_pair(text: worlds.World) -> None:
    sets, part = pairs(text), Recited(bleu=0.9)
    picked = part.pick(sets, view(text, part, **sets))
    assert picked["forget"].ids == sets["forget"].ids[:2]
    assert picked["learn"].ids == sets["learn"].ids[:2]
    assert [len(part.pick(sets, view(text, part, **sets))["forget"]) for part in (Recited(bleu=0), Recited(bleu=1.01))] == [4, 0]


def test_three_quarters_of_a_text_and_none_of_an_answer_are_given(text: worlds.World) -> None:
    texts = text.modality.rows("forget", [{"text": "The trade of Somebody is that of a baker, and so on."}])
    question = text.some(1)["forget"]
    assert icu.starts(texts, view(text, Recited()), 0.75) == [int(0.75 * len(texts["answer"][0]))]
    assert icu.starts(question, view(text, Recited()), 0.75) == [0]
    begun = text.modality.begun(texts, [5])
    assert begun["prompt"][0] + begun["answer"][0] == texts["prompt"][0] + texts["answer"][0]
    assert len(begun["answer"][0]) == len(texts["answer"][0]) - 5


def test_the_run_ends_before_the_first_step_when_all_rows_rest(text: worlds.World) -> None:
    run = loop.run(build_plan.plan("icu", {"bleu": 1.01}), text.model(), text.modality, text.sets)
    assert run.cost.steps == 0
    assert run.log[-1]["ended"] == "no rows left to forget"


def test_memorization_is_one_for_known_rows_and_near_zero_for_a_random_model(text: worlds.World) -> None:
    part = IcuStop()
    assert part.memorization(view(text, part, forget=text.sets["retain"].select(range(20))), "forget") == (1.0, 1.0)
    model = text.model("random")
    ma, el = part.memorization(view(text, part, model, forget=text.sets["forget"]), "forget")
    assert ma < 0.1
    assert el == 0


def test_memorization_equals_the_metrics(text: worlds.World) -> None:
    """One unseen row by the functions of the metrics, for which the prompt is the first token."""
    row, part, model = text.sets["holdout"].select([1]), IcuStop(n=3), text.model()
    answer = row["answer"][0]
    with torch.no_grad():
        guesses = text.modality.forward(model, [row])[0].logits.values.argmax(-1).tolist()
    generated = [text.modality.generate(model, text.modality.begun(row, [t]), 40).ids[0] for t in range(len(answer) - 3)]
    end = len(answer) - 1
    ma, el = part.memorization(view(text, part, model, forget=row.rename("forget")), "forget")
    assert ma == pytest.approx(memorization_accuracy([-1, *answer], guesses))
    assert el == pytest.approx(extraction_likelihood(answer[:-1], [ids[: end - t] for t, ids in enumerate(generated)], 3, start=0))
    assert 0 < el < 1


@pytest.mark.parametrize("steps", [0, 3, 20])
def test_continuations_from_every_start_equal_separate_generations(text: worlds.World, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They agree token for token, for models that know the rows and for models that have lost them, with fewer generations."""
    model, results = text.model(), []
    loop.run(build_plan.plan("graddiff", {"lr": 1e-3, "steps": steps, "epochs": 9 * bool(steps)}), model, text.modality, text.sets)
    rows = text.sets["forget"].concat(text.sets["holdout"].select(range(3))).rename("forget")
    row_view, part = view(text, IcuStop(), model, forget=rows), IcuStop(n=4)
    generated_ids, continuations = [], icu.continuations
    monkeypatch.setattr(icu, "continuations", lambda *args: results.append(continuations(*args)) or results[-1])
    monkeypatch.setattr(
        type(row_view), "generate", lambda self, rows, n: generated_ids.extend(rows.ids) or text.modality.generate(model, rows, n)
    )
    part.memorization(row_view, "forget")
    answers = [a[: len(a) - end] for a, end in zip(rows["answer"], text.modality.ended(rows), strict=True)]
    for i, answer in enumerate(answers):
        starts = list(range(len(answer) - 3))
        begun = text.modality.begun(rows.select([i] * len(starts)), starts)
        generated = text.modality.generate(model, begun, len(answer)).ids
        assert results[0][i] == [ids[: len(answer) - t] for t, ids in zip(starts, generated, strict=True)]
    assert 0 < len(generated_ids) < sum(len(a) - 3 for a in answers)


def test_the_run_ends_when_both_scores_are_below_their_thresholds(text: worlds.World) -> None:
    for hyperparameters, stops in (({"ma": 1.1, "el": 1.1}, True), ({"ma": 1.1, "el": 0.5}, False), ({"ma": 0.5, "el": 1.1}, False)):
        run = loop.run(build_plan.plan("icu", {**hyperparameters, "epochs": 1}), text.model(), text.modality, text.sets)
        assert run.log[-1]["ended"].startswith("forgotten: MA 1.000") == stops
        assert (run.cost.steps == 0) == stops


def test_unseen_takes_the_thresholds_from_the_holdout_rows(text: worlds.World) -> None:
    plan = build_plan.plan("icu", {"unseen": True, "n": 4})[0]
    assert "holdout" in plan.sets_read()
    part, reference = plan.stop_rules[0], IcuStop(n=4)
    thresholds = part.begin(view(text, part))
    ma, el = reference.memorization(view(text, reference, forget=text.sets["holdout"]), "forget")
    assert (float(thresholds["ma"]), float(thresholds["el"])) == pytest.approx((ma, el))
    assert 0 < el < ma < 1


@pytest.mark.slow
def test_forgets_with_less_damage_than_ascent_with_the_same_stop_rule(text: worlds.World) -> None:
    full = build_plan.plan("icu", {"lr": 3e-4, "epochs": 20, "n": 4, "unseen": True})[0]
    ascent = replace(full, action=Ascent(), selectors=())
    retain, forget = {}, {}
    for name, plan in (("icu", full), ("ascent", ascent)):
        model = text.model()
        ended = loop.run((plan,), model, text.modality, text.sets).log[-1]["ended"]
        retain[name], forget[name] = (worlds.nll(model, text.modality, text.sets[n]) for n in ("retain", "forget"))
    assert ended.startswith("forgotten")
    assert min(forget.values()) > 1.5
    assert retain["icu"] < 0.6
    assert retain["ascent"] > 3 * retain["icu"]


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """Install a fake sentence encoder whose token vectors are letters."""

    class Letters:
        def __init__(self, name: str) -> None:
            self.name = name

        def encode(self, texts: list[str], output_value: str = "sentence_embedding", show_progress_bar: bool = True) -> object:
            letters = [np.eye(26, dtype=np.float32)[[ord(c) - 97 for c in t if c.isalpha() and c.islower()]] for t in texts]
            return letters if output_value == "token_embeddings" else np.stack([x.sum(0) for x in letters])

    fake = types.ModuleType("sentence_transformers")
    fake.SentenceTransformer = Letters
    monkeypatch.setitem(sys.modules, "sentence_transformers", fake)
    icu.encoder_of.cache_clear()


def test_an_encoder_finds_pairs_and_scores_texts(encoders: None, text: worlds.World) -> None:
    assert most_similar(["aab"], ["ccc", "ab"], "letters") == [1]
    assert bert_score(["ab"], ["abcd"], "letters") == pytest.approx([2 * 1 * 0.5 / 1.5])
    sets = pairs(text)
    parts = {both: Recited("letters", bleu=0, f1=1.01, both=both) for both in (False, True)}
    assert [len(p.pick(sets, view(text, p, **sets))["forget"]) for p in parts.values()] == [0, 4]


def test_a_missing_library_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    icu.encoder_of.cache_clear()
    with pytest.raises(UserError, match=r"expunge\[similarity\]"):
        most_similar(["a"], ["b"], "some/encoder")
