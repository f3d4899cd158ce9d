"""UCE: the normal equations by hand, limits, the ridge minimizer, and the outcome on tiny pictures."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import denoisers
from expunge import UserError
from expunge.core.plan import as_plans
from expunge.engine import loop
from expunge.engine.weights import weights_of
from expunge.methods.edits.uce import solved
from expunge.workflows import build_plan

W = torch.tensor([[1.0, 0.0, 2.0], [-1.0, 0.5, 0.0]], dtype=torch.float64)
K, GUIDE = torch.tensor([[1.0, 0.5, -1.0]], dtype=torch.float64), torch.tensor([[0.2, 1.0, 0.3]], dtype=torch.float64)
NONE = torch.zeros(3, 3, dtype=torch.float64)


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(sum(shape)))


def edited(**options: Any) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """A tiny model after the edit, its modality and its weights before."""
    model, modality = denoisers.built()
    before = weights_of(model)
    records = denoisers.records(1)
    sets = {"forget": modality.rows("forget", records[:2]), "retain": modality.rows("retain", records[2:])}
    loop.run(as_plans(build_plan.plan("uce", options)), model, modality, sets)
    return model, modality, before


def test_one_vector_by_hand() -> None:
    # W k = (-1, -0.75), W k_guide = (0.8, 0.3), k^T k = 2.25: W' = W + (1.8, 1.05) k^T / (2.25 + 0.5)
    expected = W + torch.tensor([[1.8], [1.05]], dtype=torch.float64) @ K / 2.75
    assert torch.allclose(solved(W, [(K, GUIDE)], NONE, 1.0, 0.0, 0.5), expected, atol=1e-12)


def test_solves_the_published_normal_equations() -> None:
    w, erased, kept = drawn(4, 5), [(drawn(3, 5), drawn(3, 5) + 1)], drawn(7, 5)
    new = solved(w, erased, kept.T @ kept, 0.7, 0.3, 0.2)
    (k, guide), identity = erased[0], torch.eye(5, dtype=torch.float64)
    left = 0.7 * (guide @ w.T).T @ k + 0.3 * (kept @ w.T).T @ kept + 0.2 * w
    right = 0.7 * k.T @ k + 0.3 * kept.T @ kept + 0.2 * identity
    assert torch.allclose(new, left @ torch.linalg.inv(right), atol=1e-10)


def test_is_the_ridge_minimizer() -> None:
    w, erased, kept = drawn(2, 3), [(drawn(2, 3), drawn(2, 3) + 1)], drawn(4, 3)
    k, guide = erased[0]
    x = w.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([x], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = (k @ x.T - guide @ w.T).square().sum() + 0.5 * (kept @ (x - w).T).square().sum() + 0.3 * (x - w).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    assert torch.allclose(solved(w, erased, kept.T @ kept, 1.0, 0.5, 0.3), x.detach(), atol=1e-6)


def test_without_ridge_an_erased_word_is_read_as_its_guide() -> None:
    new = solved(W, [(K, GUIDE)], NONE, 1.0, 0.0, 1e-12)
    assert torch.allclose(K @ new.T, GUIDE @ W.T, atol=1e-9)


def test_tensor_targets_are_orthogonal_to_the_old_values_as_one_vector() -> None:
    w, k, guide = drawn(4, 5), drawn(2, 5), drawn(2, 5) + 1
    new = solved(w, [(k, guide)], torch.zeros(5, 5, dtype=torch.float64), 1.0, 0.0, 1e-12, "tensor")
    assert abs(float(((k @ new.T) * (k @ w.T)).sum())) < 1e-8
    assert float(((k @ new.T) * (k @ w.T)).sum(1).abs().max()) > 1e-3, "not of each position alone"


def test_nothing_erased_changes_nothing() -> None:
    model, _, before = edited(erase_weight=0)
    assert all(torch.equal(w, before[n]) for n, w in weights_of(model).items())


def test_only_keys_and_values_of_cross_attention_move() -> None:
    model, _, before = edited()
    moved = {n for n, w in weights_of(model).items() if not torch.equal(w, before[n])}
    assert {n.rpartition("attn2.")[2] for n in moved} == {"to_k.weight", "to_v.weight"}
    assert len(moved) == sum("attn2.to_k" in n or "attn2.to_v" in n for n in before)


def drift(model: Any, modality: Any, before: dict[str, torch.Tensor], caption: str, like: str) -> float:
    """How far the prediction under a caption is from that of the model before under another caption."""
    old = copy.deepcopy(model)
    loop.put(old, before)
    latents, times = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([400])
    now, then = (
        modality.predict(network, latents, times, modality.encode(network, [text])).detach()
        for network, text in ((model, caption), (old, like))
    )
    return float((now - then).norm())


@pytest.mark.parametrize(("states", "share"), [("tail", 0.7), ("last", 1.0)])
def test_the_concept_is_read_as_the_guide(states: str, share: float) -> None:
    run = edited(concept="red", guide="green", ridge=1e-3, states=states, preserve_weight=0)
    assert drift(*run, "a red square", "a green square") < share * drift(*run, "a red square", "a red square")


def test_preserved_captions_stay() -> None:
    kept, free = (edited(concept="red", guide="green", ridge=1e-3, preserve_weight=p) for p in (10.0, 0.0))
    assert drift(*kept, "a blue bar", "a blue bar") < 0.5 * drift(*free, "a blue bar", "a blue bar")


def test_a_concept_that_no_caption_contains_is_named() -> None:
    with pytest.raises(UserError, match="no caption of the rows to forget contains the concept 'purple'"):
        edited(concept="purple")
    with pytest.raises(UserError, match="no caption of the rows to forget contains the concept 'squ'"):
        edited(concept="squ")
