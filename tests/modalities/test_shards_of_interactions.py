"""Stores of recommenders: a shard has no trace of other rows, and what leaves a store leaves graphs, masks and negatives, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import recommenders
import worlds
from expunge.core.errors import Interrupted
from expunge.core.plan import Plan, Train
from expunge.engine import artifact, committee, loop
from expunge.engine.hooks import Hooks
from expunge.engine.weights import weights_of
from expunge.io.models import load
from expunge.methods.by_design.amnesiac import Amnesiac
from expunge.methods.by_design.sisa import SISA
from expunge.modalities.ranking.interactions import mixed
from expunge.workflows.train import train

TRAIN = Train(epochs=2, lr=2e-2, batch_size=16, anchor="retain", optimizer="adam")


def trained(name: str, without: int = 0, plan: Plan | None = None) -> tuple[Any, Any]:
    """A store of all training rows but the first ones, made by a model that never knew these, and the rows of all."""
    forget, retain, _ = recommenders.records()
    network, modality = recommenders.built(name)
    rows = modality.rows("retain", [*forget, *retain])
    if without:
        modality.remove_rows(network, rows.select(range(without)))
        rows = modality.rows("retain", [*forget, *retain][without:])
    plan = plan or Plan(SISA(shards=2, slices=2, train=TRAIN))
    return loop.run((plan,), network, modality, {"retain": rows}), rows


def tensors(run: Any) -> list[torch.Tensor]:
    return [t for shard in run.store["shards"] for weights in shard["checkpoints"] for t in weights.values()]


@pytest.mark.parametrize("name", ["bpr_mf", "lightgcn", "neumf", "dmf"])
def test_forgetting_is_never_having_seen_the_interactions_bit_for_bit(name: str) -> None:
    whole, rows = trained(name)
    never, _ = trained(name, without=3)
    network, modality = recommenders.built(name)
    leaving = rows.select(range(3)).rename("forget")
    modality.remove_rows(network, leaving)
    plan = Plan(SISA(shards=2, slices=2, train=TRAIN))
    less = loop.run((plan,), network, modality, {"forget": leaving}, store=whole.store)
    assert not worlds.same(tensors(whole), tensors(never))
    assert worlds.same(tensors(less), tensors(never))
    for a, b in zip(less.store["shards"], never.store["shards"], strict=True):  # type: ignore[index]
        assert {n: list(c) for n, c in a["rows"].columns.items()} == {n: list(c) for n, c in b["rows"].columns.items()}
    with torch.no_grad():
        scores = [run.modality.score_items(run.model, rows) for run in (less, never)]  # type: ignore[attr-defined]
    assert torch.equal(*scores)


def test_a_forgotten_item_cannot_be_read_from_the_rows_that_remain() -> None:
    """The column `known` sums a number of each item of a user, so that the difference of two sums would name an item."""
    for plan in (None, Plan(Amnesiac(repair=0, train=TRAIN))):
        whole, rows = trained("bpr_mf", plan=plan)
        network, modality = recommenders.built("bpr_mf")
        user, item = rows["user"][0], rows["item"][0]
        leaving = rows.select([0]).rename("forget")
        run = loop.run((plan or Plan(SISA(shards=2, slices=2, train=TRAIN)),), network, modality, {"forget": leaving}, store=whole.store)
        store: Any = run.store
        for held in [shard["rows"] for shard in store["shards"]] if plan is None else [store["rows"]]:
            own = [i for u, i in zip(held["user"], held["item"], strict=True) if u == user]
            total = int(sum(int(mixed(torch.tensor([i]).numpy().astype("uint64"))[0]) for i in own) % 2**64)
            assert all(known == total for u, known in zip(held["user"], held["known"], strict=True) if u == user)
            assert item not in own


def test_a_committee_of_recommenders_is_saved_ranked_and_forgets_in_every_member(tmp_path: Path) -> None:
    run, rows = trained("lightgcn")
    modality: Any = run.modality
    modality.remove_rows(run.model, rows.select(range(5)))
    assert [member.edges.shape[1] for member in committee.members_of(run.model)] == [len(rows) - 5] * 2
    modality.save(run.model, tmp_path / "model")
    again = load(tmp_path / "model")
    asked: Any = again.modality
    assert torch.equal(asked.ranks(again.model, rows), modality.ranks(run.model, rows))
    assert worlds.same([*weights_of(again.model).values()], [*weights_of(run.model).values()])
    mean = torch.stack([member.catalog(torch.arange(16)) for member in committee.members_of(again.model)]).mean(0)
    assert torch.allclose(asked.score_items(again.model, rows), mean)


def test_making_a_store_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    forget, retain, _ = recommenders.records()
    few: dict[str, Any] = {"method": "sisa", "epochs": 2, "shards": 2, "slices": 2, "batch_size": 16}
    polls = iter([False, True])
    with pytest.raises(Interrupted):
        train([*forget, *retain], "bpr_mf-nano", cache=tmp_path / "a", hooks=Hooks(interrupted=lambda: next(polls, False)), **few)
    ends = [train([*forget, *retain], "bpr_mf-nano", cache=tmp_path / name, **few) for name in ("a", "b")]
    stores = [artifact.read_store(end.folder) for end in ends if end.folder]
    assert worlds.same(*([t for shard in s["shards"] for w in shard["checkpoints"] for t in w.values()] for s in stores if s))
    assert worlds.same(*(worlds.tensors(end.model) for end in ends))
    assert ends[0].receipt["cost"]["steps"] == ends[1].receipt["cost"]["steps"], "what was trained before is not trained again"
    assert ends[0].receipt["shown"] == ends[1].receipt["shown"]
