"""Interactions as rows: ids, requests, negatives, losses, ranks, files, and sentences about what is wrong."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import logsigmoid

import recommenders
from expunge import UserError, recommender
from expunge.core.rows import Rows
from expunge.engine.weights import weights_of
from expunge.io.data import read
from expunge.io.models import load, rows
from expunge.modalities.common.records import Records
from expunge.modalities.ranking.interactions import Interactions
from expunge.modalities.ranking.modality import Ranking
from expunge.modalities.ranking.models import bpr_mf, vbpr
from expunge.modalities.ranking.network import DotProduct, GraphModel
from expunge.modalities.ranking.vocabulary import Vocabulary


class Listed(nn.Module):
    """A model that is a table of scores."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return self.scores[users, items]


TRAINED = [{"user": "a", "item": 1}, {"user": "a", "item": 2}, {"user": "b", "item": 1}, {"user": "c", "item": 5}]


def table(loss: str = "bpr") -> tuple[nn.Module, Ranking]:
    scores = torch.arange(18.0, dtype=torch.float64).view(3, 6).sin()
    opened = recommender(Listed(scores), ["a", "b", "c"], range(6), TRAINED, loss)  # type: ignore[arg-type]
    return opened.model, opened.modality  # type: ignore[return-value]


def set_negatives(given: Rows, negatives: list[list[int]], modality: Ranking) -> Rows:
    labels = [modality._classes(1, len(n)) for n in negatives]
    return given.add(negatives=negatives, answer=labels)


def test_bpr_and_its_gradient_by_hand() -> None:
    model, modality = table()
    some = set_negatives(modality.rows("forget", TRAINED[:1]), [[4]], modality)
    loss = modality.forward(model, [some])[0].loss.values.sum()
    positive, negative = math.sin(1), math.sin(4)
    assert float(loss.detach()) == pytest.approx(-math.log(1 / (1 + math.exp(negative - positive))))
    (gradient,) = torch.autograd.grad(loss, [model.module.scores])  # type: ignore[union-attr]
    push = 1 / (1 + math.exp(positive - negative))
    assert gradient[0, 1] == pytest.approx(-push)
    assert gradient[0, 4] == pytest.approx(push)
    assert int((gradient != 0).sum()) == 2


def test_an_irrelevant_row_is_reverse_bpr() -> None:
    model, modality = table()
    some = set_negatives(modality.rows("forget", TRAINED[:1]), [[4]], modality)
    swapped = set_negatives(some.add(item=[4]), [[1]], modality)
    reverse = modality.relabel(some, ["irrelevant"], "reverse")
    assert torch.equal(*(modality.forward(model, [r])[0].loss.values for r in (reverse, swapped)))
    assert reverse.ids != some.ids


def test_cross_entropy_has_a_label_for_each_score() -> None:
    model, modality = table("bce")
    some = set_negatives(modality.rows("forget", TRAINED[:1]), [[4, 0]], modality)
    output = modality.forward(model, [some])[0]
    scores = torch.tensor([math.sin(1), -math.sin(4), -math.sin(0)], dtype=torch.float64)
    assert torch.allclose(output.target_logp.values, logsigmoid(scores))
    assert modality.counts(some) == {"rows": 1, "labels": 3, "tokens": 3}
    assert modality.relabel(some, [0], "r")["answer"] == [[0, 0, 0]]


def test_one_pair_is_one_row_by_every_door(tmp_path: Path) -> None:
    _, modality = table()
    (tmp_path / "a.csv").write_text("user,item\na,1\n")
    (tmp_path / "a.jsonl").write_text('{"user": "a", "item": 1}\n{"user": "a", "item": 1.0}\n')
    (tmp_path / "a.inter").write_text("user_id:token\titem_id:token\trating:float\ttimestamp:float\na\t1\t5\t880000000\n")
    ids = [rows(modality, "forget", str(tmp_path / f"a.{kind}")).ids for kind in ("csv", "jsonl", "inter")]  # type: ignore[union-attr]
    assert ids[0] == ids[2] == ids[1][:1]
    assert ids[1][1] == f"{ids[1][0]}#2"


def test_negatives_are_a_function_of_row_and_seed() -> None:
    _, modality = recommenders.built("bpr_mf")
    forget, retain, _ = recommenders.records()
    whole = modality.rows("retain", retain)
    drawn = modality.redraw(whole, 7)
    assert modality.redraw(whole.select([5, 2]), 7)["negatives"] == [drawn["negatives"][5], drawn["negatives"][2]]
    assert modality.redraw(whole, 8)["negatives"] != drawn["negatives"]
    known = {(r["user"], r["item"]) for r in (*forget, *retain)}
    for some in (drawn, whole):
        for user, negatives in zip(some["user"], some["negatives"], strict=True):
            names = {(modality.vocabulary.users[user], modality.vocabulary.items[j]) for j in negatives}
            assert not names & known
    assert modality.rows("retain", retain)["negatives"] == whole["negatives"]


def test_negatives_are_uniform_over_free_items() -> None:
    modality = Ranking(Vocabulary(("u",), tuple("abcdef")), Interactions([0], [2], 1, 6))
    one = modality.rows("retain", [{"user": "u", "item": "c"}])
    drawn = [modality.redraw(one, seed)["negatives"][0][0] for seed in range(3000)]
    assert set(drawn) == {0, 1, 3, 4, 5}
    assert min(np.bincount(drawn)[[0, 1, 3, 4, 5]]) > 500


def test_ranks_are_those_of_a_sorted_catalog() -> None:
    model, modality = table()
    some = modality.rows("forget", [*TRAINED, {"user": "c", "item": 0}])
    scores = model.module.scores.detach().numpy()  # type: ignore[union-attr]
    trained = {0: {1, 2}, 1: {1}, 2: {5}}
    expected = []
    for u, i in zip(some["user"], some["item"], strict=True):
        own = {k for v, k in zip(some["user"], some["item"], strict=True) if v == u}
        candidates = [j for j in range(6) if j not in trained[u] - own]
        expected.append(sorted(candidates, key=lambda j: -scores[u, j]).index(i))
    assert modality.ranks(model, some).tolist() == expected
    alone = modality.rows("holdout", [{"user": "a", "item": 0}])
    order = sorted(set(range(6)) - {1, 2}, key=lambda j: -scores[0, j])
    assert modality.ranks(model, alone).tolist() == [order.index(0)]
    unmasked = sorted(range(6), key=lambda j: -scores[0, j])
    assert modality.ranks(model, alone, mask=False).tolist() == [unmasked.index(0)]
    assert torch.equal(modality.score_items(model, some), model.module.scores.detach().float())  # type: ignore[union-attr]


def test_ties_share_the_middle_and_nan_has_no_rank() -> None:
    flat = recommender(Listed(torch.zeros(1, 5)), ["a"], range(5), [{"user": "a", "item": 0}])
    one = flat.modality.rows("holdout", [{"user": "a", "item": 3}])
    assert flat.modality.ranks(flat.model, one, mask=False).tolist() == [2]  # type: ignore[attr-defined]
    broken = recommender(Listed(torch.full((1, 5), torch.nan)), ["a"], range(5), [{"user": "a", "item": 0}])
    assert broken.modality.ranks(broken.model, one).tolist() == [-1]  # type: ignore[attr-defined]


def test_a_user_or_an_item_alone_stands_for_its_interactions() -> None:
    _, modality = table()
    records = Records([{"user": "a"}, {"item": 1}], "f.csv")
    selected = modality.rows("forget", records)
    assert list(zip(selected["user"], selected["item"], strict=True)) == [(0, 1), (0, 2), (0, 1), (1, 1)]
    assert selected["record"] == [0, 0, 1, 1]
    assert records.notes == [
        "'forget' names 1 user alone: it stands for all 2 training interactions with it",
        "'forget' names 1 item alone: it stands for all 2 training interactions with it",
    ]


def test_what_is_removed_leaves_graph_masks_and_files(tmp_path: Path) -> None:
    model, modality = recommenders.built("lightgcn")
    forget, retain, _ = recommenders.records()
    gone = modality.rows("forget", forget)
    before = model.edges.shape[1]
    sentences = modality.remove_rows(model, gone)
    assert sentences[0] == f"{len(forget)} interactions to forget were taken out of the training interactions that are kept with the model"
    assert "2 users have no training interactions left" in sentences[1]
    assert model.edges.shape[1] == before - len(forget)
    modality.save(model, tmp_path)
    again = load(tmp_path)
    pairs = {(r["user"], r["item"]) for r in retain}
    user, item = again.modality.known.pairs  # type: ignore[attr-defined]
    vocabulary = modality.vocabulary
    assert {(vocabulary.users[u], vocabulary.items[i]) for u, i in zip(user, item, strict=True)} == pairs
    with pytest.raises(UserError, match=r"rows name 1 user \('user0a00'\) alone, and the model has no training interactions with it"):
        again.modality.rows("forget", [{"user": "user0a00"}])


@pytest.mark.parametrize("name", recommenders.MODELS)
def test_a_saved_model_is_the_same_bit_for_bit(name: str, tmp_path: Path) -> None:
    model, modality = recommenders.built(name, seed=4)
    modality.save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    before, after = weights_of(model), weights_of(again.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    unseen = recommenders.records()[2]
    first, second = (m.ranks(x, m.rows("holdout", unseen)) for x, m in ((model, modality), (again.model, again.modality)))
    assert torch.equal(first, second)
    assert again.modality.about() == modality.about()


@pytest.mark.parametrize(
    ("rows_", "message"),
    [
        ([{"userId": 1, "movieId": 2}], "row 1: an interaction has the columns 'user' and 'item', and this row has 'userId', 'movieId'"),
        ([{"user": "a", "item": 1, "time": "monday"}], "row 1, column 'time': a time is the seconds since 1970"),
        ([{"user": "a", "item": 1, "rating": "good"}], "row 1, column 'rating': a rating is a number"),
        ([{"user": "a", "item": 1.5}], "row 1, column 'item': an id is a text or a whole number, and this is a number with a fraction"),
        ([{"user": "z", "item": 1}, {"user": "a", "item": 77}], r"does not know 1 user \('z'\) and 1 item \('77'\)"),
        (
            [{"user": "a", "film": 1}, {"user": "b", "film": 1}, {"user": "a", "film": 2}],
            r"row 3: this row has no 'item' and the same user as row 1; a user alone .* has 'user', 'film'; .* --map, as item=COLUMN",
        ),
        ([{"user": "a", "film": 1, "time": 3}], "row 1: this row has no 'item' and a time, which an interaction has"),
        ([{"item": 1, "rating": 5}], "row 1: this row has no 'user' and a rating, which an interaction has"),
        ([{"user": "a", "item": i} for i in range(6)], r"1 user \('a'\) interacted with all 6 items"),
    ],
)
def test_what_is_wrong_is_said(rows_: list[dict[str, object]], message: str) -> None:
    _, modality = table()
    with pytest.raises(UserError, match=message):
        modality.rows("forget", rows_, "f.csv")


def test_wrong_files_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.inter"
    for text, message in (
        ("user,item\na,1\n", "line 1: the header of an atomic file names each field with its type"),
        ("user_id:token\titem_id:token\na\n", "line 2: 1 cells where the header has 2"),
        (
            "user_id:token\ttimestamp:float\na\tx\n",
            "line 2: the field 'timestamp' is of type float, and here stands a text that is no number",
        ),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read(file)


def test_items_without_features_are_counted() -> None:
    data = [{"user": "a", "item": i} for i in "xyz"]
    with pytest.raises(UserError, match="vbpr reads features of items, and no row has any"):
        vbpr.start("vbpr-nano", data)
    with pytest.raises(UserError, match=r"2 items \('y', 'z'\) of 3 without 'image'"):
        vbpr.start("vbpr-nano", data, vocabulary=[{"item": "x", "image": [1.0, 2.0]}])
    columns = [{"item": i, "year": str(k), "length": k} for k, i in enumerate("xyz")]
    model, _ = vbpr.start("vbpr-nano", data, vocabulary=columns)
    assert model.get_buffer("feature_0").tolist() == [[0, 0], [1, 1], [2, 2]]


def test_a_model_without_its_interactions_or_with_pickles_does_not_load(tmp_path: Path) -> None:
    model, modality = bpr_mf.start("bpr_mf-nano", TRAINED)
    modality.save(model, tmp_path)
    (tmp_path / "interactions.safetensors").unlink()
    with pytest.raises(UserError, match="a recommender needs its training interactions"):
        load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.pth").write_bytes(b"")
    with pytest.raises(UserError, match="pickled ones can run code"):
        load(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["users"] == ["a", "b", "c"]


def test_a_module_without_a_way_to_score_is_refused_in_a_sentence() -> None:
    class Mute(torch.nn.Module):
        pass

    class Half(DotProduct):
        pass

    with pytest.raises(UserError, match=r"Mute has no method to score with: give the class forward\(users, items\)"):
        recommender(Mute(), ["a"], range(5), [{"user": "a", "item": 0}])
    with pytest.raises(UserError, match=r"Half has no method to score with: give the class user_vectors\(users\)"):
        Half(1, 5)(torch.tensor([0]), torch.tensor([1]))
    with pytest.raises(UserError, match=r"GraphModel has no method to score with: give the class vectors\(\)"):
        GraphModel(1, 5).catalog(torch.tensor([0]))
