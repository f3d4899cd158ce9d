"""Recommenders from files through every command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch

import recommenders
from cases import expunge
from expunge import UserError
from expunge.benchmarks import movielens, taste
from expunge.io.models import load


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MovieLens' columns in CSV files, with the original and the retrained model as folders."""
    folder = tmp_path_factory.mktemp("ranking")
    forget, retain, unseen = recommenders.records()
    gone = {r["user"] for r in forget}
    sets = {"forget": forget, "retain": retain, "full": [*forget, *retain], "holdout": [r for r in unseen if r["user"] in gone] * 1}
    for name, rows in sets.items():
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["userId", "movieId", "timestamp"])
            writer.writerows([r["user"], r["item"], r["time"]] for r in rows)
    for name, data in (("original", "full"), ("retrained", "retain")):
        few = ("--epochs", 12, "--batch-size", 32, "--vocabulary", folder / "full.csv", "--vocabulary", folder / "holdout.csv", *COLUMNS)
        expunge("train", "--data", folder / f"{data}.csv", "--model", "lightgcn-nano", "--out", folder / name, *few).fine()
    return folder


COLUMNS = ("--map", "user=userId,item=movieId,time=timestamp")


def test_train_unlearn_audit_attack_and_report(files: Path, tmp_path: Path) -> None:
    def sets(*names: str) -> list[object]:
        return [w for n in names for w in (f"--{n}", files / f"{n}.csv")]

    rate = ("--lr", 3e-2, "--epochs", 5, "--batch-size", 16)
    run = expunge(
        "unlearn", "graddiff", "--model", files / "original", *sets("forget", "retain"), "--out", tmp_path / "run", *rate, *COLUMNS
    ).fine()
    assert "12 interactions to forget were taken out of the training interactions" in run.out + run.err
    unlearned, retrained, original = (load(p) for p in (tmp_path / "run", files / "retrained", files / "original"))
    assert torch.equal(unlearned.model.edges, retrained.model.edges), "the graph is that of the retrained model"  # type: ignore[arg-type]
    assert original.model.edges.shape[1] == unlearned.model.edges.shape[1] + 12  # type: ignore[union-attr]
    beside = ("--original", files / "original", "--retrained", files / "retrained", "--controls", "--attack", "relearn", "--lr", 1e-2)
    expunge(
        "audit", tmp_path / "run", *sets("forget", "retain", "holdout"), *beside, "--steps", 3, "--out", tmp_path / "audit", *COLUMNS
    ).fine()
    audit = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert {"forget_recall", "forget_ndcg", "test_recall", "retain_map", "forget_fit", "loss_attack"} <= audit["scores"].keys()
    assert audit["scores"]["forget_recall"]["retrained"] is not None
    expunge("report", tmp_path / "audit", "--out", tmp_path / "page.html").fine()
    page = (tmp_path / "page.html").read_text()
    assert "What users are recommended" in page
    assert "user0a00" in page
    assert "user0a00" not in (tmp_path / "run" / "receipt.json").read_text()


def test_a_user_alone_is_forgotten(files: Path, tmp_path: Path) -> None:
    (tmp_path / "user.csv").write_text("user\nuser0a00\n")
    done = expunge(
        "unlearn", "ga", "--model", files / "original", "--forget", tmp_path / "user.csv", "--out", tmp_path / "run", "--lr", 1e-2
    )
    printed = done.fine().out + done.err
    assert "names 1 user alone: it stands for all 6 training interactions with it" in printed
    assert "1 user has no training interactions left; its id stays" in printed
    request = ("--forget", tmp_path / "user.csv")
    message = expunge("audit", tmp_path / "run", *request, "--out", tmp_path / "no").error
    assert "an audit finds them in --original MODEL" in message
    models = ("--original", files / "original", "--retrained", files / "retrained")
    expunge("audit", tmp_path / "run", *request, *models, "--out", tmp_path / "audit").fine()
    audit = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert audit["scores"]["forget_recall"]["n"] == 1, "recall is a mean over users"
    assert "With 1 user no audit can rule out less" in json.dumps(audit["verdict"])


def test_a_missing_map_is_said(files: Path, tmp_path: Path) -> None:
    message = expunge("unlearn", "ga", "--model", files / "original", "--forget", files / "forget.csv", "--out", tmp_path / "run").error
    assert "--map user=userId,item=movieId" in message


def test_splits_of_tastes_are_disjoint_and_whole() -> None:
    for split in taste.SPLITS:
        suite = taste.load(split=split)
        pairs = {n: {(r["user"], r["item"]) for r in rows} for n, rows in {**suite.sets, "full": suite.train["full"]}.items()}
        assert pairs["forget"] | pairs["retain"] == pairs["full"]
        assert not pairs["forget"] & pairs["retain"]
        assert not pairs["full"] & (pairs["holdout"] | pairs.get("test", set()))
    gone = {r["user"] for r in taste.load(split="user10").sets["forget"]}
    assert len(gone) == 12
    assert not gone & {r["user"] for r in taste.load(split="user10").sets["retain"]}


HEADERS = {"ratings.csv": ("userId", "movieId", "rating", "timestamp"), "movies.csv": ("movieId", "title", "genres")}


@pytest.mark.parametrize("header", [True, False])
def test_movielens_with_and_without_header(tmp_path: Path, header: bool) -> None:
    rows = [(u, 10 + (u + k) % 9, 4.0, 1000 + k) for u in range(1, 21) for k in range(8)]
    films = [(10 + k, f"Film, {k}", "Drama|Comedy" if k % 2 else "Drama") for k in range(9)]
    for name, lines in (("ratings.csv", rows), ("movies.csv", films)):
        with (tmp_path / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerows([*([HEADERS[name]] if header else []), *lines])
    suite = movielens.load(str(tmp_path), "user10")
    assert len(suite.train["full"]) == 20 * 7  # a fifth of 8 is 1
    assert len({r["user"] for r in suite.sets["forget"]}) == 2
    described = {r["item"]: r["genres"] for r in suite.train["full"] if "genres" in r}
    assert described["10"] == [0.0, 1.0]
    assert described["11"] == [1.0, 1.0]
    (tmp_path / "ratings.csv").write_text("user,movie,stars,when\n1,2,3,4\n")
    with pytest.raises(
        UserError, match="the header of this file is userId,movieId,rating,timestamp, and here stands user,movie,stars,when"
    ):
        movielens.load(str(tmp_path))
