"""k-FPF: both module measures by hand, which weights a repair moves, limit cases, and a stream where one task hides another."""

import copy
import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import squares
import toys
import worlds
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows, Sets
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.weights import weights_of
from expunge.methods.terms import NLL, Ascent
from expunge.methods.updates.k_fpf import FPF, Buffer, drift, modules_of, sensitivity, table
from expunge.modalities.image.modality import Image
from expunge.workflows import build_plan


class Line(nn.Module):
    """y = a x + b."""

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(v, dtype=torch.float64)) for v in (a, b))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x[..., 0] + self.b


def net(seed: int = 0, classes: int = 4) -> nn.Module:
    return toys.mlp(classes, hidden=32, norm=True, seed=seed)


def scores(records: list[Any], key: str = "score") -> dict[str, Any]:
    return {r["module"]: r[key] for r in records}


def test_sensitivity_is_the_mean_absolute_gradient() -> None:
    """Residual r = 3 * 2 + 1 - 9 = -2 at x = 2: |r x| = 4 and |r| = 2; a second batch of r = 1 at x = 0: 0 and 1."""
    rows = squares.rows("buffer", torch.tensor([[2.0], [0.0]]), torch.tensor([9.0, 0.0]))
    run = loop.new_state(Line(3.0, 1.0), squares.SquaresModality(), worlds.accelerator(), sets={"buffer": rows})
    single_batch = sensitivity(RunView(run, {"buffer": rows}), rows.select([0]))
    assert scores(single_batch) == {"a": pytest.approx(4.0), "b": pytest.approx(2.0)}
    assert scores(single_batch, "share") == {"a": 1.0, "b": pytest.approx(0.5)}
    two_batches = sensitivity(RunView(run, {"buffer": rows}), rows, batch_size=1)
    assert scores(two_batches) == {"a": pytest.approx(2.0), "b": pytest.approx(1.5)}
    assert two_batches[0]["curve"] == [pytest.approx(4.0), pytest.approx(0.0)]


def test_drift_is_the_mean_absolute_change() -> None:
    model = net()
    first = weights_of(model)
    second = {n: t + (0.25 if n == "4.weight" else -0.5 if n == "4.bias" else 0) for n, t in first.items()}
    third = {n: t + (0.75 if n.startswith("4") else 0) for n, t in second.items()}
    records = drift(model, [first, second, third])
    mean = (128 * 0.25 + 4 * 0.5) / 132  # the last layer is one module: all its entries count equally
    assert records[0]["module"] == "4"
    assert records[0]["curve"] == [pytest.approx(mean), pytest.approx(0.75)]
    assert records[0]["score"] == pytest.approx((mean + 0.75) / 2)
    assert {r["score"] for r in records[1:]} == {0.0}
    assert drift(model, [first]) == []


def test_drift_does_not_depend_on_the_size_of_a_module() -> None:
    change, records = torch.randn(6, 2, generator=torch.Generator().manual_seed(0)), []
    for copies in (1, 3):
        model = nn.Linear(2, 6 * copies, bias=False)
        before = weights_of(model)
        records.append(drift(model, [before, {"weight": before["weight"] + change.repeat(copies, 1)}])[0])
    assert records[0]["score"] == pytest.approx(records[1]["score"])
    assert (records[0]["size"], records[1]["size"]) == (12, 36)


def test_each_tensor_of_a_norm_is_a_module() -> None:
    assert modules_of(net()) == {
        "1": ["1.weight", "1.bias"],
        **{f"2.{n}": [f"2.{n}"] for n in ("weight", "bias", "running_mean", "running_var")},
        "4": ["4.weight", "4.bias"],
    }
    text = table(drift(net(), [weights_of(net()), weights_of(net(seed=1))]))
    assert len(text.splitlines()) == 7
    assert text.splitlines()[1].split()[-1] == "1.000"


def run_stage(digits: worlds.World, plan: Plan) -> tuple[nn.Module, loop.RunState]:
    model = digits.model()
    return model, loop.run((plan,), model, digits.modality, digits.some(24))


SHORT = {"epochs": 2, "batch_size": 8, "size": 16, "repair.epochs": 0, "repair.steps": 4, "repair.batch_size": 8}


def test_run_without_repairs_is_the_base_run(digits: worlds.World) -> None:
    train = Train(epochs=2, lr=1e-2, batch_size=8, optimizer="sgd", schedule="constant")
    base = worlds.tensors(run_stage(digits, Plan(Ascent(), train=train))[0])
    for hyperparameters in ({"k": 0}, {"repair.steps": 0, "modules": "all"}, {"repair.lr": 0.0}):
        assert worlds.same(base, worlds.tensors(run_stage(digits, build_plan.plan("k_fpf", {**SHORT, **hyperparameters})[0])[0]))
    assert not worlds.same(base, worlds.tensors(run_stage(digits, build_plan.plan("k_fpf", SHORT)[0])[0]))


@pytest.mark.parametrize(
    ("k", "expected_steps"), [(0, []), (1, [6]), (2, [3, 6]), (3, [2, 4, 6]), (4, [2, 3, 5, 6]), (9, [1, 2, 3, 4, 5, 6])]
)
def test_repairs_are_evenly_spaced_and_the_last_is_at_the_end(
    digits: worlds.World, monkeypatch: pytest.MonkeyPatch, k: int, expected_steps: list[int]
) -> None:
    repair_steps: list[int] = []
    monkeypatch.setattr(FPF, "_repair", lambda self, view, buffer, key: repair_steps.append(view.done))
    run_stage(digits, build_plan.plan("k_fpf", {**SHORT, "k": k})[0])
    assert repair_steps == expected_steps


@pytest.mark.parametrize(
    ("modules", "movable"),
    [("norm+head", "norm|classifier"), ("norm+first", "norm|embedder"), ("all", "."), ("sensitive", "classifier|norm|conv")],
)
def test_repair_moves_only_the_chosen_modules(modules: str, movable: str) -> None:
    world = worlds.digits("resnet-nano")
    model = world.model()
    before = {n: p.clone() for n, p in model.named_parameters()}
    plan = build_plan.plan("k_fpf", {**SHORT, "lr": 0.0, "repair.lr": 0.05, "k": 1, "modules": modules, "beta": 0.3})[0]
    loop.run((plan,), model, world.modality, world.some(24))
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert all(re.search(movable, n) for n in changed)
    assert (changed == set(before)) == (modules == "all")
    if modules == "norm+head":
        assert changed == {n for n in before if re.search(movable, n)}


def test_repair_at_learning_rate_zero_updates_only_running_statistics() -> None:
    world = worlds.digits("resnet-nano")
    model, before = world.model(), weights_of(world.model())
    loop.run(build_plan.plan("k_fpf", {**SHORT, "epochs": 0}), model, world.modality, world.some(24))
    changed = {n for n, t in weights_of(model).items() if not torch.equal(t, before[n])}
    assert any("running_mean" in n for n in changed)
    assert any("classifier" in n for n in changed)
    model = world.model()
    loop.run(build_plan.plan("k_fpf", {**SHORT, "epochs": 0, "repair.lr": 0.0}), model, world.modality, world.some(24))
    changed_at_zero_rate = {n for n, t in weights_of(model).items() if not torch.equal(t, before[n])}
    assert changed_at_zero_rate
    assert all(n.endswith(("running_mean", "running_var", "num_batches_tracked")) for n in changed_at_zero_rate)


def test_buffer_is_drawn_from_the_retain_rows(digits: worlds.World) -> None:
    sets: Sets = digits.some(30)
    view = RunView(loop.new_state(digits.model(), digits.modality, worlds.accelerator(), sets=sets), sets)
    buffer = Buffer(size=12, scores=True).pick(sets, view.at("select0", Buffer()))["buffer"]
    assert len(set(buffer.ids)) == 12
    assert set(buffer.ids) <= set(sets["retain"].ids)
    with torch.no_grad():
        logits = digits.modality.forward(digits.model(), [buffer])[0].logits.values
    assert torch.allclose(torch.cat(list(buffer["scores"])), logits, atol=1e-5)
    assert len(Buffer(size=99).pick(sets, view.at("select0", Buffer()))["buffer"]) == 30


@pytest.mark.slow
def test_distillation_alone_restores_the_logits(digits: worlds.World) -> None:
    def distance(**hyperparameters: float) -> float:
        plan = build_plan.plan("k_fpf", {"distil": True, **SHORT, "epochs": 6, "lr": 0.02, "modules": "all", "k": 1, **hyperparameters})[0]
        model = digits.model()
        loop.run((plan,), model, digits.modality, digits.some(24))
        with torch.no_grad():
            logits = [digits.modality.forward(m, [digits.some(24)["retain"]])[0].logits.values for m in (model, digits.model())]
        return float((logits[0] - logits[1]).square().sum(-1).mean())

    assert distance(**{"buffer_weight": 0.0, "repair.steps": 120, "repair.lr": 3e-3, "size": 24}) < 0.2 * distance(k=0)


def test_repair_without_matching_parameters_is_refused(digits: worlds.World) -> None:
    plan = replace(build_plan.plan("k_fpf", SHORT)[0], trainable="embeddings")
    with pytest.raises(UserError, match="none of the weights that move"):
        run_stage(digits, plan)


def blobs(
    seed: int, centers: list[tuple[float, float]], modality: Image, name: str, scale: float = 1.0, first: int = 0, each: int = 60
) -> Rows:
    """Equally many points around each center, one class for each center."""
    middle = torch.tensor(centers).repeat_interleave(each, 0)
    noise = 0.4 * torch.randn(len(middle), 2, generator=torch.Generator().manual_seed(seed))
    return toys.rows(scale * (middle + noise), [first + y for y in range(len(centers)) for _ in range(each)], modality, name)


def accuracy(model: nn.Module, modality: Any, rows: Rows) -> float:
    model.eval()
    with torch.no_grad():
        output = modality.forward(model, [rows])[0]
    return float((output.logits.values.argmax(-1) == output.labels).float().mean())


@pytest.mark.slow
def test_repair_keeps_both_tasks_of_a_stream() -> None:
    modality, old, new = toys.modality(4), [(2.0, 2.0), (-2.0, 2.0)], [(2.0, -2.0), (-2.0, -2.0)]
    sets = {
        "first": blobs(0, old, modality, "first"),
        "second": blobs(1, new, modality, "second", first=2),
        "retain": blobs(2, [*old, *new], modality, "retain", each=20),
    }
    test = blobs(3, [*old, *new], modality, "test")
    train = Train(epochs=5, lr=0.1, batch_size=20, optimizer="sgd", schedule="constant")
    start = net()
    loop.run((Plan(NLL("first"), train=replace(train, anchor="first")),), start, modality, sets)
    second = Plan(NLL("second"), train=replace(train, anchor="second"))
    accuracy_by_k: dict[int, float] = {}
    for k in (0, 1):
        model = copy.deepcopy(start)
        loop.run((replace(second, selectors=(Buffer(),), updates=(FPF(k=k),)),), model, modality, sets)
        accuracy_by_k[k] = accuracy(model, modality, test)
    assert accuracy_by_k[0] == pytest.approx(0.5, abs=0.1)
    assert accuracy_by_k[1] > 0.8


def test_domain_shift_moves_running_statistics_most() -> None:
    modality, centers = toys.modality(2), [(2.0, 2.0), (-2.0, -2.0)]
    model, snapshots = net(classes=2), []
    for seed, scale in enumerate((1.0, 3.0)):
        rows = blobs(seed, centers, modality, "retain", scale)
        train = Train(epochs=5, lr=0.1, batch_size=20, optimizer="sgd", schedule="constant", anchor="retain")
        loop.run((Plan(NLL("retain"), train=train),), model, modality, {"retain": rows})
        snapshots.append(weights_of(model))
    records = drift(model, snapshots)
    assert {r["module"] for r in records[:2]} == {"2.running_mean", "2.running_var"}
    assert records[2]["share"] < 0.3


@pytest.mark.slow
def test_repairs_restore_retain_accuracy_after_ascent(digits: worlds.World) -> None:
    accuracies = {}
    for k in (0, 3):
        model = digits.model()
        hyperparameters = {"k": k, "lr": 3e-3, "batch_size": 16, "epochs": 4, "repair.epochs": 0, "repair.steps": 60, "size": 100}
        loop.run(build_plan.plan("k_fpf", hyperparameters), model, digits.modality, digits.sets)
        accuracies[k] = accuracy(model, digits.modality, digits.sets["forget"]), accuracy(model, digits.modality, digits.sets["retain"])
    assert max(accuracies[0][0], accuracies[3][0]) < 0.1
    assert accuracies[3][1] > accuracies[0][1] + 0.4


def test_tied_head_is_repaired(text: worlds.World) -> None:
    model = text.model()
    sets = text.some(2)
    view = RunView(loop.new_state(model, text.modality, worlds.accelerator(), sets=sets), sets).at("update0", FPF())
    names = FPF().chosen(view, sets["retain"])
    assert "model.embed_tokens.weight" in names
    assert all("norm" in n or "embed" in n for n in names)
    assert isinstance(model.lm_head.weight, Tensor)
