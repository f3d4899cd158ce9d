"""Parallel ensembles: nothing is trained twice, an interrupted ensemble resumes, and processes compute the same as one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import toys
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.engine import ensemble
from expunge.engine.ensemble import Ensemble, subsets
from expunge.functional.margins import margin
from expunge.methods.terms import Ascent
from expunge.parallel import ensembles, ray_cluster

PORT = toys.modality(3)
ROWS = toys.noise(20, PORT)
PLAN = toys.fresh(epochs=2, batch_size=5)


def trained(folder: Path, models: int = 5, **options: Any) -> Ensemble:
    work = ensembles.Work(size=2, folder=folder, **options)
    return ensembles.train(PLAN, toys.mlp(3), PORT, ROWS, subsets(20, models), work=work)


def same(a: Ensemble, b: Ensemble) -> bool:
    return torch.equal(a.trained_on, b.trained_on) and all(torch.equal(w, b.weights[n]) for n, w in a.weights.items())


@pytest.fixture
def piece_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the trained pieces."""
    sizes: list[int] = []

    def train(*args: Any) -> Ensemble:
        sizes.append(len(args[4]))
        return real(*args)

    real = ensemble.train
    monkeypatch.setattr(ensemble, "train", train)
    return sizes


def test_stored_pieces_are_reused_by_larger_ensembles(tmp_path: Path, piece_sizes: list[int]) -> None:
    four = trained(tmp_path, 4)
    assert piece_sizes == [2, 2]
    assert same(trained(tmp_path, 4), four)
    assert piece_sizes == [2, 2]
    seven = trained(tmp_path, 7)
    assert piece_sizes == [2, 2, 2, 1]
    assert same(ensemble.joined(list(seven.pieces(2))[:2]), four)
    whole = ensemble.train(PLAN, toys.mlp(3), PORT, ROWS, seven.trained_on, [ensembles.seed_of(0, "model", k) for k in range(7)])
    assert max(float((w - seven.weights[n]).abs().max()) for n, w in whole.weights.items()) < 1e-5


def test_any_change_of_the_inputs_trains_anew(tmp_path: Path, piece_sizes: list[int]) -> None:
    work, trained_on = ensembles.Work(folder=tmp_path), subsets(20, 2)
    arguments: dict[str, Any] = {"plan": PLAN, "model": toys.mlp(3), "modality": PORT, "rows": ROWS, "trained_on": trained_on, "seed": 0}
    changes: list[dict[str, Any]] = [
        {},
        {"plan": toys.fresh(epochs=3, batch_size=5)},
        {"model": toys.mlp(3, seed=1)},
        {"model": torch.nn.Sequential(*list(toys.mlp(3))[:2], torch.nn.Tanh(), toys.mlp(3)[3])},
        {"modality": replace(PORT, mean=(0.1,))},
        {"rows": PORT.relabel(ROWS, [0] * 20, "retain")},
        {"trained_on": ~trained_on},
        {"seed": 1},
    ]
    for i, change in enumerate(changes):
        ensembles.train(**{**arguments, **change}, work=work)
        assert len(piece_sizes) == i + 1


def test_an_interrupted_ensemble_resumes(tmp_path: Path, piece_sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    store = ensembles._store

    def store_twice(path: Path, compute: Callable[[], Ensemble]) -> None:
        if len(piece_sizes) == 2:
            raise KeyboardInterrupt
        store(path, compute)

    monkeypatch.setattr(ensembles, "_store", store_twice)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path)
    monkeypatch.setattr(ensembles, "_store", store)
    assert piece_sizes == [2, 2]
    resumed = trained(tmp_path)
    assert piece_sizes == [2, 2, 1]
    assert same(resumed, trained(tmp_path / "elsewhere"))


@pytest.mark.slow
def test_two_processes_compute_the_same_as_one(tmp_path: Path) -> None:
    assert same(trained(tmp_path / "two", workers=2), trained(tmp_path / "one"))


def test_a_cluster_gets_only_missing_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []

    def spread(do: Callable[..., None], jobs: Mapping[str, tuple[Any, ...]], folder: Path) -> None:
        assert folder == tmp_path / "ray"
        sent.append(len(jobs))
        for job in jobs.values():
            do(*job)

    with monkeypatch.context() as patched:
        patched.setattr(ray_cluster, "spread", spread)
        trained(tmp_path / "ray", models=3, workers=8, by="ray")
        assert same(trained(tmp_path / "ray", workers=8, by="ray"), trained(tmp_path / "one"))
        trained(tmp_path / "ray", workers=8, by="ray")
    assert sent == [2, 2], "the last piece of the smaller ensemble is a different one"
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"expunge\[ray\]"):
        trained(tmp_path / "absent", workers=8, by="ray")


def test_unlearned_pieces_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models, work = trained(tmp_path), ensembles.Work(size=2, folder=tmp_path)
    forget = models.trained_on & (torch.arange(20) < 8)
    plan = Plan(Ascent(), train=Train(epochs=1, lr=1e-2))
    unlearned = ensembles.unlearn(plan, models, PORT, ROWS, forget, work=work)
    assert torch.equal(unlearned.trained_on, models.trained_on & ~forget)
    monkeypatch.setattr(ensemble, "run", None)
    assert same(unlearned, ensembles.unlearn(plan, models, PORT, ROWS, forget, work=work))
    with pytest.raises(TypeError):  # other rows to forget need new training
        ensembles.unlearn(plan, models, PORT, ROWS, models.trained_on & (torch.arange(20) < 7), work=work)


def test_margins_belong_to_the_true_class(tmp_path: Path) -> None:
    models = trained(tmp_path, 3)
    labels = torch.tensor([y for (y,) in ROWS["answer"]])
    expected = torch.stack([margin(logits, labels) for logits in ensemble.logits(models, PORT, ROWS)])
    assert torch.allclose(ensembles.margins(models, PORT, ROWS), expected, atol=1e-6)
    assert expected.shape == (3, 20)


def test_pieces_are_stored_in_the_cache_by_default() -> None:
    ensembles.train(PLAN, toys.mlp(3), PORT, ROWS, subsets(20, 1))
    assert len(list(ensembles.HERE.place.iterdir())) >= 1
