"""UNSIR: the noise by hand, the rows of both sets, that no forget image is used, and the outcome."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import worlds
from expunge.core.errors import UserError
from expunge.core.rows import Rows, Sets
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.methods.selectors.unsir import Noise, Others
from expunge.modalities.image.modality import Image
from expunge.workflows import build_plan

SMALL = {"copies": 8, "images": 40, "lr": 1e-3}


def picked(
    world: worlds.World, part: Noise | Others, sets: Sets | None = None, model: nn.Module | None = None, modality: Image | None = None
) -> Sets:
    sets = sets or world.sets
    view = RunView(loop.new_state(model or world.model(), modality or world.modality, worlds.accelerator()), sets).at("select0", part)
    return part.pick(sets, view)


def noise(rows: Rows) -> torch.Tensor:
    """The noise images of a set, once each."""
    return torch.stack([x for i, x in zip(rows.ids, rows["pixels"], strict=True) if i.startswith("noise")])[:32].detach()


def class_logp(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Log-probability of class three, (images,)."""
    with torch.no_grad():
        return model(images).logits.log_softmax(-1)[:, 3]


def test_retain_rows_are_the_first_of_each_other_class(digits: worlds.World) -> None:
    kept = picked(digits, Others(5))["retain"]
    retain = digits.sets["retain"]
    by_class = {c: [i for i, a in zip(retain.ids, retain["answer"], strict=True) if a == [c]][:5] for c in range(10) if c != 3}
    assert sorted(kept.ids) == sorted(i for ids in by_class.values() for i in ids)
    assert len(kept) == 45
    assert picked(digits, Others(500))["retain"].ids == retain.ids


def test_retain_rows_of_the_class_itself_are_left_out(digits: worlds.World) -> None:
    mixed = {**digits.sets, "retain": digits.sets["retain"].select(range(20)).concat(digits.sets["forget"].select(range(4)))}
    assert picked(digits, Others(), mixed)["retain"].ids == digits.sets["retain"].ids[:20]
    with pytest.raises(UserError, match="no retain row of another class"):
        picked(digits, Others(), {**digits.sets, "retain": digits.sets["forget"].rename("retain")})


def test_impair_set_holds_noise_copies_and_retain_rows(digits: worlds.World) -> None:
    impair = picked(digits, Noise(rounds=0))["impair"]
    assert len(impair) == 32 * 80 + len(digits.sets["retain"])
    assert impair.name == "impair"
    assert impair["answer"][:2560] == [[3]] * 2560
    assert impair["answer"][2560:] == digits.sets["retain"]["answer"]
    assert len({id(x) for x in impair["pixels"][:2560]}) == 32  # the copies share their tensors
    assert torch.equal(impair["pixels"][0], impair["pixels"][32])


def test_noise_without_rounds_is_standard_normal(digits: worlds.World) -> None:
    drawn = noise(picked(digits, Noise(rounds=0))["impair"])
    assert drawn.shape == (32, 1, 8, 8)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.1)
    assert float(drawn.std()) == pytest.approx(1, abs=0.1)
    assert torch.equal(drawn, noise(picked(digits, Noise(rounds=0))["impair"]))


def test_noise_is_in_units_of_the_model_input(digits: worlds.World) -> None:
    """The model's input is the same whether or not the modality normalizes images."""
    modality = replace(digits.modality, mean=(0.5,), std=(0.25,))
    plain, normalized = (picked(digits, Noise(rounds=3), modality=p)["impair"].select(range(32)) for p in (digits.modality, modality))
    like = torch.zeros(())
    assert torch.allclose(digits.modality.pixels(plain, like), modality.pixels(normalized, like), atol=1e-5)
    assert not torch.allclose(digits.modality.inputs(plain), modality.inputs(normalized), atol=0.1)


def test_first_round_matches_a_signed_adam_step(digits: worlds.World) -> None:
    """Adam begins with steps of `pace` against the sign of the gradient of mean log p(3) + 0.1 mean |N|^2."""
    model = digits.model()
    start = noise(picked(digits, Noise(rounds=0))["impair"])
    x = start.clone().requires_grad_()
    value = model(x).logits.log_softmax(-1)[:, 3].mean() + 0.1 * x.square().sum((1, 2, 3)).mean()
    (slope,) = torch.autograd.grad(value, x)
    updated = noise(picked(digits, Noise(rounds=1))["impair"])
    unambiguous = slope.abs() > 1e-5
    assert torch.allclose((updated - start)[unambiguous], -0.1 * slope.sign()[unambiguous], atol=1e-3)
    assert float(unambiguous.float().mean()) > 0.9


@pytest.mark.parametrize("training", [True, False])
def test_noise_is_learned_in_training_mode_unless_asked_otherwise(training: bool) -> None:
    """Three rounds by torch alone: batch norm by the statistics of the noise batch, or by the running ones."""
    world = worlds.digits("resnet-nano")
    hyperparameters = {} if training else {"training": False}
    model = world.model().train(training)
    x = noise(picked(world, Noise(rounds=0))["impair"])
    adam = torch.optim.Adam([x], lr=0.1)
    for _ in range(3):
        x.requires_grad_()
        value = model(x).logits.log_softmax(-1)[:, 3].mean() + 0.1 * x.square().sum((1, 2, 3)).mean()
        adam.zero_grad()
        value.backward()
        adam.step()
    learned = noise(picked(world, Noise(rounds=3, **hyperparameters))["impair"])
    assert torch.allclose(learned, x.detach(), atol=1e-4)
    assert not torch.allclose(learned, noise(picked(world, Noise(rounds=3, training=not training))["impair"]), atol=1e-2)


def test_learning_the_noise_moves_no_running_statistics_and_no_mode() -> None:
    world = worlds.digits("resnet-nano")
    model, untouched = world.model().eval(), world.model().eval()
    picked(world, Noise(rounds=2), model=model)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), untouched.buffers(), strict=True))
    assert not any(m.training for m in model.modules())


def test_one_noise_image_in_training_mode_is_refused(digits: worlds.World) -> None:
    with pytest.raises(UserError, match="no statistics of one noise image: give --count 2 or more, or --training false"):
        picked(digits, Noise(count=1))
    assert len(noise(picked(digits, Noise(count=1, training=False, rounds=1))["impair"])) == 32


def test_rounds_move_the_noise_away_from_the_class(digits: worlds.World) -> None:
    model = digits.model()
    before, after = (noise(picked(digits, Noise(rounds=n, penalty=0))["impair"]) for n in (0, 25))
    assert float(class_logp(model, after).mean()) < float(class_logp(model, before).mean()) - 1
    shrunk = noise(picked(digits, Noise(rounds=25, penalty=100.0))["impair"])
    assert float(shrunk.norm()) < 0.3 * float(before.norm())


def test_noise_leaves_no_gradients_or_changes_in_the_model(digits: worlds.World) -> None:
    model = digits.model()
    picked(digits, Noise(rounds=2), model=model)
    assert all(p.grad is None for p in model.parameters())
    assert worlds.same(worlds.tensors(model), worlds.tensors(digits.model()))


def test_forget_images_are_never_used(digits: worlds.World) -> None:
    blank_images = digits.sets["forget"].add(pixels=[torch.zeros(1, 8, 8)] * len(digits.sets["forget"]))
    final_weights = []
    for forget in (digits.sets["forget"], blank_images):
        model = digits.model()
        loop.run(build_plan.plan("unsir", {**SMALL, "rounds": 2}), model, digits.modality, {**digits.sets, "forget": forget})
        final_weights.append(worlds.tensors(model))
    assert worlds.same(*final_weights)


def test_each_class_has_its_own_noise(digits: worlds.World) -> None:
    retain = digits.sets["retain"]
    fives = [i for i, a in enumerate(retain["answer"]) if a == [5]][:3]
    two_classes = {**digits.sets, "forget": digits.sets["forget"].concat(retain.select(fives))}
    impair = picked(digits, Noise(rounds=1, copies=1), two_classes)["impair"]
    assert [impair["answer"][i] for i in (0, 31, 32, 63)] == [[5], [5], [3], [3]]
    assert not torch.equal(impair["pixels"][0], impair["pixels"][32])


def test_byte_images_work_beside_float_noise(digits: worlds.World) -> None:
    """Noise is stored as floats, while images are often bytes."""
    byte_sets = {n: digits.sets[n].add(pixels=[(255 * x).round().byte() for x in digits.sets[n]["pixels"]]) for n in ("forget", "retain")}
    final_weights = []
    for sets in (byte_sets, digits.sets):
        model = digits.model()
        loop.run(build_plan.plan("unsir", {**SMALL, "rounds": 1}), model, digits.modality, sets)
        final_weights.append(worlds.tensors(model))
    assert worlds.far(*final_weights) < 0.02


def test_repair_uses_the_retain_rows_of_the_impair_set(digits: worlds.World) -> None:
    run = loop.run(build_plan.plan("unsir", {**SMALL, "rounds": 0, "images": 5}), digits.model(), digits.modality, digits.sets)
    assert len(run.sets["retain"]) == 45
    assert "impair" not in run.sets
    stages = [record["stage"] for record in run.log if "loss" in record]
    assert [stages.count(i) for i in (0, 1)] == [-(-(32 * 8 + 45) // 32), 1]


def test_zero_images_are_refused() -> None:
    with pytest.raises(UserError, match="at least one image a class, and images is 0"):
        build_plan.plan("unsir", {"images": 0})


def test_modality_without_images_is_refused(text: worlds.World) -> None:
    with pytest.raises(UserError, match="needs inputs that are numbers and can be moved, which the modality 'text' does not have"):
        loop.run(build_plan.plan("unsir"), text.model(), text.modality, text.sets)


@pytest.mark.parametrize(
    ("size", "hyperparameters"), [("vit-nano", {"lr": 3e-3, "copies": 4}), ("resnet-nano", {"lr": 1e-3, "copies": 40})]
)
def test_forgets_a_class(size: str, hyperparameters: dict) -> None:
    world = worlds.digits(size)
    model = world.model()
    loop.run(build_plan.plan("unsir", hyperparameters), model, world.modality, world.sets)
    forget, retain = (worlds.nll(model, world.modality, world.sets[n]) for n in ("forget", "retain"))
    assert forget > 1.0
    assert retain < 0.5 * forget
