"""DTO: label scores on a model whose answers depend on one label, the terms by hand, and the outcome."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

import tables
import worlds
from expunge.core.rows import Rows, Sets
from expunge.engine import loop
from expunge.engine.context import RunView
from expunge.methods.objectives.dto import Rest, TargetAscent, Targets, marked, prefix_length
from expunge.workflows import build_plan


class Triggered(tables.TableModality):
    """Classes 0 to 3. Class 0 has probability 0.9 where the label at `place` is `intact`, else 0.1."""

    def __init__(self, place: int, intact: int) -> None:
        super().__init__()
        self.place, self.intact = place, intact

    def forward(self, model: Any, groups: Sequence[Rows], *args: Any, **kwargs: Any) -> Any:
        return [self._answer(g) for g in groups]

    def _answer(self, rows: Rows) -> Any:
        prompts = [int(a[self.place] == self.intact) for a in rows["answer"]]
        table = torch.zeros(2, 8, 4, dtype=torch.float64)
        for known, p in ((0, 0.1), (1, 0.9)):
            table[known, :, 0] = math.log(3 * p / (1 - p))
        table_rows = Rows(rows.name, rows.ids, {"prompt": prompts, "answer": rows["answer"]})
        return super().forward(tables.Table(table), [table_rows])[0]

    def relabel(self, rows: Rows, answers: Sequence[Any], name: str) -> Rows:
        return Rows(name, rows.ids, {"prompt": rows["prompt"], "answer": list(answers)})

    def ended(self, rows: Rows) -> list[bool]:
        return [False] * len(rows)

    def decode(self, answers: Sequence[Sequence[int]]) -> list[str]:
        return ["" if a == [3] else "text" for a in answers]


ROW = [1, 2, 1, 2, 0]  # q = 2 of 5 at rho = 0.5


def view(modality: Any, rows: Rows, part: Targets) -> RunView:
    run = loop.new_state(tables.Table(torch.zeros(1)), modality, worlds.accelerator(), sets={"forget": rows})
    return RunView(run, {"forget": rows}, "/select0", part)


def picked(part: Targets, modality: Any, rows: Rows) -> Rows:
    return part.pick({"forget": rows}, view(modality, rows, part))["forget"]


def scores_of(part: Targets, modality: Any, q: int) -> list[float]:
    rows = tables.rows("forget", [0], [ROW])
    row_view = view(modality, rows, part)
    output = row_view.now(rows)
    return part._scores(row_view, rows, output.labels, output.log_probs.values, q).tolist()


def test_the_score_of_a_label_is_the_loss_that_its_removal_adds_to_the_suffix() -> None:
    """Only the label at place 1 matters: without it the last label, one of three in the suffix, falls from 0.9 to 0.1."""
    # the two other suffix labels are class 1 and 2: their probability rises from 0.1 / 3 to 0.9 / 3
    expected = (math.log(9) - 2 * math.log(9)) / 3
    assert scores_of(Targets(), Triggered(1, 2), 2) == pytest.approx([0.0, expected], abs=1e-6)
    one_label = Targets(suffix=0.2)  # a suffix of the last label alone: ln 9 exactly, and nothing elsewhere
    assert prefix_length(5, 0.2) == 4
    assert scores_of(one_label, Triggered(1, 2), 4) == pytest.approx([0.0, math.log(9), 0.0, 0.0], abs=1e-6)
    assert picked(one_label, Triggered(1, 2), tables.rows("forget", [0], [ROW]))["target"][0][1]


@pytest.mark.parametrize("perturb", ["random", "top", "end"])
def test_every_perturbation_finds_the_decisive_label(perturb: Any) -> None:
    part = Targets(suffix=0.2, perturb=perturb, share=0.25)
    assert picked(part, Triggered(1, 2), tables.rows("forget", [0], [ROW]))["target"] == [[False, True, False, False, False]]


def test_role_score_ranks_labels_by_the_labels_after_them() -> None:
    """With every label ranked, a label that later labels depend on still has the highest score."""
    part = Targets(role="score", share=0.25)
    rows = picked(part, Triggered(3, 2), tables.rows("forget", [0], [ROW]))
    assert rows["target"] == [[False, False, False, True, False]]


def test_replacements_decode_to_text_and_differ_from_the_label() -> None:
    rows = tables.rows("forget", [0], [ROW])
    row_view, modality = view(Triggered(1, 2), rows, Targets()), Triggered(1, 2)
    output = row_view.now(rows)
    replacements = Targets(draws=2)._replacements(row_view, output.labels, output.log_probs.values, 4)
    assert all(y not in classes and 3 not in classes and len(classes) == 2 for y, classes in zip(ROW, replacements, strict=False))
    assert modality.decode([[3]]) == [""]


@pytest.mark.parametrize(("share", "suffix", "role"), [(0.3, 0.5, "hold"), (0.5, 0.2, "ignore"), (1.0, 0.7, "score"), (0.1, 0.9, "hold")])
def test_each_label_is_target_held_or_ignored(share: float, suffix: float, role: Any) -> None:
    rows = tables.rows("forget", [0, 1, 2], [ROW, [1], [0, 1, 2, 0, 1, 2, 0]])
    marks = picked(Targets(share=share, suffix=suffix, role=role), Triggered(0, 1), rows)
    for answer, target, held in zip(rows["answer"], marks["target"], marks["held"], strict=True):
        n = len(answer)
        q = n - 1 if role == "score" else prefix_length(n, suffix)
        assert not any(t and h for t, h in zip(target, held, strict=True))
        if q < 1:
            assert all(target)
            assert not any(held)
            continue
        assert sum(target) == max(1, math.ceil(share * q))
        assert not any(target[q:])
        assert [t or h for t, h in zip(target, held, strict=True)] == [i < q or role != "ignore" for i in range(n)]


def test_terms_equal_the_formula() -> None:
    sets, table = tables.batch(), tables.scores(9).requires_grad_()
    target = [[True, False, True], [True], [False, True, False, False, True]]
    held = [[False, True, False], [False], [True, False, False, True, False]]
    rows = sets["forget"].add(target=target, held=held)
    expected = torch.stack([x[torch.tensor(t)].mean() for x, t in zip(tables.logps(table, rows), target, strict=True)]).mean()
    value, grad = tables.ask(TargetAscent(), {"forget": rows}, table.detach())
    assert value == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(grad, tables.slope(expected, table), atol=1e-14)

    reference = tables.scores(9, seed=1)
    row_means = []
    for p, answer, keep in zip(rows["prompt"], rows["answer"], held, strict=True):
        new, old = table[p, : len(answer)].log_softmax(-1), reference[p, : len(answer)].log_softmax(-1)
        divergence = (old.exp() * (old - new)).sum(-1)[torch.tensor(keep)]
        row_means.append(divergence.mean() if len(divergence) else divergence.sum())
    expected = torch.stack(row_means).mean()
    value, grad = tables.ask(Rest(), {"forget": rows}, table.detach(), reference)
    assert value == pytest.approx(expected.item(), abs=1e-12)
    assert torch.allclose(grad, tables.slope(expected, table), atol=1e-14)


def test_the_held_term_is_zero_at_the_reference() -> None:
    rows = tables.batch()["forget"]
    rows = rows.add(held=[[True] * len(a) for a in rows["answer"]])
    value, grad = tables.ask(Rest(), {"forget": rows}, tables.scores(9))
    assert value == pytest.approx(0.0, abs=1e-12)
    assert float(grad.abs().max()) < 1e-12


def test_equals_row_wise_gradient_ascent_when_every_label_is_a_target(text: worlds.World) -> None:
    """lambda = 0 and all labels chosen: gradient ascent on the mean log-likelihood of each row."""
    model, expected, rows = text.model(), text.model(), text.sets["forget"]
    hyperparameters = {"choose": "all", "retain_weight": 0, "epochs": 1, "lr": 1e-3, "warmup": 0}
    loop.run(build_plan.plan("dto", hyperparameters), model, text.modality, {"forget": rows})
    optimizer = torch.optim.AdamW(expected.parameters(), lr=1e-3, weight_decay=0.01)
    text.modality.forward(expected, [rows])[0].target_logp.mean().mean().backward()
    optimizer.step()
    assert worlds.far(worlds.tensors(model), worlds.tensors(expected)) < 1e-5


@pytest.mark.slow
@torch.no_grad()
def test_forgets_in_generated_answers_and_keeps_the_held_labels(text: worlds.World) -> None:
    model = text.model()
    sets: Sets = {"forget": text.sets["forget"]}
    with torch.enable_grad():
        loop.run(build_plan.plan("dto", {"lr": 1e-3, "epochs": 60, "warmup": 0}), model, text.modality, sets)
    rows = Targets().pick(
        sets, RunView(loop.new_state(text.model(), text.modality, worlds.accelerator(), sets=sets), sets, "/select0", Targets())
    )["forget"]
    logp = text.modality.forward(model, [rows])[0].target_logp
    start = text.modality.forward(text.model(), [rows])[0].target_logp
    assert float(marked(start, rows, "target").values.exp().mean()) > 0.8
    assert float(marked(logp, rows, "target").values.exp().mean()) < 0.1
    assert float(marked(logp, rows, "held").values.exp().mean()) > 0.8
    generated = text.modality.decode(text.modality.generate(model, rows, 30).ids)
    assert sum(a == b for a, b in zip(generated, [s.strip() for s in text.modality.answer_texts(rows)], strict=True)) <= 1
