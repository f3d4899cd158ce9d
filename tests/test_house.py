"""The house knows no modality by name: one that exists only in the tests goes all the way, and so does a by-design method."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import toy_modality
from cases import expunge
from expunge import Sweep, bench, catalog
from expunge.core.hyperparameters import part
from expunge.core.modality import Weights
from expunge.core.parts import ByDesign
from expunge.core.plan import Plan, Train, as_plans
from expunge.core.request import content
from expunge.core.rows import Rows
from expunge.core.view import View
from expunge.engine import artifact, loop
from expunge.engine.weights import weights_of
from expunge.io.data import write_jsonl
from expunge.io.models import load
from expunge.methods.terms import NLL
from expunge.workflows import build_plan


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    with toy_modality.registered():
        yield


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Records as files, and the original and the retrained model as folders."""
    folder = tmp_path_factory.mktemp("curve")
    suite = toy_modality._benchmark().load()
    for name, rows in {**suite.sets, "full": suite.train["full"]}.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    with toy_modality.registered():
        for name, data in (("original", "full"), ("retrained", "retain")):
            expunge("train", "--data", folder / f"{data}.jsonl", "--model", "curve-nano", "--out", folder / name).fine()
    return folder


def sets(files: Path, *names: str) -> list[Any]:
    return [w for n in names for w in (f"--{n}", files / f"{n}.jsonl")]


def scores(folder: Path) -> Mapping[str, Any]:
    return json.loads((folder / "audit.json").read_text())["scores"]


def test_train_unlearn_audit_attack_and_report(files: Path, tmp_path: Path) -> None:
    rate = ("--lr", 5e-3, "--epochs", 20)
    expunge("unlearn", "graddiff", "--model", files / "original", *sets(files, "forget", "retain"), "--out", tmp_path / "run", *rate).fine()
    beside = ("--original", files / "original", "--retrained", files / "retrained", "--controls", "--attack", "relearn", "--lr", 1e-2)
    data = sets(files, "forget", "retain", "holdout")
    done = expunge("audit", tmp_path / "run", *data, *beside, "--steps", 10, "--out", tmp_path / "audit").fine()
    assert "forget_fit" in done.out
    records = scores(tmp_path / "audit")
    assert {"forget_fit", "retain_fit", "unseen_fit", "loss_attack"} == records.keys()
    assert records["forget_fit"]["retrained"] is not None
    verdict = json.loads((tmp_path / "audit" / "audit.json").read_text())["verdict"]
    assert {c["score"] for c in verdict["checks"]} >= {"forget_fit", "loss_attack"}
    assert [r["attack"] for r in verdict["brings_back"]] == ["relearn"]
    expunge("attack", "relearn", tmp_path / "run", *sets(files, "forget"), "--out", tmp_path / "attack", "--steps", 5, "--lr", 1e-2).fine()
    expunge("report", tmp_path / "audit", "--out", tmp_path / "page.html").fine()
    assert "forget fit" in (tmp_path / "page.html").read_text().replace("_", " ")


def test_a_benchmark_with_a_set_of_a_new_name(tmp_path: Path) -> None:
    result = bench(Sweep("waves", ("graddiff", "npo"), relearning=False), tmp_path / "bench")
    by_name = {e.name: e for e in result.entries}
    assert {"original", "retrained", "random weights", "graddiff", "npo"} <= by_name.keys()
    assert by_name["graddiff"].scores["edges_fit"].value is not None
    assert by_name["original"].scores["forget_fit"].value > by_name["random weights"].scores["forget_fit"].value
    assert (tmp_path / "bench" / "report.html").exists()


def test_what_needs_labels_or_words_is_refused_in_a_sentence(files: Path, tmp_path: Path) -> None:
    message = expunge("unlearn", "salun", "--model", files / "original", *sets(files, "forget", "retain"), "--out", tmp_path / "run").error
    assert "rows with labels out of classes, which the modality 'curve' does not have" in message


@part
class Halves(ByDesign):
    """Two models of half the rows each; what they know is averaged. Taking a row out retrains its half alone."""

    reads = frozenset({"retain"})

    def fit(self, view: View) -> Mapping[str, Any]:
        rows = view.retain
        return {"start": weights_of(view.model), **{str(h): self._half(view, weights_of(view.model), self._of(rows, h), h) for h in (0, 1)}}

    def forget(self, store: Mapping[str, Any], ids: frozenset[str], view: View) -> Mapping[str, Any]:
        left = dict(store)
        for h in (0, 1):
            rows: Rows = store[str(h)]["rows"]
            kept = rows.select([i for i, one in enumerate(rows.ids) if content(one) not in ids])
            if len(kept) < len(rows):
                left[str(h)] = self._half(view, store["start"], kept, h)
        return left

    def weights(self, store: Mapping[str, Any], view: View) -> Weights:
        return {n: (w + store["1"]["weights"][n]) / 2 for n, w in store["0"]["weights"].items()}

    def _of(self, rows: Rows, half: int) -> Rows:
        return rows.select([i for i, one in enumerate(rows.ids) if int(content(one), 16) % 2 == half])

    def _half(self, view: View, start: Weights, rows: Rows, half: int) -> dict[str, Any]:
        train = Train(epochs=5, lr=1e-2, batch_size=8, anchor="retain")
        return {"rows": rows, "weights": weights_of(view.run(Plan(NLL("retain"), train=train), {"retain": rows}, start, str(half)).model)}


@pytest.fixture
def halves() -> Iterator[str]:
    module = ModuleType("halves", "Two halves.\n\nSource: our own\nStatus: sketch")
    module.plan = lambda: Plan(Halves())
    catalog.register("methods", "halves", module)
    yield "halves"
    catalog.unregister("methods", "halves")


def test_a_by_design_store_is_trained_forgotten_from_and_loads_like_any_model(files: Path, tmp_path: Path, halves: str) -> None:
    forget = toy_modality._benchmark().load().sets["forget"]
    expunge("train", "--data", files / "full.jsonl", "--model", files / "original", "--method", halves, "--out", tmp_path / "store").fine()
    expunge(
        "train", "--data", files / "retain.jsonl", "--model", files / "original", "--method", halves, "--out", tmp_path / "never"
    ).fine()
    write_jsonl(tmp_path / "one.jsonl", forget[:3])
    write_jsonl(tmp_path / "rest.jsonl", forget[3:])
    expunge("unlearn", "--model", tmp_path / "store", "--forget", tmp_path / "one.jsonl", "--out", tmp_path / "a").fine()
    expunge("unlearn", halves, "--model", tmp_path / "a", "--forget", tmp_path / "rest.jsonl", "--out", tmp_path / "b").fine()
    ended, never = (weights_of(load(tmp_path / n).model) for n in ("b", "never"))
    assert all(torch.equal(ended[n], never[n]) for n in never), "taking rows out is never having seen them"
    assert set(artifact.read_store(tmp_path / "b")) == {"start", "0", "1"}


def test_a_store_that_is_none_is_named(files: Path, tmp_path: Path, halves: str) -> None:
    words = ("--forget", files / "forget.jsonl", "--out", tmp_path / "run")
    assert (
        "holds no store to forget from: make one with expunge train --method halves"
        in expunge("unlearn", halves, "--model", files / "original", *words).error
    )
    assert "is not a by-design store, so name a method" in expunge("unlearn", "--model", files / "original", *words).error


def test_an_attack_scores_a_set_of_any_name(files: Path, tmp_path: Path) -> None:
    words = ("--suite", "waves", "--attacked-set", "edges", "--steps", 4, "--lr", 1e-2)
    expunge("attack", "relearn", files / "original", *words, "--out", tmp_path / "run").fine()
    tries = json.loads((tmp_path / "run" / "audit.json").read_text())["attacks"]["relearn"]["tries"]
    assert all({"forget_fit", "edges_fit"} <= t["scores"].keys() for t in tries)
    refused = expunge("attack", "relearn", files / "original", "--suite", "waves", "--attacked-set", "edge", "--out", tmp_path / "no").error
    assert refused == "there is no set 'edge' to be scored under attack; did you mean 'edges'?"


PLAIN = [  # those that name parameters of transformers to train say so in a sentence
    n for n in catalog.names("methods") if not any(p.required() or p.trainable != ".*" for p in as_plans(catalog.load(n).plan()))
]


@pytest.mark.parametrize("name", PLAIN)
def test_a_method_that_requires_nothing_runs_where_rows_have_a_loss_and_nothing_else(name: str) -> None:
    suite, modality = toy_modality._benchmark().load(), toy_modality.Curves()
    sets = {n: modality.rows(n, suite.sets[n]) for n in ("forget", "retain")}
    model = toy_modality.curve(8, seed=0)
    known = {k.name for k in build_plan.hyperparameters(name)}
    few = {"epochs": 1, "steps": 2, "batch_size": 4, "lr": 1e-3, "samples": 4}
    loop.run(build_plan.plan(name, {k: v for k, v in few.items() if k in known}), model, modality, sets)
