"""SPM: the gate by hand, an adapter that is closed or new, drawn states, the outcome on tiny pictures, and the guard on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import denoisers
import erasing
import worlds
from expunge.methods.guards.spm import Permeable, away, restore

FEW: dict[str, Any] = {"concept": "red", "warmup": 0, "sampling_steps": 3, "batch_size": 2}


def guarded(**options: Any) -> tuple[Any, Any, Any]:
    """The model of the world of pictures, its modality and the guarded one."""
    model, guard = erasing.unlearned("spm", {**FEW, **options})
    return model, guard.unguarded, guard


def predictions(model: Any, modality: Any, captions: list[str]) -> torch.Tensor:
    rows = modality.recaption(worlds.pictures().sets["retain"].select(range(len(captions))), captions)
    output: Any = modality.forward(model, [rows])[0]
    return output.prediction.values.detach()


def with_gate(guard: Permeable, gate: float) -> Permeable:
    """The guard with the same gate for all prompts."""

    class Fixed(Permeable):
        def gates(self, model: Any, captions: Any) -> torch.Tensor:
            return torch.full((len(captions),), gate)

    return Fixed(guard.unguarded, guard.settings, guard.stored_tensors)


def test_a_new_adapter_changes_nothing() -> None:
    model, modality, guard = guarded(steps=1, lr=0.0)
    assert torch.equal(predictions(model, guard, ["a red bar", "a blue bar"]), predictions(model, modality, ["a red bar", "a blue bar"]))


def test_a_closed_gate_is_the_model_as_it_is_and_an_open_one_the_trained_adapter() -> None:
    model, modality, guard = guarded(steps=2, lr=1e-2)
    bare = predictions(model, modality, ["a red bar"])
    assert torch.equal(predictions(model, with_gate(guard, 0.0), ["a red bar"]), bare)
    assert not torch.allclose(predictions(model, with_gate(guard, 1.0), ["a red bar"]), bare, atol=1e-5)
    path = next(n.rpartition(".")[0] for n in guard.tensors_of("layers") if "attn2.to_k" in n)
    layer, x = model.get_submodule(path), torch.randn(2, 5, 8)
    with guard.opened(model, torch.tensor([0.5, 1.0])):
        added = layer(x) - torch.nn.functional.linear(x, layer.weight)
    down, up = (guard.tensors_of("layers")[f"{path}.{factor}"] for factor in ("down", "up"))
    assert torch.allclose(added, torch.tensor([0.5, 1.0]).view(2, 1, 1) * (x @ down.T @ up.T), atol=1e-5), "the product is scaled once"


def test_the_gate_is_the_larger_of_cosine_and_share_of_tokens() -> None:
    model, modality, guard = guarded(steps=1, lr=0.0)
    states = modality.encode(model, ["red", "a blue bar"]).detach().flatten(1)
    cosine = float(torch.nn.functional.cosine_similarity(states[0], states[1], dim=0))
    gates = guard.gates(model, ["a blue bar", "a red bar", "red", "a blue bar"])
    assert gates.tolist() == pytest.approx([max(0.0, cosine), 1.0, 1.0, max(0.0, cosine)], abs=1e-5)


def test_given_states_open_the_gate_by_likeness() -> None:
    model, modality, guard = guarded(steps=2, lr=1e-1)
    latents, times = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([400])
    states = modality.encode(model, ["red"]).detach()
    with guard.opened(model, torch.ones(1)):
        expected = modality.predict(model, latents, times, states)
    assert torch.allclose(guard.predict(model, latents, times, states), expected, atol=1e-6)
    assert torch.equal(guard.predict(model, latents, times, -states), modality.predict(model, latents, times, -states))


def test_drawn_states_are_as_long_as_the_concept_and_in_any_direction() -> None:
    concept = torch.ones(4, 6)
    drawn = [away(concept, torch.Generator().manual_seed(i)) for i in range(200)]
    lengths = torch.stack([d.norm() / concept.norm() for d in drawn])
    assert float(lengths.min()) >= 0.8
    assert float(lengths.max()) <= 1.2
    assert float(lengths.std()) > 0.05
    cosines = torch.stack([torch.nn.functional.cosine_similarity(d.flatten(), concept.flatten(), dim=0) for d in drawn])
    assert float(cosines.mean()) < 0


def test_rows_with_drawn_states_share_a_forward_pass_with_others() -> None:
    model, modality = denoisers.built()
    rows = modality.redraw(modality.rows("retain", denoisers.records(1)), 1)
    latents, times = modality.noised(rows)
    states = modality.encode(model, ["a red bar"] * 2).detach()
    given = modality.placed(rows.select([0, 1]), latents[:2], times[:2], states).rename("given")
    alone, together = modality.forward(model, [given])[0], modality.forward(model, [rows.select([2]), given, rows.select([3])])
    assert torch.allclose(together[1].prediction.values, alone.prediction.values, atol=1e-6)
    assert torch.allclose(together[2].prediction.values, modality.forward(model, [rows.select([3])])[0].prediction.values, atol=1e-6)


def test_the_guard_is_the_same_from_disk_and_the_weights_are_as_they_were(tmp_path: Path) -> None:
    model, modality, guard = guarded(steps=2, lr=1e-2)
    before = worlds.pictures().weights["original"]
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    guard.save_guard(tmp_path)
    again = restore(modality, tmp_path)
    assert torch.equal(predictions(model, again, ["a red bar"]), predictions(model, guard, ["a red bar"]))
    samples = [m.sample(model, ["a red bar"], [3], steps=2)[0] for m in (again, guard, modality)]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[1], samples[2])
    assert "tokens" not in guard.describe()


def test_an_open_gate_leads_away_from_the_concept_and_a_closed_one_does_not() -> None:
    model, modality, guard = guarded(steps=30, lr=2e-2, retain_weight=1.0)
    assert erasing.share(model, guard, "red", erasing.away("red")) < 0.7
    assert torch.equal(erasing.prediction(model, with_gate(guard, 0.0), "red"), erasing.before("red"))
    assert torch.equal(erasing.prediction(model, modality, "red"), erasing.before("red"))
