"""Worst-case forget sets: projection, losses and selection by hand, rows that are hard to forget, and any method after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tables
import toys
import worlds
from cases import Cases, left, receipt_of
from classified import digits as records
from expunge import catalog
from expunge.core.errors import UserError
from expunge.core.rows import Rows, Sets
from expunge.engine import ensemble, loop
from expunge.engine.context import RunView
from expunge.engine.run_state import RunState
from expunge.functional.simplex import capped
from expunge.io.data import read
from expunge.io.models import Opened
from expunge.methods.selectors.worst_case import Sign, WorstCase
from expunge.methods.terms import NLL
from expunge.workflows import build_plan
from expunge.workflows.unlearn import unlearn

AT_REST = {"inner": 0, "outer": 1, "outer_lr": 1e3}  # no unlearning: the first losses decide


def view_of(part: WorstCase, model: nn.Module, modality: Any, sets: Sets, seed: int = 0) -> RunView:
    return RunView(loop.new_state(model, modality, worlds.accelerator(), seed), sets).at("select0", part)


def selected_sets(part: WorstCase, model: nn.Module, modality: Any, sets: Sets, seed: int = 0) -> Sets:
    return part.pick(sets, view_of(part, model, modality, sets, seed))


def table() -> tuple[tables.Table, Sets]:
    """Six rows with one or two labels of two classes; their mean losses rise with the prompt index."""
    scores = torch.zeros(6, 2, 2, dtype=torch.double)
    scores[:, :, 1] = torch.arange(6.0)[:, None]
    forget = tables.rows("forget", [5, 4], [[0], [0, 0]])
    return tables.Table(scores), {"forget": forget, "retain": tables.rows("retain", [0, 1, 2, 3], [[0], [0, 0], [0], [0]])}


def prompts(rows: Rows) -> set[int]:
    return set(rows["prompt"])


def test_projection_matches_hand_values() -> None:
    def onto(*w: float) -> list[float]:
        return capped(torch.tensor(w, dtype=torch.double), 2).tolist()

    assert onto(0.9, 0.8, 0.1, 0.0) == pytest.approx([0.95, 0.85, 0.15, 0.05])
    assert onto(3.0, 2.0, 1.0, 0.0) == pytest.approx([1.0, 1.0, 0.0, 0.0])
    assert onto(-5.0, -5.0, -5.0, -5.0) == pytest.approx([0.5] * 4)


@pytest.mark.parametrize("scale", [0.01, 1.0, 1000.0])
def test_projection_keeps_order_and_sum(scale: float) -> None:
    w = scale * torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    projected = capped(w, 20)
    assert float(projected.sum()) == pytest.approx(20, abs=1e-4)
    assert 0 <= float(projected.min()) <= float(projected.max()) <= 1
    assert (projected[w.argsort()].diff() >= 0).all()


def test_rows_of_lowest_loss_are_worst_without_unlearning() -> None:
    model, sets = table()
    selection = selected_sets(WorstCase(**AT_REST), model, tables.TableModality(), sets)
    assert prompts(selection["forget"]) == {0, 1}
    assert prompts(selection["retain"]) == {2, 3, 4, 5}
    assert (selection["forget"].name, selection["retain"].name, selection["forget"].weight) == ("forget", "retain", ())
    assert prompts(selected_sets(WorstCase(**AT_REST, easiest=True), model, tables.TableModality(), sets)["forget"]) == {4, 5}
    assert prompts(selected_sets(WorstCase(**AT_REST, size=3), model, tables.TableModality(), sets)["forget"]) == {0, 1, 2}


def test_small_steps_keep_the_random_start_and_gamma_leaves_it() -> None:
    """All losses are equal here, and with gamma 1 a round of step 1 / 4 halves every weight of 1."""
    model, sets = table()
    nn.init.zeros_(model.scores)
    settings = {"inner": 0, "outer": 1, "outer_lr": 0.25}
    starts = [prompts(selected_sets(WorstCase(**settings), model, tables.TableModality(), sets, seed)["forget"]) for seed in range(8)]
    assert len({tuple(s) for s in starts}) > 3
    w = torch.tensor([1.0, 1, 0, 0, 0, 0]).double()
    assert capped(w - 0.25 * 2 * w, 2).tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 6])
    for seed, start in enumerate(starts):
        assert prompts(selected_sets(WorstCase(**settings, gamma=1), model, tables.TableModality(), sets, seed)["forget"]) == start
        assert not prompts(selected_sets(WorstCase(**settings, gamma=3), model, tables.TableModality(), sets, seed)["forget"]) & start


def test_losses_after_a_signed_step_match_hand_values() -> None:
    """Forgotten rows, w = 1, give no gradient; every other score moves by one step of inner_lr, however small its weight."""
    model, sets = table()
    part, rows = WorstCase(inner=1, inner_lr=0.25), sets["forget"].concat(sets["retain"])
    view, w = view_of(part, model, tables.TableModality(), sets), torch.tensor([1.0, 0, 0, 0.999, 0, 0]).double()
    losses = part._losses(view, rows, torch.arange(6), w, "round 0")
    moved = torch.where(w == 1, 0.0, 0.5)  # the label's score rises by 1/4, and the other score falls by 1/4
    assert losses.tolist() == pytest.approx(nn.functional.softplus(torch.tensor([5, 4, 0, 1, 2, 3]) - moved).tolist())
    assert model.scores[5, 0].tolist() == [0.0, 5.0]  # a copy took the steps


def test_inner_steps_are_signs_of_the_gradient() -> None:
    sets, scores = tables.batch(), tables.scores(prompts=9)
    plain, signed = (tables.under(NLL("retain"), *u, sets=sets, scores=scores, anchor="retain") for u in ((), (Sign(),)))
    assert signed.flatten().tolist() == pytest.approx(plain.sign().flatten().tolist(), abs=1e-12)
    assert 0 < float(plain.abs().max()) < 1


def test_gradient_of_the_selection_is_the_loss() -> None:
    """Finite differences through three epochs of signed steps: the steps do not change, so only the losses matter."""
    modality = toys.modality(3)
    rows, model = toys.noise(12, modality), toys.mlp(3).double()
    part = WorstCase(inner=3, inner_batch_size=5, inner_lr=1e-2, gamma=0.1)
    view, unit = view_of(part, model, modality, {"forget": rows, "retain": rows}), torch.arange(12)
    w = torch.rand(12, generator=torch.Generator().manual_seed(3), dtype=torch.double)

    def upper(w: torch.Tensor) -> torch.Tensor:
        return w @ part._losses(view, rows, unit, w, "round 0") + part.gamma * w.square().sum()

    derivatives = [(upper(w + e) - upper(w - e)) / 2e-6 for e in 1e-6 * torch.eye(12).double()]
    expected = part._losses(view, rows, unit, w, "round 0") + 2 * part.gamma * w
    assert torch.stack(derivatives).tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def repeated_points() -> tuple[nn.Module, Any, Rows]:
    """A perceptron that memorized noise: four points with five copies each, and ten single points at indices 4 to 13."""
    modality = toys.modality(2)
    single = toys.noise(14, modality, width=6)
    points, labels = torch.stack(list(single["pixels"])).flatten(1), [y for (y,) in single["answer"]]
    rows = toys.rows(torch.cat([points, *[points[:4]] * 4]), [*labels, *labels[:4] * 4], modality)
    model = toys.mlp(2, hidden=32, width=6)
    loop.run(toys.fresh(epochs=60), model, modality, {"retain": rows})
    return model, modality, rows


@pytest.mark.slow
def test_repeated_rows_are_worst() -> None:
    """A copy is known from other copies, so a model retrained without the selection knows it better than random selections."""
    model, modality, rows = repeated_points()
    sets = {"forget": rows.select(range(8, 12)).rename("forget"), "retain": rows.select([*range(8), *range(12, 30)])}
    part = WorstCase(lower="retrain", inner=60, inner_lr=1e-2, inner_batch_size=8, outer=6, outer_lr=1.0)
    chosen = [rows.ids.index(i) for i in selected_sets(part, model, modality, sets)["forget"].ids]
    assert all(i < 4 or i > 13 for i in chosen)
    generator = torch.Generator().manual_seed(0)
    selections = [chosen, *(torch.randperm(30, generator=generator)[:4].tolist() for _ in range(20))]
    removed = torch.zeros(21, 30, dtype=torch.bool)
    for selection, mask in zip(selections, removed, strict=True):
        mask[selection] = True
    retrained = ensemble.train(toys.fresh(epochs=60), model, modality, rows, ~removed, range(21))
    losses = (ensemble.ask(retrained, modality, rows, lambda output: -output.target_logp.values) * removed).sum(1)
    assert losses[0] < 0.5 * losses[1:].median()


def test_classes_and_columns_are_selected_as_units(digits: worlds.World) -> None:
    model, modality = digits.model(), digits.modality
    sets = {n: digits.sets[n].add(hand=[h for _, h in zip(digits.sets[n].ids, "abc" * 200, strict=False)]) for n in ("forget", "retain")}
    all_rows = sets["forget"].concat(sets["retain"])
    loss = -modality.forward(model, [all_rows])[0].target_logp.values.detach()
    for by, column in (("class", "answer_text"), ("hand", "hand")):
        selection = selected_sets(WorstCase(**AT_REST, by=by, size=1), model, modality, sets)
        values = all_rows[column]
        means = {v: float(torch.stack([x for x, s in zip(loss, values, strict=True) if s == v]).mean()) for v in set(values)}
        assert set(selection["forget"][column]) == {min(means, key=lambda v: means[v])}
        assert not set(selection["forget"][column]) & set(selection["retain"][column])
        assert len(selection["forget"]) + len(selection["retain"]) == len(all_rows)
    by_class = selected_sets(WorstCase(**AT_REST, by="class"), model, modality, sets)
    assert len(set(by_class["forget"]["answer_text"])) == 1  # as many classes as the request has


def test_impossible_selections_are_refused(digits: worlds.World) -> None:
    with pytest.raises(UserError, match="the rows have no column 'author' to choose by"):
        selected_sets(WorstCase(by="author"), digits.model(), digits.modality, digits.sets)
    with pytest.raises(UserError, match=r"10 of 10 are to be forgotten \(by class\), so nothing would be left to retain"):
        selected_sets(WorstCase(by="class", size=10), digits.model(), digits.modality, digits.sets)


@pytest.mark.parametrize("method", ["npo", "scrub", "ssd", "retrain", "unsir"])
def test_selection_happens_once_before_any_method(method: str, digits: worlds.World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Methods of several stages and edits are included, and every stage sees the selected rows."""
    calls, stage_ids, original_pick, original_init = [0], dict[str, tuple[str, ...]](), WorstCase.pick, loop._Stage.__init__

    def counted(self: WorstCase, sets: Sets, view: RunView) -> Sets:
        calls[0] += 1
        return original_pick(self, sets, view)

    def spied(self: Any, run: RunState, plan: Any, sets: Sets, hooks: Any) -> None:
        if run.picked:
            stage_ids.update({n: r.ids for n, r in sets.items()})
        original_init(self, run, plan, sets, hooks)

    monkeypatch.setattr(WorstCase, "pick", counted)
    monkeypatch.setattr(loop._Stage, "__init__", spied)
    hyperparameter_names = {k.name for k in build_plan.hyperparameters(method)}
    settings = {k: v for k, v in {"epochs": 1, "steps": 1, "images": 4, "count": 4, "copies": 1}.items() if k in hyperparameter_names}
    plans = build_plan.plan(method, {**settings, **AT_REST}, select=("worst_case",))
    run = loop.run(plans, digits.model(), digits.modality, digits.sets)
    assert calls == [1]
    assert {n: r.ids for n, r in run.picked.items()} == {n: stage_ids[n] for n in ("forget", "retain")}
    assert set(stage_ids["forget"]) != set(digits.sets["forget"].ids)
    assert len(stage_ids["forget"]) == len(digits.sets["forget"])


@pytest.mark.slow
def test_text_run_saves_its_selection(cases: Cases, tmp_path: Path) -> None:
    """The run writes files that can replace the original request."""
    result = cases.unlearn("npo", tmp_path / "run", "--select", "worst_case", "--inner", 1, "--outer", 2).fine()
    assert left(tmp_path / "run") == ["log.jsonl", "model", "receipt.json", "selected"]
    assert left(tmp_path / "run" / "selected") == ["forget.jsonl", "retain.jsonl"]
    request = {"forget": read(cases.forget), "retain": read(cases.retain)}
    chosen = {n: read(tmp_path / "run" / "selected" / f"{n}.jsonl") for n in request}
    assert [len(r) for r in chosen.values()] == [len(r) for r in request.values()]
    assert chosen["forget"] != request["forget"]
    selected = receipt_of(tmp_path / "run")["selected"]
    for name, row_numbers in selected.items():
        assert [r for n, rows in row_numbers.items() for r in read(f"{getattr(cases, n)}::rows={rows}")] == chosen[name]
    assert f"--forget {tmp_path / 'run' / 'selected' / 'forget.jsonl'}" in result.out
    files = {n: str(tmp_path / "run" / "selected" / f"{n}.jsonl") for n in request}
    cases.unlearn("npo", tmp_path / "again", **files).fine()
    cases.unlearn("npo", tmp_path / "run", "--overwrite").fine()
    assert left(tmp_path / "run") == ["log.jsonl", "model", "receipt.json"]


def test_image_run_from_python_saves_its_selection(digits: worlds.World, tmp_path: Path) -> None:
    request = records()
    settings: dict[str, Any] = {"epochs": 2, "lr": 1e-3}
    run = unlearn(
        "scrub", original(digits), request["forget"], request["retain"], out=tmp_path / "run", select=("worst_case",), **AT_REST, **settings
    )
    assert left(tmp_path / "run" / "selected") == ["forget.npz", "retain.npz"]
    reloaded = {n: digits.modality.rows(n, read(tmp_path / "run" / "selected" / f"{n}.npz")) for n in ("forget", "retain")}
    assert {n: sorted(r.ids) for n, r in reloaded.items()} == {n: sorted(r.ids) for n, r in run.selected.items()}
    plain = unlearn("scrub", original(digits), request["forget"], request["retain"], **settings)
    assert (plain.selected, "selected" in plain.receipt) == ({}, False)


def original(digits: worlds.World) -> Opened:
    return Opened(digits.model(), digits.modality, "digits")


def test_default_plan_has_the_documented_settings() -> None:
    (plan,) = build_plan.plan("worst_case")
    (part,) = plan.selectors
    assert isinstance(part, WorstCase)
    assert (part.outer, part.inner, part.inner_lr, part.inner_batch_size, part.gamma) == (10, 10, 1e-3, 256, 0.0)
    assert catalog.card("worst_case").folder == "methods/selectors"
    first, last = build_plan.plan("unsir", {"worst_case.outer": 3}, select=("worst_case",))
    assert [type(s).__name__ for s in first.selectors] == ["WorstCase", "Others", "Noise"]
    assert [type(s).__name__ for s in last.selectors] == ["Others"]
