"""Tables by command line and Python: train, forget, audit, and what is said on the way."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import grids
from cases import expunge
from expunge import audit, load, table_rows, train, unlearn
from expunge.engine import artifact
from expunge.engine.weights import weights_of
from expunge.io.data import write_jsonl

SMALL = ("--trees", 3, "--depth", 4)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Iris as CSV and JSON Lines, a row in four to be forgotten, and a store of a forest and one without these rows."""
    import pandas

    folder = tmp_path_factory.mktemp("iris")
    order = np.random.default_rng(0).permutation(np.unique(grids.IRIS_X, axis=0, return_index=True)[1])
    records = [{**grids.iris()[i], "customer_id": int(i)} for i in order]
    parts = {"full": records[:80], "forget": records[:20], "retain": records[20:80], "holdout": records[80:120]}
    for name, rows in parts.items():
        pandas.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)
        write_jsonl(folder / f"{name}.jsonl", rows)
    for name, rows in (("store", "full"), ("never", "retain")):
        expunge("train", "--data", folder / f"{rows}.csv", "--model", "forest", "--method", "dare", *SMALL, "--out", folder / name).fine()
    return folder


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return weights_of(load(folder).model)


def test_forgetting_twice_by_command_is_never_having_seen_the_rows(files: Path, tmp_path: Path) -> None:
    some = f"{files / 'forget.jsonl'}::rows=0-4"
    done = expunge("unlearn", "--model", files / "store", "--forget", some, "--out", tmp_path / "a").fine()
    assert "guarantee E0, bit-exact" in done.out
    expunge("unlearn", "--model", tmp_path / "a", "--forget", f"{files / 'forget.csv'}::rows=5-19", "--out", tmp_path / "b").fine()
    ended, never = tensors(tmp_path / "b"), tensors(files / "never")
    assert all(torch.equal(ended[n], never[n]) for n in never)
    kept = artifact.read_store(tmp_path / "b")
    assert kept is not None
    assert len(kept["rows"]) == 60
    receipt = json.loads((tmp_path / "b" / "receipt.json").read_text())
    assert receipt["result"]["guarantee"]["level"] == "E0"
    assert receipt["result"]["guarantee"]["void"]


def test_an_audit_sees_accuracy_and_membership(files: Path, tmp_path: Path) -> None:
    sets = {n: files / f"{n}.csv" for n in ("forget", "retain", "holdout")}
    result = audit(files / "never", **sets, out=tmp_path / "audit")
    assert result.scores["mia_loss"]["value"] is not None
    assert (tmp_path / "audit" / "report.html").exists()
    model = load(files / "never")
    rows = model.modality.rows("holdout", _records(files / "holdout.jsonl"))
    (output,) = model.modality.forward(model.model, [rows])
    right = (output.logits.values.argmax(1) == output.labels).float().mean()
    assert result.scores["test_accuracy"]["value"] == pytest.approx(float(right))


def _records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_arrays_in_python(tmp_path: Path) -> None:
    x, y = grids.IRIS_X[::3], grids.IRIS_Y[::3]
    store = train(table_rows(x, y), "forest", method="dare", trees=2, depth=3, out=tmp_path / "store")
    left = unlearn("", str(tmp_path / "store"), table_rows(x[4:9], y[4:9]), out=tmp_path / "left")
    never = train(table_rows(np.delete(x, range(4, 9), 0), np.delete(y, range(4, 9))), "forest", method="dare", trees=2, depth=3)
    assert store.receipt["result"]["guarantee"]["level"] == left.receipt["result"]["guarantee"]["level"] == "E0"
    assert torch.equal(weights_of(left.model)["threshold"], weights_of(never.model)["threshold"])


def test_clusters_by_command(files: Path, tmp_path: Path) -> None:
    made_by = ("--model", "centroids", "--method", "kmeans_dc", "--clusters", 3, "--width", 2)
    for name, rows in (("store", "full"), ("never", "retain")):
        expunge("train", "--data", files / f"{rows}.csv", *made_by, "--out", tmp_path / name).fine()
    expunge("unlearn", "--model", tmp_path / "store", "--forget", files / "forget.csv", "--out", tmp_path / "left").fine()
    assert torch.equal(tensors(tmp_path / "left")["centroids"], tensors(tmp_path / "never")["centroids"])
    done = expunge("audit", tmp_path / "left", "--forget", files / "forget.csv", "--out", tmp_path / "audit").fine()
    assert "forget_fit" in done.out.replace(" ", "_")


def test_certified_removal_by_command(files: Path, tmp_path: Path) -> None:
    words = ("--model", "linear", "--method", "certified_removal", "--out", tmp_path / "store")
    expunge("train", "--data", files / "full.csv", *words).fine()
    done = expunge("unlearn", "--model", tmp_path / "store", "--forget", files / "forget.csv", "--out", tmp_path / "left").fine()
    assert "guarantee C, certified" in done.out


def test_a_store_of_other_versions_is_said(files: Path, tmp_path: Path) -> None:
    shutil.copytree(files / "store", tmp_path / "old")
    receipt = json.loads((tmp_path / "old" / "receipt.json").read_text())
    receipt["versions"]["numpy"] = "0.9"
    (tmp_path / "old" / "receipt.json").write_text(json.dumps(receipt))
    done = expunge("unlearn", "--model", tmp_path / "old", "--forget", files / "forget.csv", "--out", tmp_path / "run").fine()
    assert f"was made with numpy 0.9 (here {np.__version__})" in done.out


def test_other_data_and_other_models_are_refused_in_a_sentence(files: Path, tmp_path: Path) -> None:
    words = ("--model", files / "store", "--out", tmp_path / "run")
    message = expunge("unlearn", *words, "--forget", files / "holdout.csv").error
    assert "none of the 40 rows to forget is in the store" in message
    message = expunge("unlearn", "npo", *words, "--forget", files / "forget.csv", "--retain", files / "retain.csv").error
    assert "a Forest has no weights that gradients could change" in message
    message = expunge("train", "--data", files / "full.csv", "--model", "forest", "--out", tmp_path / "run").error
    assert "make it with a by-design method (expunge train --method)" in message
