"""Ensembles equal single runs of the loop up to rounding; invalid requests are refused."""

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


def train_one_by_one(
    plans: Plans, model: nn.Module, modality: Image, rows: Rows, trained_on: Tensor, seeds: range
) -> list[dict[str, Tensor]]:
    """Weights after one call of the loop for each model."""
    trained = []
    for membership, seed in zip(trained_on, seeds, strict=True):
        copy = ensemble.copy.deepcopy(model)
        loop.run(
            plans,
            copy,
            modality,
            {rows.name: rows.select(membership.nonzero()[:, 0].tolist())},
            seed=seed,
            accelerator=worlds.accelerator(),
        )
        trained.append(weights_of(copy))
    return trained


def largest_difference(trained: ensemble.Ensemble, expected: list[dict[str, Tensor]]) -> float:
    assert trained.weights.keys() == expected[0].keys()
    return max(float((trained[k][n] - w).abs().max()) for k, weights in enumerate(expected) for n, w in weights.items())


def record_batch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the sizes of the batches that several models share."""
    sizes: list[int] = []

    def spy(run: object, objective: object, logical: dict[str, Rows], **options: object) -> object:
        sizes.append(len(logical["retain"]))
        return gradient.evaluate(run, objective, logical, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(ensemble, "evaluate", spy)
    return sizes


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("norm", [False, True], ids=["plain", "batch_norm"])
def test_an_ensemble_equals_single_runs_of_the_loop(settings: dict[str, object], norm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Covers partial batches, a batch of one row, subsets of several sizes, and initial weights from the seed of each model."""
    sizes = record_batch_sizes(monkeypatch)
    rows, model = toys.noise(30, PORT), toys.mlp(3, norm=norm).double()
    trained_on = ensemble.subsets(30, 5, share=0.7)  # 21 rows: batches of 10, 10 and 1
    trained_on[3] = trained_on[4] = True
    plans = toys.fresh(**{"epochs": 3, "batch_size": 10, **settings})
    trained = ensemble.train(plans, model, PORT, rows, trained_on, range(5), worlds.accelerator())
    # the bias before batch norm has no gradient but rounding, which Adam amplifies
    tolerance = 1e-6 if norm and "adam" in str(settings["optimizer"]) else 1e-10
    assert largest_difference(trained, train_one_by_one(plans, model, PORT, rows, trained_on, range(5))) < tolerance
    assert not torch.equal(trained[0]["1.weight"], trained[1]["1.weight"])
    steps = 7 if "steps" in settings else 9
    assert len(sizes) == 2 * steps
    assert sizes[0] == 3 * 10
    assert sizes[-1] == 2 * 10


@pytest.mark.parametrize("size", ["resnet-nano", "vit-nano"])
def test_transformers_models_equal_single_runs_of_the_loop(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from expunge.modalities.image.models import vision

    sizes = record_batch_sizes(monkeypatch)
    modality = toys.modality(2)
    rows = toys.noise(12, modality, width=64)
    rows = rows.add(pixels=[p.view(1, 8, 8) for p in rows["pixels"]])
    model, trained_on = vision.build(size, (1, 8, 8), modality.labels).double(), ensemble.subsets(12, 3)
    plans = (Plan(NLL("retain"), train=Train(epochs=2, batch_size=4, lr=1e-3, anchor="retain")),)
    trained = ensemble.train(plans, model, modality, rows, trained_on, range(3), worlds.accelerator())
    expected = train_one_by_one(plans, model, modality, rows, trained_on, range(3))
    assert sizes == [12, 6] * 2
    assert largest_difference(trained, expected) < 1e-9
    logits = ensemble.logits(trained, modality, rows)
    for k in range(3):
        put(model, expected[k])
        with torch.no_grad():
            assert torch.allclose(logits[k], modality.forward(model.eval(), [rows])[0].logits.values, atol=1e-9)


class Branching(nn.Module):
    """A model with control flow that depends on values, which cannot be vectorized."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = toys.mlp(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x if float(x.sum()) > 0 else x.abs())


@pytest.mark.parametrize("kind", ["branching", "clipped", "micro", "adapter"])
def test_models_that_cannot_share_steps_are_trained_one_by_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = record_batch_sizes(monkeypatch)
    model = (Branching() if kind == "branching" else toys.mlp(3)).double()
    settings = {"clipped": {"max_grad_norm": 0.1}, "micro": {"micro_batch_size": 3}, "adapter": {"lora": 2}}.get(kind, {})
    train = Train(epochs=1, batch_size=5, lr=1e-2, anchor="retain", **settings)
    rows, trained_on = toys.noise(12, PORT), ensemble.subsets(12, 2)
    trained = ensemble.train(Plan(NLL("retain"), train=train), model, PORT, rows, trained_on, range(2), worlds.accelerator())
    assert not sizes
    assert trained.weights.keys() == weights_of(model).keys()
    if kind != "adapter":
        assert (
            largest_difference(trained, train_one_by_one((Plan(NLL("retain"), train=train),), model, PORT, rows, trained_on, range(2)))
            < 1e-12
        )
    put(model, trained[1])
    with torch.no_grad():
        assert torch.allclose(ensemble.logits(trained, PORT, rows)[1], PORT.forward(model, [rows])[0].logits.values)


def test_only_trainable_weights_change() -> None:
    model, rows = toys.mlp(3), toys.noise(12, PORT)
    plan = Plan(NLL("retain"), train=Train(epochs=1, batch_size=5, lr=1e-2, anchor="retain"), trainable=r"^3\.")
    trained = ensemble.train(plan, model, PORT, rows, ensemble.subsets(12, 2), range(2), worlds.accelerator())
    assert torch.equal(trained[0]["1.weight"], model[1].weight)
    assert not torch.equal(trained[0]["3.weight"], model[3].weight)


def test_the_weight_of_a_term_scales_the_steps() -> None:
    """With plain SGD, twice the loss gives steps of twice the length."""
    model, rows, trained_on = toys.mlp(3).double(), toys.noise(8, PORT), ensemble.subsets(8, 2)
    train = Train(epochs=1, batch_size=8, lr=0.1, optimizer="sgd", schedule="constant", anchor="retain")
    once, twice = (
        ensemble.train(Plan(w * NLL("retain"), train=train), model, PORT, rows, trained_on, range(2), worlds.accelerator())
        for w in (1.0, 2.0)
    )
    start = weights_of(model)
    for n, w in start.items():
        assert torch.allclose(twice.weights[n] - w, 2 * (once.weights[n] - w), atol=1e-12)


def test_dropout_differs_between_models_and_is_reproducible() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 64), nn.Dropout(0.5), nn.Linear(64, 3))
    rows, trained_on = toys.noise(8, PORT), torch.ones(2, 8, dtype=torch.bool)
    plan = Plan(NLL("retain"), train=Train(epochs=2, batch_size=8, lr=1e-2, anchor="retain"))
    first, again = (ensemble.train(plan, model, PORT, rows, trained_on, (7, 7), worlds.accelerator()) for _ in range(2))
    assert all(torch.equal(w, again.weights[n]) for n, w in first.weights.items())
    assert not torch.equal(first[0]["1.weight"], first[1]["1.weight"])


def test_subsets_have_equal_size_and_extend_smaller_ensembles() -> None:
    trained_on = ensemble.subsets(21, 6, share=0.3, seed=4)
    assert trained_on.sum(1).tolist() == [6] * 6
    assert torch.equal(ensemble.subsets(21, 9, share=0.3, seed=4)[:6], trained_on)
    assert not torch.equal(ensemble.subsets(21, 6, share=0.3, seed=5), trained_on)
    assert len({tuple(s.tolist()) for s in trained_on}) == 6
    paired = ensemble.subsets(21, 6, paired=True)
    assert torch.equal(paired[0::2], ~paired[1::2])
    assert paired.sum(0).tolist() == [3] * 21


def test_joined_inverts_pieces() -> None:
    whole = ensemble.Ensemble(toys.mlp(3), {"w": torch.arange(10).view(5, 2)}, torch.eye(5, dtype=torch.bool))
    pieces = list(whole.pieces(2))
    assert [len(p) for p in pieces] == [2, 2, 1]
    rejoined = ensemble.joined(pieces)
    assert torch.equal(rejoined.weights["w"], whole.weights["w"])
    assert torch.equal(rejoined.trained_on, whole.trained_on)
    assert whole[3]["w"].tolist() == [6, 7]
    assert repr(whole) == "Ensemble(model=Sequential, trained_on=(5, 5))"


def test_outputs_do_not_depend_on_the_batch_size() -> None:
    rows = toys.noise(30, PORT)
    trained = ensemble.train(
        toys.fresh(epochs=1), toys.mlp(3, norm=True), PORT, rows, ensemble.subsets(30, 3), range(3), worlds.accelerator()
    )
    small, large = (ensemble.ask(trained, PORT, rows, lambda a: a.logits.values, batch_size=n) for n in (7, 256))
    assert torch.allclose(small, large, atol=1e-6)
    assert small.shape == (3, 30, 3)


def test_unlearning_equals_a_single_run_for_each_model() -> None:
    rows = toys.noise(20, PORT)
    trained = ensemble.train(toys.fresh(epochs=30), toys.mlp(3), PORT, rows, ensemble.subsets(20, 3), range(3), worlds.accelerator())
    forget = torch.zeros_like(trained.trained_on)
    for k in range(3):
        forget[k, trained.trained_on[k].nonzero()[k, 0]] = True
    plan = Plan(Ascent(), train=Train(epochs=1, lr=1e-2, optimizer="sgd", schedule="constant"))
    after = ensemble.unlearn(plan, trained, PORT, rows, forget, range(3), worlds.accelerator())
    assert torch.equal(after.trained_on, trained.trained_on & ~forget)
    for k in range(3):
        model = toys.mlp(3)
        put(model, trained[k])
        forgotten = rows.select(forget[k].nonzero()[:, 0].tolist()).rename("forget")
        loop.run((plan,), model, PORT, {"forget": forgotten}, seed=k, accelerator=worlds.accelerator())
        assert all(torch.equal(after[k][n], w) for n, w in weights_of(model).items())
    no_steps = replace(plan, train=replace(plan.train, epochs=0))
    unchanged = ensemble.unlearn(no_steps, trained, PORT, rows, forget, range(3), worlds.accelerator())
    assert all(torch.equal(w, trained.weights[n]) for n, w in unchanged.weights.items())


def test_invalid_subsets_and_guards_are_refused() -> None:
    rows, model = toys.noise(8, PORT), toys.mlp(3)
    trained_on = ensemble.subsets(8, 2)
    plan = Plan(NLL("retain"), train=Train(epochs=1, lr=1e-2, batch_size=4, anchor="retain"))
    for no_members in (trained_on[:0], ensemble.subsets(8, 2, share=0.0)):
        with pytest.raises(UserError, match="sees some rows"):
            ensemble.train(plan, model, PORT, rows, no_members, range(len(no_members)))
    for clip in (0.0, 1e30):  # models trained together, and one by one
        diverging = replace(plan, train=replace(plan.train, lr=1e30, optimizer="sgd", epochs=4, max_grad_norm=clip))
        with pytest.raises(UserError, match="lower the learning rate"):
            ensemble.train(diverging, model, PORT, rows, trained_on, range(2))
    models = ensemble.Ensemble(model, {n: torch.stack([w, w]) for n, w in weights_of(model).items()}, trained_on)
    for forget in (~trained_on, torch.zeros_like(trained_on), trained_on):
        with pytest.raises(UserError, match="can forget rows that it has seen"):
            ensemble.unlearn(plan, models, PORT, rows, forget, range(2))
    one_row = torch.zeros_like(trained_on)
    one_row[torch.arange(2), trained_on.int().argmax(1)] = True
    with pytest.raises(UserError, match="a guard leaves the weights"):
        ensemble.unlearn(Plan(InputFilter()), models, PORT, rows, one_row, range(2))
