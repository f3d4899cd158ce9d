"""What can be read in recommenders besides losses and ranks, beside values from plain tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_ranking import Listed

import recommenders
from expunge import recommender
from expunge.core.rows import Rows
from expunge.modalities.ranking import representations
from expunge.modalities.ranking.modality import Ranking
from expunge.modalities.ranking.models.bpr_mf import MatrixFactorization

USERS, ITEMS = 3, 6
PAIRS = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 3), (2, 4)]


def small() -> tuple[MatrixFactorization, Ranking]:
    """Random vectors of three users and six items, with six interactions."""
    torch.manual_seed(0)
    model = MatrixFactorization(USERS, ITEMS, 4)
    torch.nn.init.normal_(model.user_table.weight)
    torch.nn.init.normal_(model.item_table.weight)
    records = [{"user": str(u), "item": str(i)} for u, i in PAIRS]
    opened = recommender(model, [str(u) for u in range(USERS)], [str(i) for i in range(ITEMS)], records, "bpr")
    return model, opened.modality  # type: ignore[return-value]


def asked(modality: Ranking, *pairs: tuple[int, int], name: str = "forget") -> Rows:
    return modality.rows(name, [{"user": str(u), "item": str(i)} for u, i in pairs])


@pytest.mark.parametrize("name", [n for n in recommenders.MODELS if n not in ("neumf", "dmf")])
def test_scores_are_products_of_vectors(name: str) -> None:
    model, modality = recommenders.built(name)
    rows = modality.rows("retain", recommenders.records()[1][:12])
    both = representations.vectors(model, modality)
    assert both is not None
    products = (both[0][list(rows["user"])] * both[1][list(rows["item"])]).sum(1)
    with torch.no_grad():
        scores = model(torch.tensor(rows["user"]), torch.tensor(rows["item"]))
    assert torch.allclose(products, scores, atol=1e-6)
    assert np.allclose(representations.scores(model, rows)[:, 0], scores.numpy())


def test_a_model_with_networks_has_the_vectors_of_its_tables() -> None:
    model, modality = recommenders.built("neumf")
    both = representations.vectors(model, modality)
    assert both is not None
    assert [len(x) for x in both] == [len(modality.vocabulary.users), len(modality.vocabulary.items)]


def test_a_model_without_tables_has_no_vectors() -> None:
    opened = recommender(Listed(torch.randn(2, 4)), ["a", "b"], range(4), [{"user": "a", "item": 1}], "bpr")
    rows = opened.modality.rows("forget", [{"user": "a", "item": 1}])
    assert representations.vectors(opened.model, opened.modality) is None  # type: ignore[arg-type]
    assert np.isnan(representations.neighbor_places(opened.model, opened.modality, rows)).all()  # type: ignore[arg-type]


def test_neighbors_of_what_is_left() -> None:
    model, modality = small()
    places = representations.neighbor_places(model, modality, asked(modality, (0, 2), (2, 4)))[:, 0]
    items = model.item_table.weight.detach().numpy()
    items = items / np.linalg.norm(items, axis=1, keepdims=True)
    center = items[0] + items[1]  # what user 0 has besides item 2
    near = {i: float(items[i] @ center) for i in (2, 3, 4, 5)}
    assert places[0] == sorted(near, key=lambda i: -near[i]).index(2)
    own = model.user_table.weight.detach().numpy()[2]  # user 2 has nothing besides item 4
    alone = items @ own
    assert places[1] == int((alone > alone[4]).sum())


def test_removed_items_in_the_rankings_of_others() -> None:
    model, modality = small()
    forget, others = asked(modality, (2, 4), (0, 0)), asked(modality, (0, 1), (1, 3), name="retain")
    places, alike = representations.exposed_places(model, modality, forget, others)
    scores = (model.user_table.weight @ model.item_table.weight.T).detach().numpy()
    free = {0: [3, 4, 5], 1: [1, 2, 4, 5]}  # without what each user had, also in the rows that name the users
    assert places[0].tolist() == [sum(scores[u, i] > scores[u, 4] for i in free[u]) for u in (0, 1)]
    assert np.isnan(places[1]).all(), "user 1 keeps item 0, so it is not removed altogether"
    assert np.isnan(alike).all(), "the model reads no features"


def test_users_of_items_that_look_alike() -> None:
    model, modality = recommenders.built("vbpr")
    forget_records, retain_records, _ = recommenders.records()
    every = [*forget_records, *retain_records]
    item = retain_records[0]["item"]
    forget = modality.rows("forget", [{"user": r["user"], "item": r["item"]} for r in every if r["item"] == item])
    others = modality.rows("retain", retain_records)
    places, alike = representations.exposed_places(model, modality, forget, others)
    vectors = {r["item"]: np.concatenate([np.array(r[n]) / np.linalg.norm(r[n]) for n in ("image", "text")]) for r in every if "image" in r}
    near = sorted((n for n in vectors if n != item), key=lambda n: -float(vectors[n] @ vectors[item]))[: representations.ALIKE]
    users = sorted({r["user"] for r in retain_records}, key=lambda u: modality.vocabulary.user_numbers[u])
    expected = [float(any(r["user"] == u and r["item"] in near for r in every)) for u in users]
    assert alike[0].tolist() == expected
    assert 0 < sum(expected) < len(expected)
    had = {r["user"] for r in every if r["item"] == item}
    assert np.isnan(places[0]).tolist() == [u in had for u in users]


def test_active_users_are_those_with_the_most_rows_that_remain() -> None:
    _, modality = small()
    rows = asked(modality, (0, 0), (1, 0), (2, 4), name="test")
    assert representations.active(modality.known, rows, None)[:, 0].tolist() == [1, 0, 0]
    forget = asked(modality, (0, 0), (0, 1))
    assert representations.active(modality.known, rows, forget)[:, 0].tolist() == [0, 1, 0]


def test_an_attribute_is_a_text_that_users_share() -> None:
    _, modality = recommenders.built("bpr_mf")
    records = recommenders.records()[1]
    plain = [{"user": r["user"], "item": r["item"]} for r in records]
    rows = modality.rows("retain", [{**r, "note": f"n{k}", "name": r["user"], "group": r["user"][:5]} for k, r in enumerate(plain)])
    column, of_user = representations.attribute([rows])
    assert column == "group", "not the note, which differs from row to row, nor the name, which no two users share"
    assert {modality.vocabulary.users[u]: v for u, v in of_user.items()} == {r["user"]: r["user"][:5] for r in plain}
    assert representations.attribute([modality.rows("retain", plain)]) == ("", {})
