"""SISA: forgetting equals never having seen the rows, bit for bit; its costs; how its models answer; what a user gets."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import toys
import worlds
from cases import Cases, expunge, receipt_of, rows_of
from expunge import audit
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.core.random import seed_of
from expunge.core.rows import Rows
from expunge.engine import artifact, checkpoint, committee, loop
from expunge.engine.hooks import Hooks
from expunge.engine.run_state import RunState
from expunge.io.data import write_jsonl
from expunge.io.models import Opened, load
from expunge.methods.by_design.sisa import SISA
from expunge.methods.shards import Shards, epochs_of
from expunge.methods.terms import NLL
from expunge.workflows import build_plan

TRAIN = Train(epochs=2, lr=1e-3, batch_size=8, anchor="retain", max_grad_norm=1.0)


def fitted(world: worlds.World, rows: Rows, store: Any = None, **settings: Any) -> RunState:
    """A run on rows to retain; with a store, on rows to forget."""
    plan = Plan(SISA(**{"shards": 2, "slices": 2, "train": TRAIN, **settings}))
    sets = {"retain" if store is None else "forget": rows}
    return loop.run((plan,), world.model("random"), world.modality, sets, store=store)


def checkpoints(store: Any) -> list[Tensor]:
    return [t for shard in store["shards"] for weights in shard["checkpoints"] for t in weights.values()]


def split(world: worlds.World, count: int, leaving: tuple[int, ...]) -> tuple[Rows, Rows, Rows]:
    rows = world.some(count)["retain"]
    return rows, rows.select(leaving), rows.select([i for i in range(len(rows)) if i not in leaving])


@pytest.mark.parametrize("name", ["text", *(pytest.param(n, marks=pytest.mark.slow) for n in ("digits", "batch norm"))])
def test_forgetting_is_never_having_seen_the_rows_bit_for_bit(name: str) -> None:
    world = {"text": worlds.text, "digits": worlds.digits, "batch norm": lambda: worlds.digits("resnet-nano")}[name]()
    rows, leaving, rest = split(world, 9, (0, 5, 8))
    whole, never = fitted(world, rows).store, fitted(world, rest).store
    forgotten = fitted(world, leaving, whole)
    assert forgotten.store is not None
    assert whole is not None
    assert never is not None
    assert not worlds.same(checkpoints(whole), checkpoints(never))
    assert worlds.same(checkpoints(forgotten.store), checkpoints(never))
    assert [s["rows"].ids for s in forgotten.store["shards"]] == [s["rows"].ids for s in never["shards"]]
    if name != "digits":
        return
    one_by_one = whole
    for i in (2, 0, 1):
        one_by_one = fitted(world, leaving.select([i]), one_by_one).store
    assert worlds.same(checkpoints(one_by_one), checkpoints(never)), "nor does it matter how often or in which order rows leave"


def test_the_order_of_the_rows_does_not_matter(digits: worlds.World) -> None:
    rows = digits.some(8)["retain"]
    stores = [fitted(digits, r, slices=1).store for r in (rows, rows.select(range(7, -1, -1)))]
    assert worlds.same(*map(checkpoints, stores))


def test_other_shards_and_earlier_slices_are_kept_and_the_last_slice_counts(digits: worlds.World) -> None:
    """The published key of a checkpoint leaves out rows at the end of a shard; here any row of any slice changes its checkpoint."""
    part, models = SISA(shards=2, slices=2, train=TRAIN), Shards(2, TRAIN, 2)
    rows = digits.some(6)["retain"]
    whole = fitted(digits, rows).store
    for i, row_id in enumerate(rows.ids):
        shard, first = part.shard_of(row_id), models.slice_of(row_id)
        run = fitted(digits, rows.select([i]), whole)
        assert run.store is not None
        assert whole is not None
        for k in range(2):
            for r in (1, 2):
                before, after = whole["shards"][k]["checkpoints"][r - 1], run.store["shards"][k]["checkpoints"][r - 1]
                kept = all(torch.equal(before[n], after[n]) for n in before)
                retrained = k == shard and r >= first
                assert kept or retrained
                assert not (kept and retrained and r == 2), "the rows of every slice are in the last checkpoint"
        (cost,) = run.shown["shards"]
        assert (cost["shard"], cost["first_slice"]) == (shard, first)
        assert run.cost.steps == cost["steps"]


@pytest.mark.parametrize(("epochs", "slices"), [(10, 1), (10, 4), (6, 5), (1, 5), (7, 20)])
def test_epochs_of_slices(epochs: int, slices: int) -> None:
    each = [epochs_of(epochs, slices, r) for r in range(1, slices + 1)]
    exact = 2 * epochs / (slices + 1)
    assert all(abs(sum(each[:r]) - exact * r) <= 0.5 for r in range(1, slices + 1))
    passes = sum(e * r / slices for r, e in enumerate(each, 1))
    assert abs(passes - epochs) <= 0.5 + 0.5 / slices


def test_epochs_of_slices_by_hand() -> None:
    assert [epochs_of(6, 5, r) for r in range(1, 6)] == [2] * 5
    assert sum(2 * r / 5 for r in range(1, 6)) == 6
    assert [epochs_of(1, 5, r) for r in range(1, 6)] == [0, 1, 0, 0, 1]  # 1/3, 2/3, 1, 4/3, 5/3


def test_mean_share_of_a_shard_that_is_redone() -> None:
    """(2R + 1) / (3R) of the passes for slices of equal size: 0.7333 of R = 5."""
    passes = [epochs_of(30, 5, r) * r for r in range(1, 6)]
    assert sum(sum(passes[first:]) / sum(passes) for first in range(5)) / 5 == pytest.approx(11 / 15)


def test_one_shard_and_one_slice_are_plain_training(digits: worlds.World) -> None:
    rows = digits.some(8)["retain"]
    run = fitted(digits, rows, shards=1, slices=1)
    assert not isinstance(run.model, committee.Committee)
    in_order = rows.select(sorted(range(len(rows)), key=lambda i: rows.ids[i]))
    inner = build_plan.plan("finetune", {n: getattr(TRAIN, n) for n in ("epochs", "lr", "batch_size", "max_grad_norm")})
    plain = digits.model("random")
    plans = (replace(inner[0], train=TRAIN),)
    loop.run(plans, plain, digits.modality, {"retain": in_order}, seed=seed_of(0, "/do", 0, "0/1"))
    assert worlds.same(worlds.tensors(run.model), worlds.tensors(plain))


@pytest.mark.parametrize("answer", ["mean", "majority"])
def test_the_models_answer_together(answer: str, digits: worlds.World) -> None:
    rows = digits.some(9)["retain"]
    run = fitted(digits, rows, shards=3, answer=answer)
    assert isinstance(run.model, committee.Committee)
    with torch.no_grad():
        probabilities = [digits.modality.forward(m, [rows])[0].logits.values.softmax(-1) for m in run.model.members]
        output = run.modality.forward(run.model, [rows])[0]
    if answer == "mean":
        assert torch.allclose(output.logits.values.softmax(-1), torch.stack(probabilities).mean(0), atol=1e-6)
    else:
        votes = torch.stack([p.argmax(-1) for p in probabilities])
        assert torch.equal(output.logits.values.argmax(-1), votes.mode(0).values)
    assert torch.allclose(output.loss.values, -output.logits.values.log_softmax(-1)[range(9), output.labels], atol=1e-6)


def test_words_are_generated_by_the_mean_of_probabilities(text: worlds.World) -> None:
    rows = text.some(8)["retain"]
    run = fitted(text, rows, slices=1, train=replace(TRAIN, lr=5e-3, epochs=4))
    asked: Any = run.modality
    answers = asked.generate(run.model, rows, 6).ids
    with torch.no_grad():
        for prompt, answer in zip(rows["prompt"], answers, strict=True):
            ids = list(prompt)
            for token in answer:
                logits = [m(input_ids=torch.tensor([ids])).logits[0, -1].softmax(-1) for m in run.model.members]  # type: ignore[union-attr]
                assert int(torch.stack(logits).mean(0).argmax()) == token
                ids.append(token)


def test_an_ensemble_is_audited_like_any_model() -> None:
    modality = toys.modality(3)
    rows = toys.noise(24, modality)
    train = Train(epochs=4, lr=0.05, batch_size=4, anchor="retain")
    run = loop.run((Plan(SISA(shards=3, slices=2, train=train)),), toys.mlp(3), modality, {"retain": rows})
    records = [{"image": p.numpy(), "label": y} for p, (y,) in zip(rows["pixels"], rows["answer"], strict=True)]
    sets = {"forget": records[:8], "retain": records[8:16], "holdout": records[16:]}
    scores = audit(Opened(run.model, run.modality, "ensemble"), **sets).scores
    with torch.no_grad():
        x = torch.stack([p.flatten() for p in rows["pixels"]]).float()
        mean = torch.stack([m(x).softmax(-1) for m in run.model.members]).mean(0)  # type: ignore[union-attr]
    right = mean.argmax(-1) == torch.tensor([y for (y,) in rows["answer"]])
    assert scores["forget_accuracy"]["value"] == pytest.approx(float(right[:8].float().mean()))


def test_what_cannot_be_right_is_refused(text: worlds.World, digits: worlds.World) -> None:
    rows = digits.some(8)["retain"]
    with pytest.raises(UserError, match="give --epochs instead of --steps"):
        fitted(digits, rows, train=replace(TRAIN, steps=2))
    with pytest.raises(UserError, match="--epochs 3 in 7 slices leave none for the last slice"):
        fitted(digits, rows, train=replace(TRAIN, epochs=3), slices=7)
    with pytest.raises(UserError, match="cannot vote for classes"):
        fitted(text, text.some(6)["retain"], answer="majority", slices=1)
    store = fitted(digits, rows, slices=1).store
    with pytest.raises(UserError, match="none of the 6 rows to forget is in the store"):
        fitted(digits, digits.some(6)["holdout"], store, slices=1)
    with pytest.raises(UserError, match="no row would be left"):
        fitted(digits, rows, store, slices=1)
    some = fitted(digits, digits.some(9)["retain"].select(range(5, 9)), store, slices=1)
    assert some.warnings == ["1 of 4 rows to forget are not in the store, so nothing of them was removed"]


@pytest.mark.slow
def test_an_adapter_is_trained_in_each_slice_and_merged(digits: worlds.World) -> None:
    rows, leaving, rest = split(digits, 8, (0, 5))
    lora = replace(TRAIN, lora=2)
    whole, never = fitted(digits, rows, train=lora).store, fitted(digits, rest, train=lora).store
    assert whole is not None
    assert worlds.same(checkpoints(fitted(digits, leaving, whole, train=lora).store), checkpoints(never))
    one = fitted(digits, rows, shards=1, slices=1, train=lora)
    plain = digits.model("random")
    in_order = rows.select(sorted(range(len(rows)), key=lambda i: rows.ids[i]))
    run = loop.run((Plan(NLL("retain"), train=lora),), plain, digits.modality, {"retain": in_order}, seed=seed_of(0, "/do", 0, "0/1"))
    adapted: Any = run.model
    assert worlds.same(worlds.tensors(one.model), worlds.tensors(adapted.merge_and_unload()))
    moved = [n for n, t in one.model.state_dict().items() if not torch.equal(t, digits.weights["random"][n])]
    assert moved
    assert all(n.endswith("weight") and one.model.state_dict()[n].dim() == 2 for n in moved), "low-rank changes of linear layers alone"


@pytest.mark.parametrize("what", ["making", "forgetting"])
def test_a_killed_run_goes_on_from_the_last_trained_slice_bit_for_bit(what: str, digits: worlds.World, tmp_path: Path) -> None:
    rows, leaving, _ = split(digits, 8, (0, 5))
    store = None if what == "making" else fitted(digits, rows).store
    sets = {"retain": rows} if what == "making" else {"forget": leaving}
    plan, left = Plan(SISA(shards=2, slices=2, train=TRAIN)), list[Path]()

    def save(state: dict[str, Any]) -> None:
        left.append(tmp_path / str(len(left)))
        checkpoint.save(state, left[-1])

    hooks = Hooks(save=save, every=0)
    whole = loop.run((plan,), digits.model("random"), digits.modality, sets, hooks=hooks, store=store)
    assert len(left) >= 2
    for k, place in enumerate(left):
        saved = checkpoint.load(place)
        again = loop.run(
            (plan,), digits.model("random"), digits.modality, sets, resume=saved, store=store, hooks=Hooks(save=lambda _: None)
        )
        assert worlds.same(checkpoints(again.store), checkpoints(whole.store))
        assert worlds.same(worlds.tensors(again.model), worlds.tensors(whole.model))
        assert (again.cost.steps, again.shown) == (whole.cost.steps, whole.shown)
        assert len(saved["finished"]) == k + 1


@pytest.mark.slow
def test_a_store_is_made_forgotten_from_and_loaded_by_commands(cases: Cases, tmp_path: Path) -> None:
    rows = rows_of(cases.retain)[:8]
    few = ("--epochs", 2, "--shards", 2, "--slices", 2, "--batch-size", 8)
    for name, data in (("whole", rows), ("rest", rows[1:])):
        write_jsonl(tmp_path / f"{name}.jsonl", data)
        argv = ("train", "--method", "sisa", "--data", tmp_path / f"{name}.jsonl", "--model", cases.model, "--out", tmp_path / name)
        expunge(*argv, *few).fine()
    write_jsonl(tmp_path / "leaving.jsonl", rows[:1])
    words = ("unlearn", "--model", tmp_path / "whole", "--forget", tmp_path / "leaving.jsonl", "--out", tmp_path / "less")
    refused = expunge("unlearn", "sisa", *words[1:], "--shards", 3).error
    assert refused.endswith("leave --shards 3 out, or train another store with it")
    assert "was made with --shards 2" in refused
    done = expunge(*words).fine()
    assert "guarantee E0, bit-exact" in done.out
    assert "holds the training rows" in done.out
    assert "still holds the rows that were taken out here: delete it" in " ".join(done.out.split())
    for name in ("less", "rest"):
        assert receipt_of(tmp_path / name)["result"]["guarantee"]["level"] == "E0"
    less, rest = load(tmp_path / "less"), load(tmp_path / "rest")
    assert worlds.same(worlds.tensors(less.model), worlds.tensors(rest.model))
    assert worlds.same(*(checkpoints(artifact.read_store(tmp_path / n)) for n in ("less", "rest")))
    assert "confidential" in (tmp_path / "less" / "store" / "README.md").read_text()
    receipt = (tmp_path / "less" / "receipt.json").read_text()
    assert rows[0]["answer"] not in receipt
    assert not any(i.split("#")[0] in receipt for i in less.modality.rows("forget", rows).ids)
    stored = json.loads((tmp_path / "less" / "store" / "data.json").read_text())
    assert rows[0]["answer"] not in json.dumps(stored, ensure_ascii=False)
    assert rows[1]["answer"] in json.dumps(stored, ensure_ascii=False)
    refused = expunge(
        "unlearn", "npo", "--model", tmp_path / "less", "--forget", cases.forget, "--retain", cases.retain, "--out", tmp_path / "x"
    )
    assert "is an ensemble of 2 models, and this method changes one" in refused.error


def test_steps_of_all_shards_are_told() -> None:
    calls = list[tuple[int, int, str]]()
    world = worlds.text()
    plan = Plan(SISA(shards=2, slices=1, train=TRAIN))
    hooks = Hooks(progress=lambda done, total, stage: calls.append((done, total, stage)))
    loop.run((plan,), world.model("random"), world.modality, {"retain": world.some(9)["retain"]}, hooks=hooks)
    assert len({stage for _, _, stage in calls}) == 2, "one run for each shard"
    assert all(0 < done <= total for done, total, _ in calls)
