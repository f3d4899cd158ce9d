"""Tables: the doors that rows come in by, columns of numbers and categories, what is refused, and models on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

import grids
from expunge.core.errors import UserError
from expunge.engine import loop
from expunge.engine.weights import weights_of
from expunge.io.models import load, records
from expunge.modalities.common.records import Records
from expunge.modalities.table.columns import InputColumn, columns_in, encoded, table_rows
from expunge.workflows.build_plan import hyperparameters, plan

PEOPLE = [
    {"age": 31, "color": "red", "income": 1.5, "customer_id": 7, "label": "yes"},
    {"age": 45, "color": "blue", "income": -2.25, "customer_id": 8, "label": "no"},
    {"age": 52, "color": "red", "income": 0.1, "customer_id": 9, "label": "yes"},
]


def test_one_table_by_every_door_has_the_same_rows(tmp_path: Path) -> None:
    """CSV, whose cells are texts, Parquet in single precision, a table of pandas, arrays, and arrays in one file."""
    x, y = grids.IRIS_X[:12], np.array([0, 1, 2] * 4)
    frame = pandas.DataFrame(x, columns=["x0", "x1", "x2", "x3"]).assign(label=y)
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.astype({f"x{k}": np.float32 for k in range(4)}).to_parquet(tmp_path / "a.parquet")
    np.savez(tmp_path / "a.npz", x=x, y=y)
    doors: list[Any] = [tmp_path / "a.csv", tmp_path / "a.parquet", tmp_path / "a.npz", frame, table_rows(x, y)]
    doors.append(table_rows(pandas.DataFrame(x, columns=["x0", "x1", "x2", "x3"]), list(y)))
    _, modality = grids.begun("linear", table_rows(x, y))
    rows = [modality.rows("forget", records(door, "forget")) for door in doors]
    assert len({r.ids for r in rows}) == 1
    for r in rows:
        assert torch.stack(list(r["x"])).numpy() == pytest.approx(x.astype(np.float32), abs=0)
        assert [c for (c,) in r["answer"]] == y.tolist()


def test_texts_are_categories_and_ids_are_no_inputs() -> None:
    rows = Records(PEOPLE, "people.csv")
    columns = columns_in(rows, "people.csv")
    assert columns == (InputColumn("age"), InputColumn("color", ("blue", "red")), InputColumn("income"))
    x, _ = encoded(rows, columns, "people.csv", "training")
    assert x == pytest.approx(np.float32([[31, 0, 1, 1.5], [45, 1, 0, -2.25], [52, 0, 1, 0.1]]), abs=0)
    assert rows.notes == [
        "the column 'color' holds texts: its 2 categories are one input each",
        "3 of 3 rows of 'training' have a column 'customer_id' that was not read",
    ]


def test_numbers_in_texts_are_numbers_and_the_order_of_columns_does_not_matter() -> None:
    columns = columns_in(PEOPLE, "people.csv")
    turned = [{k: str(v) for k, v in reversed(r.items())} for r in PEOPLE]
    assert np.array_equal(encoded(PEOPLE, columns, "a", "a")[0], encoded(turned, columns, "b", "b")[0])
    _, modality = grids.begun("forest", PEOPLE)
    assert modality.rows("a", PEOPLE).ids == modality.rows("a", turned).ids


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"age": "old"}, "row 2: the column 'age' holds a text, and the model knows numbers there"),
        ({"age": None}, "row 2: no value in the column 'age'"),
        ({"age": ""}, "row 2: no value in the column 'age'"),
        ({"color": "green"}, "row 2: the column 'color' holds none of the 2 categories that the model knows, such as 'blue'"),
        ({"income": float("inf")}, "row 2: the number in the column 'income' is not finite"),
        ({"income": 1e300}, "row 2: the number in the column 'income' is not finite, or too large for float32"),
        ({"income": {"a": 1}}, "row 2: the column 'income' holds an object, and a cell of a table is a number or a text"),
        ({"label": None}, "row 2: no class; it stands in a column label"),
        ({"label": "perhaps"}, "row 2: the model has no class of this name"),
    ],
)
def test_a_row_that_does_not_fit_is_named(change: dict[str, Any], sentence: str) -> None:
    _, modality = grids.begun("linear", PEOPLE)
    bad = [PEOPLE[0], {k: v for k, v in {**PEOPLE[1], **change}.items() if v is not None}]
    with pytest.raises(UserError) as error:
        modality.rows("forget", bad, "f.csv")
    assert f"f.csv, {sentence}" in str(error.value)


def test_a_table_that_cannot_be_learned_from_is_refused() -> None:
    with pytest.raises(UserError, match="no column to learn from"):
        columns_in([{"label": 1, "id": 3}], "t.csv")
    with pytest.raises(UserError, match=r"t\.csv, row 2: no value in the column 'b'"):
        columns_in([{"a": 1, "b": 2}, {"a": 1}], "t.csv")
    with pytest.raises(UserError, match="holds 300 different texts"):
        columns_in([{"a": f"name {i}"} for i in range(300)], "t.csv")
    with pytest.raises(UserError, match="3 rows, and there are 2 classes"):
        table_rows(np.zeros((3, 2)), [0, 1])
    with pytest.raises(UserError, match=r"this has the shape \(3,\)"):
        table_rows(np.zeros(3))


def test_columns_beside_those_of_the_model_are_ignored_and_counted() -> None:
    _, modality = grids.begun("linear", PEOPLE)
    rows = Records([{**r, "city": "x", "y": 1} for r in PEOPLE], "more.csv")
    assert modality.rows("forget", rows).ids == modality.rows("forget", PEOPLE).ids
    assert "3 of 3 rows of 'forget' have a column 'city' that was not read" in rows.notes
    assert "3 of 3 rows of 'forget' have a column 'y' that was not read" in rows.notes


def test_networks_read_standardized_inputs() -> None:
    model, modality = grids.begun("mlp-nano", grids.iris())
    rows = modality.rows("x", grids.iris())
    (output,) = modality.forward(model, [rows])
    x = (grids.IRIS_X - grids.IRIS_X.mean(0)) / grids.IRIS_X.std(0)
    with torch.no_grad():
        assert output.logits.values.detach().numpy() == pytest.approx(model(torch.tensor(x, dtype=torch.float32)).numpy(), abs=1e-5)
    expected = torch.nn.functional.cross_entropy(output.logits.values, torch.from_numpy(grids.IRIS_Y), reduction="none")
    assert torch.allclose(output.loss.values, expected)
    moved = modality.moved(rows, modality.inputs(rows) + 1)
    assert torch.allclose(modality.points(moved), modality.points(rows) + 1)


@pytest.mark.parametrize(("size", "method"), [("linear", ""), ("mlp-nano", ""), ("forest", "dare"), ("centroids", "kmeans_dc")])
def test_models_come_back_from_disk_as_they_were(size: str, method: str, tmp_path: Path) -> None:
    settings = {"dare": {"trees": 2, "depth": 3}, "kmeans_dc": {"clusters": 3, "width": 2}}
    model, modality = grids.begun(size, PEOPLE)
    rows = modality.rows("retain", PEOPLE)
    if method:
        model = loop.run(plan(method, settings[method]), model, modality, {"retain": rows}).model
    modality.save(model, tmp_path / "model")
    back = load(tmp_path / "model")
    assert back.modality.about() == modality.about()
    first, second = weights_of(model), weights_of(back.model)
    assert all(torch.equal(first[n], second[n]) for n in first)
    assert back.modality.rows("retain", PEOPLE).ids == rows.ids
    before, after = (m.forward(n, [rows])[0].loss.values for m, n in ((modality, model), (back.modality, back.model)))
    assert torch.equal(before, after)


def test_a_damaged_folder_is_said(tmp_path: Path) -> None:
    model, modality = grids.begun("linear", PEOPLE)
    modality.save(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "columns": config["columns"][:1]}))
    with pytest.raises(UserError, match="its columns, classes and settings do not belong together"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "settings"}))
    with pytest.raises(UserError, match="is damaged: KeyError"):
        load(tmp_path)


@pytest.mark.parametrize("method", ["npo", "salun", "scrub", "graddiff", "finetune"])
def test_a_forest_is_refused_by_methods_that_need_gradients(method: str) -> None:
    model, modality = grids.begun("forest", PEOPLE)
    sets = {"forget": modality.rows("forget", PEOPLE[:1]), "retain": modality.rows("retain", PEOPLE[1:])}
    sets["alternate_answers"] = modality.answers(modality.refusals())
    with pytest.raises(UserError, match="a Forest has no weights that gradients could change"):
        loop.run(plan(method), model, modality, sets)
    with pytest.raises(UserError, match="inputs that are numbers and can be moved"):
        loop.run(plan("certified_removal"), model, modality, sets)


GENERAL = ("npo", "graddiff", "ssd", "fisher", "salun", "scrub", "sisa", "deltagrad", "amnesiac", "descent_to_delete", "l1_sparse")


@pytest.mark.parametrize("method", GENERAL)
def test_a_general_method_runs_on_a_perceptron(method: str) -> None:
    world = grids.world("mlp-nano")
    model, few = world.model(), {"epochs": 1, "batch_size": 8, "lr": 1e-2, "warmup": 0, "shards": 2, "slices": 1, "samples": 4}
    known = {h.name for h in hyperparameters(method)}
    run = loop.run(plan(method, {n: v for n, v in few.items() if n in known}), model, world.modality, world.sets)
    assert all(torch.isfinite(t).all() for t in weights_of(run.model).values())


def test_a_row_is_never_in_a_repr() -> None:
    _, modality = grids.begun("linear", PEOPLE)
    assert repr(modality) == "Tabular(name='table', 3 columns, 2 labels)"
    assert modality.questions(modality.rows("forget", PEOPLE)) == ["row 1", "row 2", "row 3"]
