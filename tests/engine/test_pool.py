"""Many models at once against the one loop, to rounding; and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import toys
import worlds
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Plans, Train
from expunge.core.rows import Rows
from expunge.engine import ensemble, gradient, loop
from expunge.engine.weights import put, weights_of
from expunge.methods.guards.input_filter import InputFilter
from expunge.methods.terms import NLL, Ascent
from expunge.modalities.image.modality import Image

PORT = toys.modality(3)
SETTINGS = {
    "adamw": {"optimizer": "adamw", "weight_decay": 0.01, "schedule": "linear", "warmup": 1.0},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "schedule": "cosine", "steps": 7, "epochs": 0},
    "adam": {"optimizer": "adam", "lr_milestones": (1,), "lr_decay": 0.9, "schedule": "constant"},
}


def by_loop(plans: Plans, model: nn.Module, modality: Image, rows: Rows, seen: Tensor, seeds: range) -> list[dict[str, Tensor]]:
    """So many calls of the one loop."""
    out = []
    for mine, seed in zip(seen, seeds, strict=True):
        fresh = ensemble.copy.deepcopy(model)
        loop.run(
            plans, fresh, modality, {rows.name: rows.select(mine.nonzero()[:, 0].tolist())}, seed=seed, accelerator=worlds.accelerator()
        )
        out.append(weights_of(fresh))
    return out


def apart(made: ensemble.Ensemble, wanted: list[dict[str, Tensor]]) -> float:
    assert made.weights.keys() == wanted[0].keys()
    return max(float((made[k][n] - w).abs().max()) for k, each in enumerate(wanted) for n, w in each.items())


def spied(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the batches that several models share."""
    sizes: list[int] = []

    def spy(run: object, objective: object, logical: dict[str, Rows], **more: object) -> object:
        sizes.append(len(logical["retain"]))
        return gradient.evaluate(run, objective, logical, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ensemble, "evaluate", spy)
    return sizes


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch_norm"])
def test_equals_so_many_runs_of_the_loop(settings: dict[str, object], norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches that do not fill up, a batch of one row, subsets of several sizes, weights drawn by the model's own seed."""
    sizes = spied(monkeypatch)
    rows, model = toys.noise(30, PORT), toys.mlp(3, norm=norm).double()
    seen = ensemble.subsets(30, 5, share=0.7)  # 21 rows: batches of 10, 10 and 1
    seen[3] = seen[4] = True
    plans = toys.fresh(**{"epochs": 3, "batch_size": 10, **settings})
    made = ensemble.train(plans, model, PORT, rows, seen, range(5), worlds.accelerator())
    near = 1e-6 if norm and "adam" in str(settings["optimizer"]) else 1e-10  # a bias before batch norm: Adam makes much of rounding
    assert apart(made, by_loop(plans, model, PORT, rows, seen, range(5))) < near
    assert not torch.equal(made[0]["1.weight"], made[1]["1.weight"])
    steps = 7 if "steps" in settings else 9
    assert len(sizes) == 2 * steps
    assert sizes[0] == 3 * 10
    assert sizes[-1] == 2 * 10


@pytest.mark.parametrize("size", ["resnet-nano", "vit-nano"])
def test_equals_the_loop_on_models_of_transformers(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.modalities.image.models import vision

    sizes = spied(monkeypatch)
    modality = toys.modality(2)
    rows = toys.noise(12, modality, width=64)
    rows = rows.add(pixels=[p.view(1, 8, 8) for p in rows["pixels"]])
    model, seen = vision.build(size, (1, 8, 8), modality.labels).double(), ensemble.subsets(12, 3)
    plans = (Plan(NLL("retain"), train=Train(epochs=2, batch_size=4, lr=1e-3, anchor="retain")),)
    made = ensemble.train(plans, model, modality, rows, seen, range(3), worlds.accelerator())
    wanted = by_loop(plans, model, modality, rows, seen, range(3))
    assert sizes == [12, 6] * 2
    assert apart(made, wanted) < 1e-9
    said = ensemble.logits(made, modality, rows)
    for k in range(3):
        put(model, wanted[k])
        with torch.no_grad():
            assert torch.allclose(said[k], modality.forward(model.eval(), [rows])[0].logits.values, atol=1e-9)


class Branching(nn.Module):
    """What it does depends on the values, so that it cannot be vectorised."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = toys.mlp(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x if float(x.sum()) > 0 else x.abs())


@pytest.mark.parametrize("kind", ["branching", "clipped", "micro", "adapter"])
def test_what_cannot_share_steps_is_run_one_by_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = spied(monkeypatch)
    model = (Branching() if kind == "branching" else toys.mlp(3)).double()
    more = {"clipped": {"max_grad_norm": 0.1}, "micro": {"micro_batch_size": 3}, "adapter": {"lora": 2}}.get(kind, {})
    train = Train(epochs=1, batch_size=5, lr=1e-2, anchor="retain", **more)
    rows, seen = toys.noise(12, PORT), ensemble.subsets(12, 2)
    made = ensemble.train(Plan(NLL("retain"), train=train), model, PORT, rows, seen, range(2), worlds.accelerator())
    assert not sizes
    assert made.weights.keys() == weights_of(model).keys()
    if kind != "adapter":
        assert apart(made, by_loop((Plan(NLL("retain"), train=train),), model, PORT, rows, seen, range(2))) < 1e-12
    put(model, made[1])
    with torch.no_grad():
        assert torch.allclose(ensemble.logits(made, PORT, rows)[1], PORT.forward(model, [rows])[0].logits.values)


def test_only_what_a_plan_trains_moves() -> None:
    model, rows = toys.mlp(3), toys.noise(12, PORT)
    plan = Plan(NLL("retain"), train=Train(epochs=1, batch_size=5, lr=1e-2, anchor="retain"), trainable=r"^3\.")
    made = ensemble.train(plan, model, PORT, rows, ensemble.subsets(12, 2), range(2), worlds.accelerator())
    assert torch.equal(made[0]["1.weight"], model[1].weight)
    assert not torch.equal(made[0]["3.weight"], model[3].weight)


def test_a_term_keeps_its_weight() -> None:
    """Steps of plain SGD on twice the loss are twice as long."""
    model, rows, seen = toys.mlp(3).double(), toys.noise(8, PORT), ensemble.subsets(8, 2)
    train = Train(epochs=1, batch_size=8, lr=0.1, optimizer="sgd", schedule="constant", anchor="retain")
    once, twice = (
        ensemble.train(Plan(w * NLL("retain"), train=train), model, PORT, rows, seen, range(2), worlds.accelerator()) for w in (1.0, 2.0)
    )
    start = weights_of(model)
    for n, w in start.items():
        assert torch.allclose(twice.weights[n] - w, 2 * (once.weights[n] - w), atol=1e-12)


def test_dropout_is_drawn_for_each_model_and_the_same_again() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 64), nn.Dropout(0.5), nn.Linear(64, 3))
    rows, seen = toys.noise(8, PORT), torch.ones(2, 8, dtype=torch.bool)
    plan = Plan(NLL("retain"), train=Train(epochs=2, batch_size=8, lr=1e-2, anchor="retain"))
    first, again = (ensemble.train(plan, model, PORT, rows, seen, (7, 7), worlds.accelerator()) for _ in range(2))
    assert all(torch.equal(w, again.weights[n]) for n, w in first.weights.items())
    assert not torch.equal(first[0]["1.weight"], first[1]["1.weight"])


def test_subsets_are_equally_many_and_go_on_where_fewer_ended() -> None:
    seen = ensemble.subsets(21, 6, share=0.3, seed=4)
    assert seen.sum(1).tolist() == [6] * 6
    assert torch.equal(ensemble.subsets(21, 9, share=0.3, seed=4)[:6], seen)
    assert not torch.equal(ensemble.subsets(21, 6, share=0.3, seed=5), seen)
    assert len({tuple(s.tolist()) for s in seen}) == 6
    paired = ensemble.subsets(21, 6, paired=True)
    assert torch.equal(paired[0::2], ~paired[1::2])
    assert paired.sum(0).tolist() == [3] * 21


def test_pieces_and_joined_are_inverse() -> None:
    made = ensemble.Ensemble(toys.mlp(3), {"w": torch.arange(10).view(5, 2)}, torch.eye(5, dtype=torch.bool))
    cut = list(made.pieces(2))
    assert [len(p) for p in cut] == [2, 2, 1]
    again = ensemble.joined(cut)
    assert torch.equal(again.weights["w"], made.weights["w"])
    assert torch.equal(again.seen, made.seen)
    assert made[3]["w"].tolist() == [6, 7]


def test_batches_of_questions_do_not_matter() -> None:
    rows = toys.noise(30, PORT)
    made = ensemble.train(toys.fresh(epochs=1), toys.mlp(3, norm=True), PORT, rows, ensemble.subsets(30, 3), range(3), worlds.accelerator())
    small, whole = (ensemble.ask(made, PORT, rows, lambda a: a.logits.values, batch_size=n) for n in (7, 256))
    assert torch.allclose(small, whole, atol=1e-6)
    assert small.shape == (3, 30, 3)


def test_each_model_forgets_rows_of_its_own() -> None:
    rows = toys.noise(20, PORT)
    made = ensemble.train(toys.fresh(epochs=30), toys.mlp(3), PORT, rows, ensemble.subsets(20, 3), range(3), worlds.accelerator())
    forget = torch.zeros_like(made.seen)
    for k in range(3):
        forget[k, made.seen[k].nonzero()[k, 0]] = True
    plan = Plan(Ascent(), train=Train(epochs=1, lr=1e-2, optimizer="sgd", schedule="constant"))
    after = ensemble.unlearn(plan, made, PORT, rows, forget, range(3), worlds.accelerator())
    assert torch.equal(after.seen, made.seen & ~forget)
    for k in range(3):
        model = toys.mlp(3)
        put(model, made[k])
        mine = rows.select(forget[k].nonzero()[:, 0].tolist()).rename("forget")
        loop.run((plan,), model, PORT, {"forget": mine}, seed=k, accelerator=worlds.accelerator())
        assert all(torch.equal(after[k][n], w) for n, w in weights_of(model).items())
    nothing = replace(plan, train=replace(plan.train, epochs=0))
    same = ensemble.unlearn(nothing, made, PORT, rows, forget, range(3), worlds.accelerator())
    assert all(torch.equal(w, made.weights[n]) for n, w in same.weights.items())


def test_what_is_refused() -> None:
    rows, model = toys.noise(8, PORT), toys.mlp(3)
    seen = ensemble.subsets(8, 2)
    plan = Plan(NLL("retain"), train=Train(epochs=1, lr=1e-2, batch_size=4, anchor="retain"))
    for nothing in (seen[:0], ensemble.subsets(8, 2, share=0.0)):
        with pytest.raises(UserError, match="sees some rows"):
            ensemble.train(plan, model, PORT, rows, nothing, range(len(nothing)))
    for clip in (0.0, 1e30):  # together, and one by one
        wild = replace(plan, train=replace(plan.train, lr=1e30, optimizer="sgd", epochs=4, max_grad_norm=clip))
        with pytest.raises(UserError, match="lower the learning rate"):
            ensemble.train(wild, model, PORT, rows, seen, range(2))
    made = ensemble.Ensemble(model, {n: torch.stack([w, w]) for n, w in weights_of(model).items()}, seen)
    for forget in (~seen, torch.zeros_like(seen), seen):
        with pytest.raises(UserError, match="can forget rows that it has seen"):
            ensemble.unlearn(plan, made, PORT, rows, forget, range(2))
    some = torch.zeros_like(seen)
    some[torch.arange(2), seen.int().argmax(1)] = True
    with pytest.raises(UserError, match="a guard leaves the weights"):
        ensemble.unlearn(Plan(InputFilter()), made, PORT, rows, some, range(2))
