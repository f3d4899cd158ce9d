"""UltraRE: users stay together in shards of equal size, touched shards alone are retrained, and the mean of the models answers."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch

import recommenders
import tastes
import worlds
from cases import expunge, receipt_of
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.committee import Committee
from expunge.engine.run_state import RunState
from expunge.io.models import load
from expunge.methods.by_design.ultrare import UltraRE
from expunge.methods.clusters import Similar
from expunge.modalities.ranking.catalog import catalog

TRAIN = Train(epochs=3, lr=3e-2, batch_size=32, anchor="retain", optimizer="adam", schedule="constant")


def fitted(model: str = "neumf", store: Any = None, leaving: Any = None, **settings: Any) -> tuple[RunState, Rows]:
    """A run on all training rows of the tiny world; with a store, on the rows of some of its places."""
    forget, retain, _ = recommenders.records()
    network, modality = recommenders.built(model)
    rows = modality.rows("retain", [*forget, *retain])
    sets = {"retain": rows} if store is None else {"forget": rows.select(leaving).rename("forget")}
    plan = Plan(UltraRE(**{"shards": 4, "train": TRAIN, **settings}))
    return loop.run((plan,), network, modality, sets, store=store), rows


@pytest.mark.parametrize("entropy", [0.0, 0.01])
def test_users_stay_together_in_shards_of_equal_size(entropy: float) -> None:
    run, _ = fitted(entropy=entropy, similar=Similar(by="first", pretrain_epochs=2))
    assert run.store is not None
    users = [set(shard["rows"]["user"]) for shard in run.store["shards"]]
    assert sum(map(len, users)) == len(set().union(*users)) == 16
    assert all(abs(len(of_shard) - 4) < 4 for of_shard in users)


def test_similar_users_share_a_shard() -> None:
    network, modality = recommenders.built("bpr_mf")
    forget, retain, _ = recommenders.records()
    group = torch.tensor([u.startswith("user0") for u in modality.vocabulary.users])
    with torch.no_grad():
        network.user_table.weight.copy_(torch.where(group[:, None], 5.0, -5.0))
    plan = Plan(UltraRE(shards=2, train=TRAIN, similar=Similar(by="first", vectors="given")))
    run = loop.run((plan,), network, modality, {"retain": modality.rows("retain", [*forget, *retain])})
    assert run.store is not None
    groups = [{bool(group[u]) for u in shard["rows"]["user"]} for shard in run.store["shards"]]
    assert groups in ([{False}, {True}], [{True}, {False}])


def test_learned_shares_make_the_rows_likelier_and_weigh_the_scores(tmp_path: Path) -> None:
    run, rows = fitted("bpr_mf", shards=3, combine="learned")
    alike, _ = fitted("bpr_mf", shards=3)
    assert run.store is not None
    shares = run.store["shares"]
    assert sum(shares) == pytest.approx(1.0)
    assert max(shares) - min(shares) > 1e-4

    def logp(of: RunState) -> float:
        return float(of.modality.forward(of.model, [rows])[0].target_logp.values.detach().double().sum())

    with torch.no_grad():
        assert logp(run) > logp(alike)
        users = torch.arange(4)
        each = [m.catalog(users) for m in run.model.members]
        assert torch.allclose(catalog(run.model, users), sum(a * x for a, x in zip(shares, each, strict=True)), atol=1e-6)
    run.modality.save(run.model, tmp_path / "saved")
    loaded = load(str(tmp_path / "saved"))
    assert torch.equal(loaded.modality.ranks(loaded.model, rows), run.modality.ranks(run.model, rows))  # type: ignore[attr-defined]


def test_shares_are_found_anew_without_the_rows_that_left() -> None:
    run, rows = fitted("bpr_mf", shards=3, combine="learned")
    after, _ = fitted("bpr_mf", store=run.store, leaving=[i for i, u in enumerate(rows["user"]) if u == 0], shards=3, combine="learned")
    assert after.store is not None
    assert run.store is not None
    assert after.store["shares"] != run.store["shares"]
    assert sum(after.store["shares"]) == pytest.approx(1.0)


def test_forgetting_a_user_retrains_one_shard_alone() -> None:
    first, rows = fitted()
    store = first.store
    user = rows["user"][0]
    leaving = [i for i, u in enumerate(rows["user"]) if u == user]
    run, _ = fitted(store=store, leaving=leaving)
    assert store is not None
    assert run.store is not None
    assert len(run.shown["shards"]) == 1
    same = [
        worlds.same([*a["checkpoints"][-1].values()], [*b["checkpoints"][-1].values()])
        for a, b in zip(store["shards"], run.store["shards"], strict=True)
    ]
    assert same.count(False) == 1
    assert not any(user in shard["rows"]["user"] for shard in run.store["shards"])
    assert run.store["guarantee"]["level"] == "H"


@pytest.mark.parametrize("model", ["bpr_mf", "lightgcn"])
def test_items_are_ranked_by_the_mean_of_the_scores(model: str) -> None:
    run, rows = fitted(model)
    assert isinstance(run.model, Committee)
    modality: Any = run.modality
    with torch.no_grad():
        by_hand = torch.stack([m.catalog(torch.arange(16)) for m in run.model.members]).mean(0)
    assert torch.allclose(modality.score_items(run.model, rows), by_hand)
    places = modality.ranks(run.model, rows, mask=False)
    for i in (0, 7):
        scores = by_hand[rows["user"][i]]
        assert int(places[i]) == int((scores > scores[rows["item"][i]]).sum())


@pytest.mark.slow
def test_recommends_like_one_model_and_forgets_users() -> None:
    world = tastes.world()
    train = Train(epochs=15, lr=5e-2, batch_size=256, weight_decay=1e-3, anchor="retain", optimizer="adam", schedule="constant")
    plan = Plan(UltraRE(shards=3, train=train, similar=Similar(by="first", pretrain_epochs=4)))
    both = world.sets["forget"].concat(world.sets["retain"]).rename("retain")
    run = loop.run((plan,), world.model(), world.modality, {"retain": both})
    recalls = {name: recall(world, run, name) for name in ("forget", "test")}
    assert recalls["test"] >= 0.8 * world.recall(world.model(), "test")
    left = loop.run((plan,), run.model, run.modality, {"forget": world.sets["forget"]}, store=run.store)
    assert recall(world, left, "test") >= 0.9 * recalls["test"]
    assert recall(world, left, "forget") <= world.recall(world.model("retrained"), "forget") + 0.1 < recalls["forget"]


def recall(world: tastes.Tasted, run: RunState, name: str) -> float:
    """Recall at 10 of what several models recommend together."""

    class Mean(torch.nn.Module):
        def catalog(self, users: torch.Tensor) -> torch.Tensor:
            return torch.stack([m.catalog(users) for m in run.model.members]).mean(0)  # type: ignore[union-attr]

    return world.recall(Mean(), name)


def test_a_store_of_graphs_is_forgotten_from_and_ranked_by_commands(tmp_path: Path) -> None:
    forget, retain, unseen = recommenders.records()
    for name, rows in (("full", [*forget, *retain]), ("forget", forget), ("retain", retain), ("unseen", unseen)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["user", "item"])
            writer.writerows([r["user"], r["item"]] for r in rows)
    few = ("--shards", 2, "--epochs", 2, "--batch-size", 32, "--vocabulary", tmp_path / "unseen.csv")
    expunge(
        "train", "--method", "ultrare", "--data", tmp_path / "full.csv", "--model", "lightgcn-nano", "--out", tmp_path / "store", *few
    ).fine()
    expunge("unlearn", "--model", tmp_path / "store", "--forget", tmp_path / "forget.csv", "--out", tmp_path / "less").fine()
    less, store = load(tmp_path / "less"), load(tmp_path / "store")
    assert [m.edges.shape[1] for m in less.model.members] == [len(retain)] * 2, "what is forgotten leaves every graph"  # type: ignore[union-attr]
    assert store.model[0].edges.shape[1] == len(forget) + len(retain)  # type: ignore[index]
    assert receipt_of(tmp_path / "less")["result"]["guarantee"]["level"] == "H"
    sets = [w for n in ("forget", "retain") for w in (f"--{n}", tmp_path / f"{n}.csv")]
    done = expunge("audit", tmp_path / "less", *sets, "--original", tmp_path / "store", "--out", tmp_path / "audit").fine()
    assert "forget_recall" in done.out
