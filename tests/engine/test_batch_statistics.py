"""Rows of a model that normalizes by batch statistics: each once an epoch, none alone unless it is the only one."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train
from expunge.core.rows import Rows
from expunge.engine import loop, schedule
from expunge.methods.terms import NLL
from expunge.modalities.image.modality import Image
from expunge.modalities.image.models import vision
from expunge.workflows import build_plan

MODALITY = Image(("a", "b", "c"))


def pictures(name: str, count: int) -> Rows:
    rng = np.random.default_rng(count)
    return MODALITY.rows(name, [{"image": rng.integers(0, 256, (8, 8)).astype(np.uint8), "label": i % 3} for i in range(count)])


def rows_of(name: str, count: int) -> Rows:
    return Rows(name, tuple(map(str, range(count))), {})


@pytest.mark.parametrize("batch_size", [2, 3, 4, 10])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9, 10, 11, 21])
@pytest.mark.parametrize("independent", [True, False])
def test_an_epoch_has_every_row_once(count: int, batch_size: int, independent: bool) -> None:
    run: Any = SimpleNamespace(
        seed=0, stage=0, epoch=0, model=None, modality=SimpleNamespace(capabilities=frozenset(), independent=lambda _: independent)
    )
    batches = []
    for step in range(schedule.steps_of(count, batch_size, independent)):
        run.step = step
        batches.append(schedule.sample({"forget": rows_of("forget", count)}, Train(batch_size=batch_size), run)["forget"].ids)
    assert Counter(i for b in batches for i in b) == Counter(map(str, range(count)))
    assert max(map(len, batches)) <= max(3, batch_size)
    if not independent and count > 1:
        assert min(map(len, batches)) >= 2


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize(("long", "short"), [(5, 5), (7, 2), (9, 3), (20, 5), (8, 1)])
def test_no_piece_of_a_batch_has_one_row(long: int, short: int, size: int) -> None:
    sets = {"forget": rows_of("forget", short), "retain": rows_of("retain", long)}
    pieces = schedule.split(sets, size, unit=2)
    for name, rows in sets.items():
        assert [i for p in pieces if name in p for i in p[name].ids] == list(rows.ids)
        assert all(len(p[name]) > 1 for p in pieces if name in p) or len(rows) == 1


@pytest.mark.parametrize("setting", ["batch_size", "micro_batch_size"])
def test_batches_of_one_row_are_refused(setting: str) -> None:
    model = vision.build("resnet-nano", (1, 8, 8), MODALITY.labels)
    train = Train(**{"epochs": 1, "batch_size": 4, "lr": 1e-3, setting: 1})
    with pytest.raises(UserError, match=f"give --{setting.replace('_', '-')} 2 or more"):
        loop.run((Plan(NLL("forget"), train=train),), model, MODALITY, {"forget": pictures("forget", 5)})


def test_a_row_alone_is_normalized_by_running_statistics() -> None:
    model = vision.build("resnet-nano", (1, 8, 8), MODALITY.labels).train()
    (row,) = (pictures("forget", 1),)
    expected = model.eval()(MODALITY.pixels(row, torch.zeros(()))).logits
    model.train()
    before = {n: b.clone() for n, b in model.named_buffers()}
    for rows in (row, row.concat(row)):  # copies of a row have no batch statistics either
        assert torch.allclose(MODALITY.forward(model, [rows])[0].logits.values, expected.expand(len(rows), -1), atol=1e-6)
    assert all(m.training for m in model.modules())
    assert all(torch.equal(b, before[n]) for n, b in model.named_buffers())


@pytest.mark.parametrize("method", ["ga", "scrub", "npo", "graddiff", "boundary", "k_fpf", "ssd"])
def test_one_row_is_forgotten_with_batch_norm(method: str) -> None:
    sets = {n: pictures(n, k) for n, k in (("forget", 1), ("retain", 7), ("holdout", 4))}
    model = vision.build("resnet-nano", (1, 8, 8), MODALITY.labels)
    plans = build_plan.plan(method, {} if method == "ssd" else {"epochs": "1", "batch_size": "3"})
    run = loop.run(plans, model, MODALITY, sets)
    assert all(p.isfinite().all() for p in model.parameters())
    if method in ("ga", "scrub", "npo"):
        assert "the only row of 'forget' has no batch statistics, so it is normalized by the model's running ones" in run.warnings
