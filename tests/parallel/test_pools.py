"""Pools as work: nothing is trained twice, an interrupted pool goes on, and processes make what one process makes."""

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


def made(folder: Path, models: int = 5, **more: Any) -> Ensemble:
    work = ensembles.Work(size=2, folder=folder, **more)
    return ensembles.train(PLAN, toys.mlp(3), PORT, ROWS, subsets(20, models), work=work)


def same(a: Ensemble, b: Ensemble) -> bool:
    return torch.equal(a.seen, b.seen) and all(torch.equal(w, b.weights[n]) for n, w in a.weights.items())


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes of the pieces that were trained."""
    trained: list[int] = []

    def train(*args: Any) -> Ensemble:
        trained.append(len(args[4]))
        return real(*args)

    real = ensemble.train
    monkeypatch.setattr(ensemble, "train", train)
    return trained


def test_nothing_is_trained_twice_and_a_larger_pool_begins_with_a_smaller_one(tmp_path: Path, count: list[int]) -> None:
    four = made(tmp_path, 4)
    assert count == [2, 2]
    assert same(made(tmp_path, 4), four)
    assert count == [2, 2]
    seven = made(tmp_path, 7)
    assert count == [2, 2, 2, 1]
    assert same(ensemble.joined(list(seven.pieces(2))[:2]), four)
    whole = ensemble.train(PLAN, toys.mlp(3), PORT, ROWS, seven.seen, [ensembles.seed_of(0, "model", k) for k in range(7)])
    assert max(float((w - seven.weights[n]).abs().max()) for n, w in whole.weights.items()) < 1e-5


def test_whatever_makes_a_pool_another_one_makes_it_anew(tmp_path: Path, count: list[int]) -> None:
    work, seen = ensembles.Work(folder=tmp_path), subsets(20, 2)
    given: dict[str, Any] = {"plan": PLAN, "model": toys.mlp(3), "modality": PORT, "rows": ROWS, "seen": seen, "seed": 0}
    others: list[dict[str, Any]] = [
        {},
        {"plan": toys.fresh(epochs=3, batch_size=5)},
        {"model": toys.mlp(3, seed=1)},
        {"model": torch.nn.Sequential(*list(toys.mlp(3))[:2], torch.nn.Tanh(), toys.mlp(3)[3])},
        {"modality": replace(PORT, mean=(0.1,))},
        {"rows": PORT.relabel(ROWS, [0] * 20, "retain")},
        {"seen": ~seen},
        {"seed": 1},
    ]
    for i, other in enumerate(others):
        ensembles.train(**{**given, **other}, work=work)
        assert len(count) == i + 1


def test_an_interrupted_pool_goes_on(tmp_path: Path, count: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    keep = ensembles._keep

    def dies(path: Path, make: Callable[[], Ensemble]) -> None:
        if len(count) == 2:
            raise KeyboardInterrupt
        keep(path, make)

    monkeypatch.setattr(ensembles, "_keep", dies)
    with pytest.raises(KeyboardInterrupt):
        made(tmp_path)
    monkeypatch.setattr(ensembles, "_keep", keep)
    assert count == [2, 2]
    again = made(tmp_path)
    assert count == [2, 2, 1]
    assert same(again, made(tmp_path / "elsewhere"))


def test_processes_make_what_one_process_makes(tmp_path: Path) -> None:
    assert same(made(tmp_path / "two", workers=2), made(tmp_path / "one"))


def test_a_cluster_is_given_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[int] = []

    def spread(do: Callable[..., None], jobs: Mapping[str, tuple[Any, ...]], folder: Path) -> None:
        assert folder == tmp_path / "ray"
        sent.append(len(jobs))
        for job in jobs.values():
            do(*job)

    with monkeypatch.context() as patched:
        patched.setattr(ray_cluster, "spread", spread)
        made(tmp_path / "ray", models=3, workers=8, by="ray")
        assert same(made(tmp_path / "ray", workers=8, by="ray"), made(tmp_path / "one"))
        made(tmp_path / "ray", workers=8, by="ray")
    assert sent == [2, 2], "the last piece of the smaller pool is another one"
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"expunge\[ray\]"):
        made(tmp_path / "absent", workers=8, by="ray")


def test_unlearning_is_kept_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, work = made(tmp_path), ensembles.Work(size=2, folder=tmp_path)
    forget = start.seen & (torch.arange(20) < 8)
    plan = Plan(Ascent(), train=Train(epochs=1, lr=1e-2))
    after = ensembles.unlearn(plan, start, PORT, ROWS, forget, work=work)
    assert torch.equal(after.seen, start.seen & ~forget)
    monkeypatch.setattr(ensemble, "run", None)
    assert same(after, ensembles.unlearn(plan, start, PORT, ROWS, forget, work=work))
    with pytest.raises(TypeError):  # other rows to forget: other work
        ensembles.unlearn(plan, start, PORT, ROWS, start.seen & (torch.arange(20) < 7), work=work)


def test_margins_are_those_of_the_true_class(tmp_path: Path) -> None:
    start = made(tmp_path, 3)
    labels = torch.tensor([y for (y,) in ROWS["answer"]])
    wanted = torch.stack([margin(said, labels) for said in ensemble.logits(start, PORT, ROWS)])
    assert torch.allclose(ensembles.margins(start, PORT, ROWS), wanted, atol=1e-6)
    assert wanted.shape == (3, 20)


def test_by_default_pools_lie_in_the_cache() -> None:
    ensembles.train(PLAN, toys.mlp(3), PORT, ROWS, subsets(20, 1))
    assert len(list(ensembles.HERE.place.iterdir())) >= 1
