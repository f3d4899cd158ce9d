"""Models of recommenders, beside their equations over dense matrices."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import recommenders
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.engine import loop
from expunge.engine.hooks import Hooks
from expunge.methods.contrastive import Contrast
from expunge.modalities.common.fresh import fresh
from expunge.modalities.ranking.models.lightgcn import LightGCN
from expunge.modalities.ranking.network import GraphModel
from expunge.workflows import build_plan


def dense(model: GraphModel) -> Tensor:
    """The matrix of interactions, (users, items)."""
    matrix = torch.zeros(model.users, model.items)
    matrix[model.edges[0], model.edges[1]] = 1
    return matrix


def bipartite(matrix: Tensor) -> Tensor:
    """D^-1/2 A D^-1/2 of the graph, (users + items, users + items)."""
    users, items = matrix.shape
    adjacency = torch.cat([torch.cat([torch.zeros(users, users), matrix], 1), torch.cat([matrix.T, torch.zeros(items, items)], 1)])
    scale = adjacency.sum(1).clamp_min(1) ** -0.5
    return scale[:, None] * adjacency * scale


def all_scores(model: Any) -> Tensor:
    scores: Tensor = model.catalog(torch.arange(model.users))
    return scores


@pytest.mark.parametrize("name", recommenders.MODELS)
def test_the_catalog_has_the_scores_of_pairs(name: str) -> None:
    model, _ = recommenders.built(name)
    users, items = (t.flatten() for t in torch.meshgrid(torch.arange(model.users), torch.arange(model.items), indexing="ij"))
    assert torch.allclose(all_scores(model).flatten(), model(users, items), atol=1e-6)


@pytest.mark.parametrize("name", recommenders.MODELS)
def test_fresh_weights_are_of_the_same_kind_and_keep_features(name: str) -> None:
    model, _ = recommenders.built(name)
    weights = fresh(model, 5)
    for n, t in model.named_buffers():
        if "feature_" in n:
            assert torch.equal(weights[n], t)
    assert not torch.equal(weights["user_table.weight"], model.user_table.weight)  # type: ignore[union-attr]
    assert float(weights["user_table.weight"].std()) == pytest.approx(0.1, abs=0.03)


def test_lightgcn_is_its_matrix_formula() -> None:
    model, _ = recommenders.built("lightgcn")
    step, layers = bipartite(dense(model)), [torch.cat([model.user_table.weight, model.item_table.weight])]
    for _ in range(2):
        layers.append(step @ layers[-1])
    vectors = torch.stack(layers).mean(0)
    assert torch.allclose(all_scores(model), vectors[: model.users] @ vectors[model.users :].T, atol=1e-6)


def test_lightgcn_without_layers_is_matrix_factorization_and_one_edge_swaps_vectors() -> None:
    flat = LightGCN(3, 4, 5, 0)
    assert torch.allclose(all_scores(flat), flat.user_table.weight @ flat.item_table.weight.T)
    pair = LightGCN(1, 1, 5, 1)
    pair.connect(torch.tensor([0]), torch.tensor([0]))
    mean = (pair.user_table.weight + pair.item_table.weight) / 2
    assert all(torch.allclose(v, mean) for v in pair.vectors())


def test_a_removed_edge_carries_nothing() -> None:
    model, modality = recommenders.built("lightgcn")
    forget, retain, _ = recommenders.records()
    modality.remove_rows(model, modality.rows("forget", forget))
    left = dense(model)
    assert int(left.sum()) == len(retain)
    user = modality.vocabulary.user_numbers["user0a00"]
    assert torch.allclose(model.vectors()[0][user], model.user_table.weight[user] / 3, atol=1e-7)
    modality.add_rows(model, modality.rows("retain", forget))
    assert int(dense(model).sum()) == len(retain) + len(forget)


def test_vbpr_is_its_formula() -> None:
    model, _ = recommenders.built("vbpr")
    described = torch.cat([model.feature_0, model.feature_1], 1) @ model.projection.weight.T + model.projection.bias
    own, other = model.user_table.weight.split(16, 1)
    assert torch.allclose(all_scores(model), own @ model.item_table.weight.T + other @ described.T, atol=1e-6)


def test_mmgcn_is_its_formula() -> None:
    model, _ = recommenders.built("mmgcn")
    matrix = dense(model)
    zero = bipartite(matrix) != 0
    mean = zero.float() / zero.sum(1, keepdim=True).clamp_min(1)
    ids, total = torch.cat([model.user_table.weight, model.item_table.weight]), 0
    for graph, features in zip(model.graphs, (model.feature_0, model.feature_1), strict=True):
        x = F.normalize(torch.cat([graph.preference.weight, graph.projection(features)]))
        for w1, w2, w3 in zip(graph.neighbor, graph.own, graph.joined, strict=True):
            h = F.leaky_relu(mean @ (x @ w1.weight.T))
            x = F.leaky_relu(torch.cat([h, F.leaky_relu(w2(x)) + ids], 1) @ w3.weight.T + w3.bias)
        total = total + x / 2
    assert torch.allclose(all_scores(model), total[: model.users] @ total[model.users :].T, atol=1e-5)


def test_mgcn_is_its_formula() -> None:
    model, _ = recommenders.built("mgcn")
    matrix, step = dense(model), bipartite(dense(model))
    ids = torch.cat([model.user_table.weight, model.item_table.weight])
    content = (ids + step @ ids + step @ step @ ids) / 3
    to_users = step[: model.users, model.users :]
    views = []
    for view in model.views:
        unit = F.normalize(view.table.feature_0)
        near = torch.zeros(model.items, model.items).scatter_(1, (unit @ unit.T).topk(10).indices, 1.0)
        degree = near.sum(1) ** -0.5
        gated = model.item_table.weight * view.gate(view.projection(view.table.weight)).sigmoid()
        items = (degree[:, None] * near * degree) @ gated
        views.append(torch.cat([to_users @ items, items]))
    shares = torch.cat([model.query(v) for v in views], 1).softmax(1)
    common = sum(shares[:, i : i + 1] * v for i, v in enumerate(views))
    rest = sum(v.preference(content).sigmoid() * (x - common) for v, x in zip(model.views, views, strict=True))
    vectors = content + (common + rest) / 3
    assert torch.allclose(all_scores(model), vectors[: model.users] @ vectors[model.users :].T, atol=1e-6)
    assert int(matrix.sum()) == model.edges.shape[1]
    assert all(torch.equal(v.table.weight, v.table.feature_0) for v in model.views)


def test_mgcn_contrasts_side_and_content_of_the_rows_of_a_batch() -> None:
    model, modality = recommenders.built("mgcn")
    rows = modality.rows("retain", recommenders.records()[1])
    with torch.no_grad():
        ids = torch.cat([model.user_table.weight, model.item_table.weight])
        step = bipartite(dense(model))
        content = (ids + step @ ids + step @ step @ ids) / 3
        side = torch.cat(model.vectors()) - content
    expected = 0.0
    for at in (torch.tensor(rows["user"]), model.users + torch.tensor(rows["item"])):
        cosines = F.cosine_similarity(side[at][:, None], content[at][None], dim=-1) / 0.2
        expected += float(F.cross_entropy(cosines, torch.arange(len(at))))
    logs: list[dict[str, Any]] = []
    train = Train(epochs=1, batch_size=len(rows), lr=1e-3, anchor="retain")
    loop.run((Plan(0.5 * Contrast(), train=train),), copy.deepcopy(model), modality, {"retain": rows}, hooks=Hooks(log=logs.append))
    assert next(r["loss"] for r in logs if "loss" in r) == pytest.approx(expected / 2, rel=1e-5)


def test_other_models_have_no_views_to_contrast() -> None:
    model, modality = recommenders.built("bpr_mf")
    rows = modality.rows("retain", recommenders.records()[1])
    with pytest.raises(UserError, match="leave --contrast out"):
        loop.run(build_plan.plan("finetune", {"contrast": 0.1}), model, modality, {"retain": rows})


def test_neumf_is_its_formula() -> None:
    model, _ = recommenders.built("neumf")
    u, i = torch.tensor([1, 3]), torch.tensor([0, 4])
    x = torch.cat([model.user_input.weight[u], model.item_input.weight[i]], 1)
    for layer in model.layers:
        x = F.relu(x @ layer.linear.weight.T + layer.linear.bias)
    joined = torch.cat([model.user_table.weight[u] * model.item_table.weight[i], x], 1)
    assert torch.allclose(model(u, i), (joined @ model.output.weight.T + model.output.bias)[:, 0], atol=1e-6)


def test_dmf_is_its_formula() -> None:
    model, _ = recommenders.built("dmf")
    matrix = dense(model)
    towers = []
    for rows, table, tower in ((matrix, model.item_table, model.of_users), (matrix.T, model.user_table, model.of_items)):
        x = rows @ table.weight
        for layer in tower.layers:
            x = F.relu(x @ layer.weight.T + layer.bias)
        towers.append(x)
    cosines = F.cosine_similarity(towers[0][:, None], towers[1][None], dim=-1)
    p = torch.clamp(cosines.double(), 1e-6, 1 - 1e-6)
    assert torch.allclose(all_scores(model).double(), (p / (1 - p)).log(), atol=1e-3)


def test_the_loss_of_dmf_is_cross_entropy_of_cosines() -> None:
    model, modality = recommenders.built("dmf")
    _, retain, _ = recommenders.records()
    rows = modality.rows("retain", retain[:1])
    ((user, item, negatives),) = zip(rows["user"], rows["item"], rows["negatives"], strict=True)
    of_users, of_items = model.vectors()
    p = (of_items[[item, *negatives]] @ of_users[user]).clamp(1e-6, 1 - 1e-6)
    by_hand = F.binary_cross_entropy(p, torch.tensor([1.0, *[0.0] * len(negatives)]))
    assert torch.allclose(modality.forward(model, [rows])[0].loss.values.mean(), by_hand, atol=1e-5)


def test_a_removed_interaction_leaves_the_input_of_dmf() -> None:
    model, modality = recommenders.built("dmf")
    forget, _, _ = recommenders.records()
    modality.remove_rows(model, modality.rows("forget", forget))
    user = modality.vocabulary.user_numbers["user0a00"]
    empty = F.normalize(model.of_users(torch.zeros(1, model.user_table.weight.shape[1])), dim=-1)[0]
    assert torch.allclose(model.vectors()[0][user], empty)
