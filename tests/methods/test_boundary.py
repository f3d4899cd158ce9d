"""Boundary unlearning: the adversarial label by hand, the class that is added and dropped, and the outcome."""

import pytest
import torch
from torch import nn

import worlds
from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.engine.gradient import evaluate
from expunge.methods.selectors.boundary import TRAIN, Cross, Expand, Last, Wider
from expunge.modalities.image.modality import classifier_modality
from expunge.workflows import build_plan


def linear(scale: float = 1.0, shift: float = 0.0) -> nn.Module:
    """A classifier of two-pixel images by the larger of scale x + shift, with a third class where the second value is above 1.05."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 3))
    with torch.no_grad():
        model[1].weight.copy_(scale * torch.tensor([[4.0, 0.0], [0.0, 4.0], [0.0, 400.0]]))
        model[1].bias.copy_(torch.tensor([4 * shift, 4 * shift, 400 * shift - 420]))
    return model


def crossed(images: list[list[float]], label: int = 0, **hyperparameters) -> Rows:
    """The forget rows with their adversarial labels."""
    modality, part = classifier_modality(3), Cross(**hyperparameters)
    rows = modality.rows("forget", [{"image": torch.tensor([x]).numpy(), "label": label} for x in images])
    view = RunView(loop.new_state(linear(), modality, worlds.accelerator()), {"forget": rows}).at("select0", part)
    return part.pick({"forget": rows}, view)["forget"]


def test_adversarial_labels_match_hand_values() -> None:
    """A step up the loss of class 0 lowers the first value and raises the second value by the bound."""
    rows = crossed([[0.6, 0.5], [0.9, 0.5], [0.69, 0.5], [0.71, 0.5]], bound=0.1)
    assert rows["answer"] == [[1], [0], [1], [0]]
    assert rows["pixels"][0].flatten().tolist() == pytest.approx([0.6, 0.5])  # the image itself stays unchanged


def test_adversarial_images_stay_valid_images() -> None:
    """No value rises above 1, where the third class begins; values are multiples of 1/255, and equal values give class 0."""
    assert crossed([[1.0, 0.98], [1.0, 0.7]], bound=0.1)["answer"] == [[1], [0]]
    assert crossed([[0.6006, 0.4014], [0.6, 0.5]], bound=0.1)["answer"] == [[0], [1]]  # 0.5006 and 0.5014 are both 128 of 255


def test_bound_without_label_changes_is_refused() -> None:
    with pytest.raises(UserError, match=r"no image to forget has another label within 0.01 of it: give a larger bound"):
        crossed([[0.9, 0.5]], bound=0.01)


def test_images_with_values_outside_0_to_1_are_refused() -> None:
    with pytest.raises(UserError, match="give images before normalization"):
        crossed([[1.9, 0.5]])


def test_bound_is_in_units_of_the_image_for_normalized_models() -> None:
    """The same classifier behind a normalization gets the same labels, with bytes as with floats."""
    images = [[0.6, 0.5], [0.9, 0.5], [0.69, 0.5]]
    modality, part = classifier_modality(3, mean=(0.5,), std=(0.25,)), Cross()
    rows = modality.rows("forget", [{"image": (255 * torch.tensor([x])).round().byte().numpy(), "label": 0} for x in images])
    view = RunView(loop.new_state(linear(0.25, 0.5), modality, worlds.accelerator()), {"forget": rows}).at("select0", part)
    assert part.pick({"forget": rows}, view)["forget"]["answer"] == crossed(images)["answer"] == [[1], [0], [1]]


def test_shrink_trains_on_the_labels_of_the_original(digits: worlds.World) -> None:
    run = loop.run(build_plan.plan("boundary", {"epochs": 1, "bound": 0.2}), digits.model(), digits.modality, digits.sets)
    labels = [y for (y,) in run.sets["forget"]["answer"]]
    assert len(set(labels)) > 2
    assert sum(y != 3 for y in labels) > 10
    assert run.sets["forget"].ids != digits.sets["forget"].ids


def test_wider_layer_keeps_the_logits_and_adds_one() -> None:
    head = nn.Linear(64, 10)
    wide, x = Wider(head, torch.Generator().manual_seed(0)), torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(wide(x)[:, :10], head(x))
    assert wide(x).shape == (5, 11)
    extra_weight = wide.extra.weight.detach()
    assert float(extra_weight.abs().max()) <= 1 / 8
    assert float(extra_weight.std()) == pytest.approx(1 / 8 / 3**0.5, rel=0.2)
    assert Wider(nn.Linear(4, 2, bias=False), torch.Generator()).extra.bias is None


def test_last_loss_is_that_of_the_added_class() -> None:
    """The wider layer gives one row the logits 4, 0, -420 and 1, so the loss is -log e / (e^4 + 1 + 0 + e)."""
    modality, model = classifier_modality(3), linear()
    rows = modality.rows("forget", [{"image": torch.tensor([[1.0, 0.0]]).numpy(), "label": 0}])
    model[1] = Wider(model[1], torch.Generator())
    with torch.no_grad():
        model[1].extra.weight.fill_(1.0)
        model[1].extra.bias.fill_(0.0)
    value, _ = evaluate(loop.new_state(model, modality, worlds.accelerator()), Last(), {"forget": rows})
    scores = torch.tensor([4.0, 0.0, -420.0, 1.0])
    assert float(value) == pytest.approx(float(scores.logsumexp(0) - 1), abs=1e-6)


@pytest.mark.parametrize("size", ["vit-nano", "resnet-nano"])
def test_expand_keeps_the_shape_of_the_model(size: str) -> None:
    world = worlds.digits(size)
    model, start = world.model(), world.model()
    head = model.get_submodule(world.modality.head(model))
    loop.run(build_plan.plan("boundary", {"direction": "expand", "lr": 0.0, "epochs": 1}), model, world.modality, world.sets)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in start.named_parameters()]
    assert worlds.same(worlds.tensors(model), worlds.tensors(start))
    assert model.get_submodule(world.modality.head(model)) is head


def test_expand_restores_the_head_after_a_failure(digits: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    model = digits.model()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunView, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        loop.run(build_plan.plan("boundary", {"direction": "expand"}), model, digits.modality, digits.sets)
    assert isinstance(model.classifier, nn.Linear)


def test_both_forms_have_the_settings_of_the_paper() -> None:
    (shrink,), (expand,) = build_plan.plan("boundary"), build_plan.plan("boundary", {"direction": "expand"})
    assert shrink.train == TRAIN
    assert isinstance(expand.action, Expand)
    assert expand.action.inner.train == TRAIN
    assert (TRAIN.epochs, TRAIN.lr, TRAIN.momentum, shrink.selectors[0].bound) == (10, 1e-5, 0.9, 0.1)


@pytest.mark.parametrize(
    ("size", "hyperparameters"),
    [
        ("vit-nano", {"lr": 3e-4, "bound": 0.2}),
        ("resnet-nano", {"lr": 1e-3, "bound": 0.2}),
        ("vit-nano", {"lr": 1e-3, "direction": "expand"}),
        ("resnet-nano", {"lr": 1e-3, "direction": "expand"}),
    ],
    ids=str,
)
def test_boundary_forgets_a_class_from_its_own_rows(size: str, hyperparameters: dict) -> None:
    world = worlds.digits(size)
    model, before = world.model(), worlds.nll(world.model(), world.modality, world.sets["forget"])
    loop.run(build_plan.plan("boundary", hyperparameters), model, world.modality, {"forget": world.sets["forget"]})
    forget = worlds.nll(model, world.modality, world.sets["forget"])
    assert forget > 1.0 + before
    if size == "resnet-nano":
        assert worlds.nll(model, world.modality, world.sets["retain"]) < 0.3 * forget


def test_expand_works_where_the_last_layer_is_tied(text: worlds.World) -> None:
    model = text.model()
    hyperparameters = {"direction": "expand", "lr": 0.05, "epochs": 6}
    loop.run(build_plan.plan("boundary", hyperparameters), model, text.modality, {"forget": text.sets["forget"]})
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert worlds.nll(model, text.modality, text.sets["forget"]) > 2 * worlds.nll(text.model(), text.modality, text.sets["forget"])
