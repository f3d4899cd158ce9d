"""RecEraser: the joined tables by hand, one shard is its own model, touched shards alone are retrained, and what a user gets."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import recommenders
import tastes
import worlds
from cases import expunge
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.core.random import seed_of
from expunge.core.rows import Rows
from expunge.engine import artifact, loop
from expunge.engine.run_state import RunState
from expunge.io.models import load
from expunge.methods.attentive import AttentiveTable, Transfer
from expunge.methods.by_design.receraser import RecEraser, Ridge
from expunge.methods.clusters import Similar
from expunge.methods.terms import NLL

TRAIN = Train(epochs=3, lr=3e-2, batch_size=32, anchor="retain", optimizer="adam", schedule="constant")


def fitted(model: str = "bpr_mf", store: Any = None, gone: int = 0, **settings: Any) -> tuple[RunState, Rows]:
    """A run on all training rows of the tiny world; with a store, on its first rows of one user."""
    forget, retain, _ = recommenders.records()
    network, modality = recommenders.built(model)
    plan = Plan(RecEraser(**{"shards": 2, "aggregation_epochs": 2, "train": TRAIN, **settings}))
    rows = modality.rows("retain", [*forget, *retain])
    sets = {"retain": rows} if store is None else {"forget": rows.select(range(min(gone, len(rows)))).rename("forget")}
    if store is not None:
        modality.remove_rows(network, sets["forget"])
    return loop.run((plan,), network, modality, sets, store=store), rows


def test_a_joined_vector_by_hand() -> None:
    tables, transfer = torch.tensor([[[1.0, 2.0]], [[3.0, -1.0]]]), Transfer(2, 2)
    table = AttentiveTable(tables, transfer)
    with torch.no_grad():
        transfer.weight[1] = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
        transfer.bias[1, 0] = torch.tensor([0.5, 0.0])
        table.hidden.weight.copy_(torch.tensor([[1.0, 1.0]]))
        table.hidden.bias.fill_(-1.0)
        table.score.weight.fill_(0.5)
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([0.0 * 3 + 1 * -1 + 0.5, 2.0 * 3])
    scores = torch.tensor([0.5 * max(0.0, 1 + 2 - 1), 0.5 * max(0.0, -0.5 + 6 - 1)])
    shares = scores.exp() / scores.exp().sum()
    assert torch.allclose(table.weight[0], shares[0] * first + shares[1] * second)
    mapped = transfer(tables)
    assert torch.allclose(table.shares(mapped).sum(0), torch.ones(1, 1))


def test_dropout_is_for_training_alone() -> None:
    table = AttentiveTable(torch.ones(1, 50, 4), Transfer(1, 4), 0.5)
    assert set(table.train().weight.unique().tolist()) == {0.0, 2.0}
    assert set(table.eval().weight.unique().tolist()) == {1.0}


def test_one_shard_without_attention_is_its_own_model() -> None:
    run, rows = fitted(shards=1, aggregation_epochs=0)
    assert run.store is not None
    network, modality = recommenders.built("bpr_mf")
    loop.put(network, run.store["start"])
    in_order = rows.select(sorted(range(len(rows)), key=lambda i: rows.ids[i]))
    loop.run((Plan(NLL("retain"), train=TRAIN),), network, modality, {"retain": in_order}, seed=seed_of(0, "/do", 0, "0/1"))
    assert worlds.far(worlds.tensors(run.model), worlds.tensors(network)) < 1e-6
    assert type(run.model) is type(network)


@pytest.mark.parametrize("model", ["bpr_mf", "wmf", "lightgcn"])
def test_forgetting_retrains_the_touched_shards_as_if_the_rows_had_never_been_in_them(model: str) -> None:
    store = fitted(model)[0].store
    assert store is not None
    run, rows = fitted(model, store, gone=2)
    assert run.store is not None
    touched = [k for k, shard in enumerate(store["shards"]) if not set(shard["rows"].ids).isdisjoint(rows.ids[:2])]
    assert len({c["shard"] for c in run.shown["shards"]}) == len(touched)
    for k, (before, after) in enumerate(zip(store["shards"], run.store["shards"], strict=True)):
        same = worlds.same(*([*shard["checkpoints"][-1].values()] for shard in (before, after)))
        assert same == (k not in touched)
        assert set(after["rows"].ids) == set(before["rows"].ids) - set(rows.ids[:2])
    # a shard that has the rest of its rows alone, trained anew with the seed of the shard
    k = touched[0]
    rest = run.store["shards"][k]["rows"]
    network, modality = recommenders.built(model)
    loop.put(network, store["start"])
    names = zip(modality.questions(rest), modality.answer_texts(rest), strict=True)
    records = [{"user": user, "item": item} for user, item in names]
    modality.known = type(modality.known)(rest["user"], rest["item"], modality.known.users, modality.known.items)
    modality.connect(network)
    own = modality.rows("retain", records)
    assert [list(own[c]) for c in ("negatives", "known")] == [list(rest[c]) for c in ("negatives", "known")], "no trace of other rows"
    loop.run((Plan(NLL("retain"), train=TRAIN),), network, modality, {"retain": own}, seed=seed_of(0, "/do", 0, f"{k}/1"))
    assert worlds.same([*run.store["shards"][k]["checkpoints"][-1].values()], worlds.tensors(network))


def test_forgetting_is_the_same_at_once_and_one_by_one() -> None:
    store = fitted()[0].store
    once = fitted(store=store, gone=3)[0]
    step: Any = store
    for gone in (1, 2, 3):
        network, modality = recommenders.built("bpr_mf")
        forget, retain, _ = recommenders.records()
        rows = modality.rows("forget", [*forget, *retain]).select([gone - 1])
        plan = Plan(RecEraser(shards=2, aggregation_epochs=2, train=TRAIN))
        run = loop.run((plan,), network, modality, {"forget": rows}, store=step)
        step = run.store
    assert worlds.same(worlds.tensors(once.model), worlds.tensors(run.model))


def test_the_attention_trains_and_its_ridge_counts_once() -> None:
    bare, trained = fitted(aggregation_epochs=0)[0], fitted(aggregation_epochs=3)[0]
    assert not worlds.same(worlds.tensors(bare.model), worlds.tensors(trained.model))
    ends = [fitted(ridge=r, dropout=0.0, train=replace(TRAIN, micro_batch_size=m))[0] for r, m in ((5.0, 0), (5.0, 8), (0.0, 0))]
    assert worlds.far(worlds.tensors(ends[0].model), worlds.tensors(ends[1].model)) < 1e-4
    assert worlds.far(worlds.tensors(ends[0].model), worlds.tensors(ends[2].model)) > 1e-3
    assert Ridge().role == "transfer"


@pytest.mark.parametrize("by", ["all", "first", "last"])
def test_rows_of_a_user_or_an_item_stay_together(by: Any) -> None:
    run, _ = fitted(similar=Similar(by=by, pretrain_epochs=1), aggregation_epochs=0, shards=3)
    assert run.store is not None
    column = {"first": "user", "last": "item"}.get(by)
    samples = [set(shard["rows"][column]) if column else set(shard["rows"].ids) for shard in run.store["shards"]]
    assert sum(map(len, samples)) == len(set().union(*samples)), "no user (or item, or row) is in two shards"
    assert max(map(len, samples)) <= -(-12 * sum(map(len, samples)) // 30)


def test_given_vectors_shape_the_clusters_and_nothing_else() -> None:
    network, modality = recommenders.built("bpr_mf", seed=4)
    forget, retain, _ = recommenders.records()
    rows = modality.rows("retain", [*forget, *retain])
    group = torch.tensor([u.startswith("user0") for u in modality.vocabulary.users])
    with torch.no_grad():
        network.user_table.weight.copy_(torch.where(group[:, None], 5.0, -5.0))
    plan = Plan(RecEraser(shards=2, aggregation_epochs=0, train=TRAIN, similar=Similar(by="first", vectors="given"), room=1.0))
    run = loop.run((plan,), network, modality, {"retain": rows})
    assert run.store is not None
    groups = [{bool(group[u]) for u in shard["rows"]["user"]} for shard in run.store["shards"]]
    assert groups in ([{False}, {True}], [{True}, {False}])
    assert float(run.store["start"]["user_table.weight"].abs().max()) < 1.0


def test_what_cannot_be_right_is_refused() -> None:
    with pytest.raises(UserError, match="16 different vectors make at most 16 shards: give --shards 16 or fewer"):
        fitted(shards=40, similar=Similar(by="first", pretrain_epochs=1))
    with pytest.raises(UserError, match="leave --lora out"):
        fitted(train=replace(TRAIN, lora=2))
    store = fitted()[0].store
    with pytest.raises(UserError, match="no row would be left"):
        fitted(store=store, gone=10**3)


def test_further_weights_begin_as_the_mean_of_the_shards_and_train_with_the_attention() -> None:
    bare, trained = (fitted("neumf", aggregation_epochs=n)[0] for n in (0, 2))
    assert bare.store is not None
    ends = [shard["checkpoints"][-1] for shard in bare.store["shards"]]
    others = {n: t for n, t in bare.model.state_dict().items() if "table" not in n and "input" not in n}
    assert len(others) == 6
    for name, weight in others.items():
        assert torch.allclose(weight, torch.stack([end[name] for end in ends]).mean(0))
    assert not torch.equal(bare.model.state_dict()["output.weight"], trained.model.state_dict()["output.weight"])


@pytest.mark.slow
def test_recommends_nearly_as_well_as_one_model_and_forgets_users() -> None:
    world = tastes.world()
    train = Train(epochs=12, lr=5e-2, batch_size=256, weight_decay=1e-3, anchor="retain", optimizer="adam", schedule="constant")
    plan = Plan(RecEraser(shards=3, aggregation_epochs=6, train=train, similar=Similar(pretrain_epochs=4)))
    model = world.model()
    both = world.sets["forget"].concat(world.sets["retain"]).rename("retain")
    run = loop.run((plan,), model, world.modality, {"retain": both})
    before = {name: world.recall(run.model, name) for name in ("forget", "test")}
    assert before["test"] >= 0.85 * world.recall(world.model(), "test")
    left = loop.run((plan,), run.model, world.modality, {"forget": world.sets["forget"]}, store=run.store)
    assert world.recall(left.model, "test") >= 0.9 * before["test"]
    assert world.recall(left.model, "forget") <= world.recall(world.model("retrained"), "forget") + 0.1 < before["forget"]


def test_a_store_is_made_and_forgotten_from_by_commands(tmp_path: Path) -> None:
    forget, retain, unseen = recommenders.records()
    for name, rows in (("full", [*forget, *retain]), ("forget", forget), ("unseen", unseen)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["user", "item"])
            writer.writerows([r["user"], r["item"]] for r in rows)
    few = ("--shards", 2, "--epochs", 2, "--aggregation-epochs", 2, "--batch-size", 32)
    argv = ("train", "--method", "receraser", "--data", tmp_path / "full.csv", "--vocabulary", tmp_path / "unseen.csv", "--model")
    expunge(*argv, "lightgcn-nano", "--out", tmp_path / "store", *few).fine()
    done = expunge("unlearn", "--model", tmp_path / "store", "--forget", tmp_path / "forget.csv", "--out", tmp_path / "less").fine()
    assert "guarantee H, heuristic" in done.out
    less = load(tmp_path / "less")
    assert less.model.edges.shape[1] == len(retain)  # type: ignore[union-attr]
    held = artifact.read_store(tmp_path / "less")
    assert held is not None
    assert sum(len(shard["rows"]) for shard in held["shards"]) == len(retain)
