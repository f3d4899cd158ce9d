"""ICU: its losses against values written on a table of scores, who is paired, who rests, when it ends, and what is left of the model."""

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
from expunge.methods.objectives.icu import IcuStop, Keep, Neighbours, Recited, bert_score, bleu, near
from expunge.methods.terms import Ascent
from expunge.workflows import build_plan


def learned() -> Sets:
    """Rows to forget and the rows learned beside them."""
    sets = tables.batch()
    return {"forget": sets["forget"], "learn": sets["retain"].rename("learn")}


@pytest.mark.parametrize("micro_batch_size", [0, 1, 2])
def test_value_and_gradient_by_hand(micro_batch_size: int) -> None:
    sets, table, old = learned(), tables.scores(9).requires_grad_(), tables.scores(9, seed=1)
    forget, learn = (torch.cat(tables.logps(table, sets[n])) for n in ("forget", "learn"))
    places = [(p, t) for p, answer in zip(sets["learn"]["prompt"], sets["learn"]["answer"], strict=True) for t in range(len(answer))]
    cross = torch.stack([(old[p, t].softmax(0) * table[p, t].log_softmax(0)).sum() for p, t in places])
    wanted = forget.mean() - 0.5 * learn.mean() - cross.mean()
    value, grad = tables.ask(build_plan.plan("icu")[0].action, sets, table.detach(), old, micro_batch_size)
    assert value == pytest.approx(float(wanted.detach()), rel=1e-12)
    assert torch.allclose(grad, tables.slope(wanted, table), atol=1e-12)


def test_ascent_alone_is_knowledge_unlearning() -> None:
    sets, table = learned(), tables.scores(9)
    mine = tables.ask(build_plan.plan("icu", {"learn_weight": 0, "kl_weight": 0})[0].action, sets, table)
    plain = tables.ask(Ascent(), sets, table)
    assert mine[0] == plain[0]
    assert torch.equal(mine[1], plain[1])


def test_at_the_reference_the_distance_is_an_entropy_and_has_no_gradient() -> None:
    sets, table = learned(), tables.scores(9)
    at = [(p, t) for p, answer in zip(sets["learn"]["prompt"], sets["learn"]["answer"], strict=True) for t in range(len(answer))]
    p = torch.stack([table[a].softmax(0) for a in at])
    value, grad = tables.ask(Keep(), sets, table)
    assert value == pytest.approx(float(-(p * p.log()).sum(-1).mean()))
    assert grad.abs().max() < 1e-15


def test_pairs_by_words() -> None:
    pool = ["a red cat sleeps", "the year is 1929", "music by night"]
    assert near(["In which year? 1929", "a cat"], pool) == [1, 0]


def test_each_row_is_paired_with_the_nearest_retain_row(text: worlds.World) -> None:
    part = Neighbours()
    made = part.pick(text.sets, view(text, part))["learn"]
    assert len(made) == len(text.sets["forget"])
    assert set(made.ids) <= set(text.sets["retain"].ids)
    topics = [
        {w for w in ("born", "book", "instrument", "mother", "father") if w in q} for q in text.modality.questions(text.sets["forget"])
    ]
    others = text.modality.questions(made)
    assert all(any(w in q for w in words) for words, q in zip(topics, others, strict=True) if words)


@pytest.mark.parametrize(
    ("said", "true", "wanted"),
    [
        ("The cat sat.", "the cat sat .", 1.0),
        ("a b c d e", "a b c d f", (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25),
        ("a b c d", "a b c d e", math.exp(1 - 5 / 4)),
        ("Paris", "Paris", 1.0),
        ("a b c x d e f", "a b c y d e f", 0.0),
        ("", "a b", 0.0),
    ],
)
def test_bleu_by_hand(said: str, true: str, wanted: float) -> None:
    assert bleu(said, true) == pytest.approx(wanted, abs=1e-12)


def view(world: worlds.World, part: object, model: torch.nn.Module | None = None, **more: Rows) -> context.RunView:
    run = loop.new_state(model or world.model(), world.modality, worlds.accelerator())
    return context.RunView(run, {**world.sets, **more}).at("part", part)


def pairs(world: worlds.World) -> dict[str, Rows]:
    """Two rows that the model knows and two that it never saw, with neighbours."""
    known, unknown = world.sets["retain"].select([0, 1]), world.sets["holdout"].select([0, 1])
    return {"forget": known.concat(unknown).rename("forget"), "learn": world.sets["retain"].select([2, 3, 4, 5]).rename("learn")}


def test_what_is_not_given_back_rests_with_its_pair(text: worlds.World) -> None:
    sets, part = pairs(text), Recited(bleu=0.9)
    picked = part.pick(sets, view(text, part, **sets))
    assert picked["forget"].ids == sets["forget"].ids[:2]
    assert picked["learn"].ids == sets["learn"].ids[:2]
    assert [len(part.pick(sets, view(text, part, **sets))["forget"]) for part in (Recited(bleu=0), Recited(bleu=1.01))] == [4, 0]


def test_a_text_is_given_to_three_quarters_and_a_question_without_its_answer(text: worlds.World) -> None:
    texts = text.modality.rows("forget", [{"text": "The trade of Somebody is that of a baker, and so on."}])
    asked = text.some(1)["forget"]
    assert icu.starts(texts, view(text, Recited()), 0.75) == [int(0.75 * len(texts["answer"][0]))]
    assert icu.starts(asked, view(text, Recited()), 0.75) == [0]
    begun = text.modality.begun(texts, [5])
    assert begun["prompt"][0] + begun["answer"][0] == texts["prompt"][0] + texts["answer"][0]
    assert len(begun["answer"][0]) == len(texts["answer"][0]) - 5


def test_all_rows_at_rest_end_it_before_the_first_step(text: worlds.World) -> None:
    run = loop.run(build_plan.plan("icu", {"bleu": 1.01}), text.model(), text.modality, text.sets)
    assert run.cost.steps == 0
    assert run.log[-1]["ended"] == "no rows left to forget"


def test_memory_of_what_is_known_by_heart_and_of_what_is_not(text: worlds.World) -> None:
    part = IcuStop()
    assert part.memory(view(text, part, forget=text.sets["retain"].select(range(20))), "forget") == (1.0, 1.0)
    model = text.model("random")
    ma, el = part.memory(view(text, part, model, forget=text.sets["forget"]), "forget")
    assert ma < 0.1
    assert el == 0


def test_memory_is_that_of_the_metrics(text: worlds.World) -> None:
    """One unseen row, by the functions of the metrics: its prompt is the first token of what they look at."""
    row, part, model = text.sets["holdout"].select([1]), IcuStop(n=3), text.model()
    answer = row["answer"][0]
    with torch.no_grad():
        guesses = text.modality.forward(model, [row])[0].logits.values.argmax(-1).tolist()
    said = [text.modality.generate(model, text.modality.begun(row, [t]), 40).ids[0] for t in range(len(answer) - 3)]
    ends = len(answer) - 1
    ma, el = part.memory(view(text, part, model, forget=row.rename("forget")), "forget")
    assert ma == pytest.approx(memorization_accuracy([-1, *answer], guesses))
    assert el == pytest.approx(extraction_likelihood(answer[:-1], [s[: ends - t] for t, s in enumerate(said)], 3, start=0))
    assert 0 < el < 1


@pytest.mark.parametrize("steps", [0, 3, 20])
def test_what_is_said_from_every_start_is_found_where_the_model_errs(
    text: worlds.World, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of models that know some rows and of some that have lost them, token for token what each start by itself gives."""
    model, found = text.model(), []
    loop.run(build_plan.plan("graddiff", {"lr": 1e-3, "steps": steps, "epochs": 9 * bool(steps)}), model, text.modality, text.sets)
    rows = text.sets["forget"].concat(text.sets["holdout"].select(range(3))).rename("forget")
    at, part = view(text, IcuStop(), model, forget=rows), IcuStop(n=4)
    spoken, continued = [], icu.continuations
    monkeypatch.setattr(icu, "continuations", lambda *a: found.append(continued(*a)) or found[-1])
    monkeypatch.setattr(type(at), "generate", lambda self, some, n: spoken.extend(some.ids) or text.modality.generate(model, some, n))
    part.memory(at, "forget")
    answers = [a[: len(a) - end] for a, end in zip(rows["answer"], text.modality.ended(rows), strict=True)]
    for i, answer in enumerate(answers):
        asked = list(range(len(answer) - 3))
        begun = text.modality.begun(rows.select([i] * len(asked)), asked)
        alone = [said[: len(answer) - t] for t, said in zip(asked, text.modality.generate(model, begun, len(answer)).ids, strict=True)]
        assert found[0][i] == alone
    assert 0 < len(spoken) < sum(len(a) - 3 for a in answers)


def test_ends_where_both_scores_are_below_their_thresholds(text: worlds.World) -> None:
    for hyperparameters, stops in (({"ma": 1.1, "el": 1.1}, True), ({"ma": 1.1, "el": 0.5}, False), ({"ma": 0.5, "el": 1.1}, False)):
        run = loop.run(build_plan.plan("icu", {**hyperparameters, "epochs": 1}), text.model(), text.modality, text.sets)
        assert run.log[-1]["ended"].startswith("forgotten: MA 1.000") == stops
        assert (run.cost.steps == 0) == stops


def test_thresholds_of_rows_that_were_never_seen(text: worlds.World) -> None:
    plan = build_plan.plan("icu", {"unseen": True, "n": 4})[0]
    assert "holdout" in plan.sets_read()
    part, asked = plan.stop_rules[0], IcuStop(n=4)
    unseen = part.begin(view(text, part))
    ma, el = asked.memory(view(text, asked, forget=text.sets["holdout"]), "forget")
    assert (float(unseen["ma"]), float(unseen["el"])) == pytest.approx((ma, el))
    assert 0 < el < ma < 1


def test_forgets_and_spares_what_ascent_ruins_that_ends_by_the_same_scores(text: worlds.World) -> None:
    whole = build_plan.plan("icu", {"lr": 3e-4, "epochs": 20, "n": 4, "unseen": True})[0]
    ascent = replace(whole, action=Ascent(), selectors=())
    spared, forgotten = {}, {}
    for name, plan in (("icu", whole), ("ascent", ascent)):
        model = text.model()
        ended = loop.run((plan,), model, text.modality, text.sets).log[-1]["ended"]
        spared[name], forgotten[name] = (worlds.nll(model, text.modality, text.sets[n]) for n in ("retain", "forget"))
    assert ended.startswith("forgotten")
    assert min(forgotten.values()) > 1.5
    assert spared["icu"] < 0.6
    assert spared["ascent"] > 3 * spared["icu"]


@pytest.fixture
def encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sentence encoder whose token vectors are letters."""

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


def test_an_encoder_pairs_and_scores(encoders: None, text: worlds.World) -> None:
    assert near(["aab"], ["ccc", "ab"], "letters") == [1]
    assert bert_score(["ab"], ["abcd"], "letters") == pytest.approx([2 * 1 * 0.5 / 1.5])
    sets = pairs(text)
    keep = {both: Recited("letters", bleu=0, f1=1.01, both=both) for both in (False, True)}
    assert [len(p.pick(sets, view(text, p, **sets))["forget"]) for p in keep.values()] == [0, 4]


def test_says_which_extra_an_encoder_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    icu.encoder_of.cache_clear()
    with pytest.raises(UserError, match=r"expunge\[similarity\]"):
        near(["a"], ["b"], "some/encoder")
