"""Task vectors: identities, a vector computed by hand, adapters, and the outcome."""

import pytest
import torch

import worlds
from expunge.core.plan import Plan, Train
from expunge.engine import loop
from expunge.methods.terms import NLL
from expunge.workflows import build_plan


def negated(text: worlds.World, model: torch.nn.Module | None = None, **hyperparameters: float) -> torch.nn.Module:
    model = model or text.model()
    loop.run(
        build_plan.plan("task_vector", {"lr": 1e-3, "epochs": 3, **hyperparameters}), model, text.modality, {"forget": text.sets["forget"]}
    )
    return model


def test_scale_zero_changes_no_bit(text: worlds.World) -> None:
    assert worlds.same(worlds.tensors(negated(text, scale=0)), worlds.tensors(text.model()))


def test_an_empty_vector_changes_no_bit(text: worlds.World) -> None:
    assert worlds.same(worlds.tensors(negated(text, scale=7, lr=0.0)), worlds.tensors(text.model()))


def test_step_is_opposite_to_fine_tuning(text: worlds.World) -> None:
    start, tuned = text.model(), text.model()
    train = Train(epochs=3, lr=1e-3, batch_size=32, schedule="constant")
    loop.run((Plan(NLL("forget"), train=train),), tuned, text.modality, {"forget": text.sets["forget"]})
    by_hand = [2.5 * a - 1.5 * b for a, b in zip(worlds.tensors(start), worlds.tensors(tuned), strict=True)]
    actual = worlds.tensors(negated(text, scale=1.5))
    assert worlds.far(actual, worlds.tensors(start)) > 1e-3
    assert worlds.far(actual, by_hand) < 1e-5


def test_integer_buffers_stay(text: worlds.World) -> None:
    model = text.model()
    model.register_buffer("count", torch.tensor([3, 5]))
    assert negated(text, model, scale=5).count.tolist() == [3, 5]
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_an_adapter_is_merged_into_the_task_vector(text: worlds.World) -> None:
    model = negated(text, scale=5, lora=4, lr=1e-2)
    assert [n for n, _ in model.named_parameters()] == [n for n, _ in text.model().named_parameters()]
    assert torch.equal(model.model.embed_tokens.weight, text.model().model.embed_tokens.weight)
    assert not torch.equal(model.model.layers[0].mlp.down_proj.weight, text.model().model.layers[0].mlp.down_proj.weight)


def test_forgets_more_than_it_harms(text: worlds.World) -> None:
    model = negated(text, epochs=10, scale=2)
    forget, retain = (worlds.nll(model, text.modality, text.sets[n]) for n in ("forget", "retain"))
    assert forget > 0.5
    assert retain < 0.5 * forget
    assert build_plan.plan("task_vector")[0].action.scale == pytest.approx(5.0)
