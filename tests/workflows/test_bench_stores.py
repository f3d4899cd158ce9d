"""Methods that forget from a store of their own in a benchmark: it is trained on all rows, and those to forget are taken out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from expunge.core.errors import Interrupted
from expunge.engine import artifact
from expunge.io.models import load
from expunge.io.run_dirs import check_free
from expunge.workflows import benchmark as module
from expunge.workflows.benchmark import SweepResult, bench
from expunge.workflows.sweep import Sweep

pytestmark = pytest.mark.slow

METHODS = ("sisa", "receraser", "ultrare")
SMALL = Sweep(
    "taste",
    METHODS,
    relearning=False,
    train={"epochs": "4"},
    hyperparameters={"shards": "2", "sisa:slices": "1", "receraser:aggregation_epochs": "2"},
)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> SweepResult:
    return bench(SMALL, tmp_path_factory.mktemp("stores") / "run")


def test_the_rows_leave_a_store_that_was_trained_on_all_of_them(done: SweepResult) -> None:
    suite = SMALL.load_suite()
    assert [e.name for e in done.entries[-len(METHODS) :]] == list(METHODS)
    for method in METHODS:
        before, after = (json.loads((done.folder / part / method / "receipt.json").read_text()) for part in ("stores", "runs"))
        assert before["request"]["sets"] == {"retain": len(suite.train["full"])}
        assert before["stages"][0]["hyperparameters"] == after["stages"][0]["hyperparameters"]
        settings = after["stages"][0]["hyperparameters"]
        assert {v for n, v in settings.items() if n.split(".")[-1] == "epochs"} == {4}, "it trains as the original does"
        assert after["request"]["sets"] == {"forget": len(suite.train["forget"])}
        store = artifact.read_store(done.folder / "runs" / method)
        assert store is not None
        left = sum(len(shard["rows"]) for shard in store["shards"])
        assert left == len(suite.train["full"]) - len(suite.train["forget"])
    check_free(done.folder, overwrite=True)  # all of it is ours to replace


def test_a_shard_without_rows_to_forget_is_as_it_was(done: SweepResult) -> None:
    before, after = (artifact.read_store(done.folder / part / "ultrare") for part in ("stores", "runs"))
    assert before is not None
    assert after is not None
    touched = [len(a["rows"]) != len(b["rows"]) for a, b in zip(before["shards"], after["shards"], strict=True)]
    same = [
        all(torch.equal(a["checkpoints"][-1][n], b["checkpoints"][-1][n]) for n in a["checkpoints"][-1])
        for a, b in zip(before["shards"], after["shards"], strict=True)
    ]
    assert same == [not t for t in touched]


def test_a_stopped_benchmark_goes_on_and_makes_no_store_twice(done: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = Sweep("taste", ("sisa",), relearning=False, train=SMALL.train, hyperparameters={"shards": "2", "slices": "1"})
    calls: list[str] = []
    real = module.unlearn

    def stopped(*_: object, **__: object) -> None:
        raise Interrupted

    monkeypatch.setattr(module, "unlearn", stopped)
    with pytest.raises(Interrupted):
        bench(sweep, tmp_path / "run")
    assert (tmp_path / "run" / "stores" / "sisa" / "receipt.json").exists()

    def trained_once(*arguments: object, **options: object) -> object:
        calls.append(str(options.get("method", "finetune")))
        return train(*arguments, **options)  # type: ignore[arg-type]

    train = module.train
    monkeypatch.setattr(module, "unlearn", real)
    monkeypatch.setattr(module, "train", trained_once)
    again = bench(sweep, tmp_path / "run")
    assert calls == ["finetune", "finetune"]  # the original and the retrained model, from the cache
    own, other = (load(folder / "runs" / "sisa") for folder in (tmp_path / "run", done.folder))
    rows = own.modality.rows("forget", sweep.load_suite().train["forget"])
    ranks = [opened.modality.ranks(opened.model, rows) for opened in (own, other)]  # type: ignore[attr-defined]
    assert torch.equal(*ranks)
    assert again.entries[-1].name == "sisa"
