"""LINA as a model to unlearn from: rows, losses, what a step draws, training, general methods, sampling, folders."""

from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import expunge as package
from cases import expunge
from expunge import catalog
from expunge.benchmarks import digits
from expunge.core.errors import UserError
from expunge.core.plan import Plan, Train, as_plans
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.functional.flow_matching import training_sigma, velocity, velocity_loss
from expunge.functional.masked_order import masked_ratio, visible_tokens
from expunge.io.data import write_jsonl
from expunge.io.models import load
from expunge.methods.terms import NLL
from expunge.modalities.diffusion.masked_autoregressive import MaskedAutoregressor, taken, tokens_of
from expunge.modalities.diffusion.masked_building import start_model
from expunge.modalities.diffusion.masked_modality import MaskedDiffusion, MaskedSettings
from expunge.workflows import build_plan
from expunge.workflows.train import start

SIZE = {"width": 32, "heads": 1, "condition_blocks": 1, "encoder_blocks": 1, "decoder_blocks": 1, "head_blocks": 1, "head_width": 32}
SETTINGS = MaskedSettings(evaluated=2, dropped=0.1, steps=4, guidance=2.0, denoising=4)
COUNT = 48
FEW = {"epochs": 1, "steps": 2, "batch_size": 16, "lr": 1e-3, "warmup": 0, "samples": 4}
SPECIAL: dict[str, dict[str, Any]] = {"weight_averaging": {"start": 1, "every": 1}}
BESIDES = {  # what no capability says
    *("adaptive_rmu", "rmu", "srmu"),  # they name modules of language models
    "deltagrad",  # reads the last linear layer
    "minnorm_og",  # reads logits
    "guard_attribution",  # reads single layers of many rows
}
GENERAL = [
    n for n in catalog.names("methods") if all(p.required() <= MaskedDiffusion.capabilities for p in as_plans(catalog.load(n).plan()))
]
GENERAL = [n for n in GENERAL if n not in BESIDES]


def records(count: int = COUNT) -> list[dict[str, Any]]:
    """Digits below four, in turn."""
    every = digits.load().train["full"]
    of_class = [[r for r in every if r["label"] == k] for k in range(4)]
    return [of_class[i % 4][i // 4] for i in range(count)]


def captioned(count: int = COUNT) -> list[dict[str, Any]]:
    return [{"image": r["image"], "caption": f"a drawn {r['label']}"} for r in records(count)]


def small(rows: Any, **options: Any) -> tuple[MaskedAutoregressor, MaskedDiffusion]:
    return start_model(SIZE, SETTINGS, rows, **options)


@functools.cache
def trained() -> tuple[MaskedAutoregressor, MaskedDiffusion, Rows, Rows]:
    """A model of digits that was trained on all of them; the zeros are to be forgotten."""
    data = records()
    model, modality = small(data)
    everything = modality.rows("retain", data)
    train = Train(epochs=40, lr=5e-3, batch_size=24, anchor="retain", warmup=1, max_grad_norm=1.0)
    loop.run((Plan(NLL("retain"), train=train),), model, modality, {"retain": everything})
    zeros = [r for r in data if r["label"] == 0]
    return model, modality, modality.rows("forget", zeros), modality.rows("retain", [r for r in data if r["label"] != 0])


@torch.no_grad()
def loss(model: Any, modality: MaskedDiffusion, rows: Rows) -> float:
    return float(modality.forward(model, [rows])[0].loss.values.mean())


def test_the_loss_of_a_draw_by_the_equations() -> None:
    model, modality = small(records())
    rows = modality.rows("retain", records(3))
    values = modality.forward(model, [rows])[0].loss.split()[1]
    x = tokens_of(rows["picture"][1][None].float() / 127.5 - 1, 1)
    for k in range(2):
        generator = torch.Generator().manual_seed(rows["noise"][1][k])
        visible = visible_tokens(masked_ratio((k + 0.5) / 2), 64)
        assert rows["times"][1][k] == visible
        order, noise = torch.randperm(64, generator=generator)[None], torch.randn(4, 64, 1, generator=generator)
        sigma = training_sigma(torch.randn(4, 64, generator=generator))
        label = torch.tensor([int(rows["label"][1])])
        predicted = model(x, label, torch.tensor([False]), order, visible, noise[:, None], sigma[:, None])
        masked = order[:, visible:]
        expected = velocity_loss(predicted[:, 0], velocity(taken(x, masked)[0], noise[:, masked[0]])).mean()
        torch.testing.assert_close(values[k], expected)


def test_the_loss_of_a_row_does_not_depend_on_its_batch() -> None:
    model, modality = small(records())
    rows = modality.rows("retain", records(10))
    together = modality.forward(model, [rows.select(range(4)), rows.select(range(4, 10))])
    for i in (2, 7):
        alone = modality.forward(model, [rows.select([i])])[0].loss.values
        both = together[i >= 4].loss.split()[i - 4 * (i >= 4)]
        torch.testing.assert_close(alone, both)


def test_a_step_has_one_number_of_visible_tokens_and_an_order_for_each_row() -> None:
    _, modality = small(records())
    rows = modality.rows("retain", records())
    first, again, other = (modality.redraw(rows, seed) for seed in (1, 1, 2))
    assert first.columns == again.columns
    assert len({tuple(t) for t in first["times"]}) == 1
    assert len({n for of in first["noise"] for n in of}) == len(rows)
    assert {n for of in first["noise"] for n in of}.isdisjoint({n for of in other["noise"] for n in of})
    subset = modality.redraw(rows.select([5, 7]), 1)
    assert subset["noise"] == [first["noise"][5], first["noise"][7]]
    shares = [modality.redraw(rows.select([0]), seed)["times"][0][0] for seed in range(60)]
    assert 0 <= min(shares) < max(shares) <= 19, "70 % of 64 tokens are masked at least"
    dropped = [d for seed in range(30) for of in modality.redraw(rows, seed)["dropped"] for d in of]
    assert 0.07 < sum(dropped) / len(dropped) < 0.13


def test_recorded_states_are_those_of_their_rows() -> None:
    model, modality = small(records())
    rows = modality.rows("retain", records(6))
    point = modality.blocks(model)[-1]
    states = modality.forward(model, [rows], (point,))[0].hidden(point)
    alone = modality.forward(model, [rows.select([3])], (point,))[0].hidden(point)
    assert states.values.shape == (12, SIZE["width"])
    torch.testing.assert_close(states.split()[3], alone.values)


def test_training_teaches_which_class_is_which() -> None:
    model, modality, forget, retain = trained()
    blank, _ = small(records())
    assert loss(model, modality, retain) < 0.6 * loss(blank, modality, retain)
    wrong = modality.recaption(forget, ["1"])
    assert loss(model, modality, wrong) > loss(model, modality, forget)


@pytest.mark.parametrize(
    ("method", "lr", "least", "share"), [("ga", 2e-4, 0.08, 1.2), ("graddiff", 2e-4, 0.06, 1.8), ("npo", 2e-4, 0.06, 1.8)]
)
def test_zeros_are_forgotten_and_others_less(method: str, lr: float, least: float, share: float) -> None:
    model, modality, forget, retain = trained()
    forgetting = copy.deepcopy(model)
    plan = build_plan.plan(method, {"lr": lr, "epochs": 10, "batch_size": 12})
    loop.run(plan, forgetting, modality, {"forget": forget, "retain": retain})
    lost, damage = (loss(forgetting, modality, rows) - loss(model, modality, rows) for rows in (forget, retain))
    assert lost > least
    assert lost > share * damage


@pytest.mark.parametrize("method", GENERAL)
def test_general_methods_run_unchanged(method: str) -> None:
    model, modality, forget, retain = trained()
    known = {k.name for k in build_plan.hyperparameters(method)}
    plan = build_plan.plan(method, {k: v for k, v in {**FEW, **SPECIAL.get(method, {})}.items() if k in known})
    changed = copy.deepcopy(model)
    sets = {"forget": forget.select(range(4)), "retain": retain.select(range(8))}
    result = loop.run(plan, changed, modality, sets)
    assert result is not None
    assert all(p.isfinite().all() for p in changed.parameters())


def test_the_usual_methods_are_general() -> None:
    assert {"ga", "graddiff", "npo", "sam", "wagle", "ssd", "finetune", "retrain", "task_vector"} <= set(GENERAL)


def test_samples_depend_on_their_seed_and_caption_alone() -> None:
    model, modality, *_ = trained()
    both, index = modality.sample(model, ["0", "1"], [3, 4])
    assert both.shape == (2, 1, 8, 8)
    assert index.tolist() == [-1, -1]
    torch.testing.assert_close(modality.sample(model, ["1"], [4])[0][0], both[1], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(modality.sample(model, ["2"], [4])[0][0], both[1], atol=1e-3)
    assert modality.drawn(both).dtype == torch.uint8
    with pytest.raises(UserError, match="in between"):
        modality.sample(model, ["0"], [1], until=2)


@pytest.mark.parametrize("condition", ["classes", "captions"])
def test_a_saved_model_is_the_same(condition: str, tmp_path: Path) -> None:
    data = records(12) if condition == "classes" else captioned(12)
    model, modality = small(data)
    modality.save(model, tmp_path)
    assert sorted(p.suffix for p in tmp_path.iterdir() if p.is_file()) == [".json", ".safetensors"]
    opened = load(str(tmp_path))
    assert isinstance(opened.modality, MaskedDiffusion)
    before, after = (loss(m, o, o.rows("retain", data)) for m, o in ((model, modality), (opened.model, opened.modality)))
    assert before == after
    name = modality.rows("retain", data)["caption"][0]
    assert torch.equal(modality.sample(model, [name], [1])[0], opened.modality.sample(opened.model, [name], [1])[0])
    assert opened.modality.about() == modality.about()


def test_captions_are_read_and_an_empty_one_is_none() -> None:
    model, modality = small(captioned())
    assert modality.conditioning == "text"
    rows = modality.rows("retain", captioned(4))
    named, other, empty = (loss(model, modality, modality.recaption(rows, [c])) for c in ("a drawn 0", "a drawn 1", ""))
    assert named != other
    with torch.no_grad():
        model.context.empty.weight += 1.0  # type: ignore[operator, union-attr]
    assert loss(model, modality, modality.recaption(rows, [""])) != empty
    assert loss(model, modality, modality.recaption(rows, ["a drawn 0"])) == named


def test_fresh_weights_are_those_of_an_untrained_model() -> None:
    model, modality = small(captioned(8))
    weights = modality.fresh(model, 3)
    assert weights.keys() == model.state_dict().keys() - {"places", "condition_places"}
    gates = [w for n, w in weights.items() if ".gate." in n]
    assert gates
    assert all(bool((g == 1).all()) for g in gates)
    assert not torch.equal(weights["embedding.weight"], model.embedding.weight)


def test_pictures_that_do_not_fit_are_refused_in_a_sentence() -> None:
    wrong = [{"image": torch.zeros(1, 12, 8, dtype=torch.uint8), "label": 0}]
    with pytest.raises(UserError, match="multiple of 8, such as 32 x 32"):
        start("lina-nano", wrong)
    model, modality = small(records(8))
    prompts = modality.rows("forget", [{"caption": "1"}])
    with pytest.raises(UserError, match="prompts alone"):
        modality.forward(model, [prompts])


@pytest.mark.slow
def test_a_classifier_recognizes_the_digits_that_are_drawn() -> None:
    """More than 7 of 10, where chance is 1 of 4."""
    from sklearn.linear_model import LogisticRegression

    data = records(320)
    pixels = np.stack([np.asarray(r["image"], np.float64).ravel() for r in data])
    judge = LogisticRegression(max_iter=2000).fit(pixels, [r["label"] for r in data])
    model, modality = start_model({**SIZE, "decoder_blocks": 2}, SETTINGS, data)
    train = Train(epochs=20, lr=3e-3, batch_size=40, anchor="retain", warmup=1, max_grad_norm=1.0)
    loop.run((Plan(NLL("retain"), train=train),), model, modality, {"retain": modality.rows("retain", data)})
    wanted = [i % 4 for i in range(48)]
    drawn = modality.drawn(modality.sample(model, list(map(str, wanted)), list(range(48)))[0]).flatten(1).numpy() / 255
    assert (judge.predict(drawn * pixels.max()) == wanted).mean() > 0.7


@pytest.mark.slow
def test_from_the_command_line(tmp_path: Path) -> None:
    """Train, unlearn, and open what was written."""
    data = [{**r, "image": r["image"].tolist()} for r in records(24)]
    for name, rows in (("all", data), ("forget", data[:4]), ("retain", data[4:])):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    run, out = tmp_path / "run", tmp_path / "out"
    done = expunge("train", "--data", tmp_path / "all.jsonl", "--model", "lina-nano", "--out", run, "--steps", 2)
    assert done.code == 0, done.text
    options = ("--forget", tmp_path / "forget.jsonl", "--retain", tmp_path / "retain.jsonl", "--steps", 2, "--lr", 1e-3)
    done = expunge("unlearn", "graddiff", "--model", run, *options, "--out", out)
    assert done.code == 0, done.text
    config = json.loads((out / "model" / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LinaForMaskedGeneration"]
    opened = package.load(str(out))
    assert isinstance(opened.model, MaskedAutoregressor)
    adapted = tmp_path / "adapted"
    done = expunge("unlearn", "graddiff", "--model", run, *options, "--lora", 4, "--out", adapted)
    assert done.code == 0, done.text
    assert package.load(str(adapted)).modality.about() == opened.modality.about()
