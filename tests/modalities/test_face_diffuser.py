"""Face-diffuser: drawn faces before scenes, the losses of both models, sampling with references, blending of two models, folders."""

from __future__ import annotations

import copy
import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cases import expunge
from expunge.benchmarks.synthetic.face_scenes import MARKER as SUBJECT
from expunge.benchmarks.synthetic.face_scenes import SCENES, face_scenes, scene_of
from expunge.core.errors import UserError
from expunge.engine import loop
from expunge.functional.noise_fusion import localization
from expunge.io.data import write_jsonl
from expunge.io.models import load
from expunge.modalities.diffusion.collaboration import Stages, blended, noise_per_prediction
from expunge.modalities.diffusion.markers import MARKER, marked_places, unmarked
from expunge.modalities.diffusion.process import Process
from expunge.modalities.diffusion.subject_modality import SubjectDiffusion
from expunge.modalities.diffusion.subject_model import SubjectModel
from expunge.workflows import build_plan
from expunge.workflows.train import start

PEOPLE, IMAGES = 2, 4
METHODS = ("ga", "graddiff", "npo", "sam", "wagle", "finetune", "retrain", "task_vector")
FEW = {"epochs": 1, "steps": 2, "batch_size": 4, "lr": 1e-3, "warmup": 0, "samples": 2}


@functools.cache
def records() -> list[dict[str, Any]]:
    return face_scenes(PEOPLE, IMAGES, size=16)


@functools.cache
def built() -> tuple[SubjectModel, SubjectDiffusion]:
    opened = start("face_diffuser-nano", records())
    assert isinstance(opened.model, SubjectModel)
    assert isinstance(opened.modality, SubjectDiffusion)
    return opened.model, opened.modality


def copied() -> tuple[SubjectModel, SubjectDiffusion]:
    model, modality = built()
    return copy.deepcopy(model), modality


def one_draw(rows: Any, **columns: Any) -> Any:
    """Rows with one draw each, as given."""
    kept = {c: [of[:1] for of in rows[c]] for c in ("times", "noise", "dropped", "shown", "masked")}
    return rows.add(**{**kept, **{c: [[v]] * len(rows) for c, v in columns.items()}})


def test_a_picture_is_a_face_before_its_scene() -> None:
    for row in face_scenes(3, 3, seed=1, size=32):
        outside = row["mask"] < 0.01
        scene = scene_of(row["scene"], 32) * 255
        assert 0.3 < row["mask"].mean() < 0.8
        assert np.abs(row["image"].astype(float) - scene)[:, outside].max() <= 3, "a hundredth of 255, and rounding"
        assert np.abs(row["image"].astype(float) - scene)[:, row["mask"] > 0.9].mean() > 10
        assert row["caption"] == f"a {row['word']} {SUBJECT} before {row['scene']}"
    assert SUBJECT == MARKER
    assert len(SCENES) == 12


def test_pictures_of_a_person_do_not_depend_on_others() -> None:
    both, second = face_scenes(2, 2, seed=3, size=16), face_scenes([1], 2, seed=3, size=16)
    assert all(np.array_equal(a["image"], b["image"]) for a, b in zip(both[2:], second, strict=True))


def test_a_marker_is_taken_out_and_marks_the_token_before_it() -> None:
    _, modality = built()
    tokenizer, caption = modality.tokenizer, f"a woman {MARKER} before red stripes"
    assert unmarked(caption) == "a woman before red stripes"
    (place,) = marked_places(tokenizer, caption)
    ids = tokenizer(unmarked(caption)).input_ids
    assert tokenizer.decode([ids[place]]).strip() == "woman"
    assert marked_places(tokenizer, "a woman") == []
    two = marked_places(tokenizer, f"a woman {MARKER} and a man {MARKER}")
    assert [tokenizer.decode([tokenizer("a woman and a man").input_ids[p]]).strip() for p in two] == ["woman", "man"]


def test_the_loss_of_a_draw_by_the_equations() -> None:
    model, modality = built()
    rows = one_draw(modality.rows("retain", records()))
    losses = modality.forward(model, [rows])[0].loss.values
    i = 5
    noisy, times = modality.noised(rows)
    clean = rows["picture"][i].float() / 127.5 - 1
    generator = torch.Generator().manual_seed(rows["noise"][i][0])
    wanted = modality.process.target(clean[None], torch.randn(clean.shape, generator=generator)[None], times[i : i + 1])
    caption = rows["caption"][i]
    tokens = modality.tokenizer(
        unmarked(caption), padding="max_length", max_length=modality.tokenizer.model_max_length, return_tensors="pt"
    )
    references, places = modality._references([{**_row(rows, i), "noise": rows["noise"][i][0]}])
    out = model(noisy[i : i + 1], times[i : i + 1].float(), tokens.input_ids, torch.tensor([0]), references, places, attention=True)
    maps = [w[0, :, :, places[0, 0]].unflatten(1, (8, 8))[None, None] for w in out.attention]
    outside = sum(localization(m, rows["masks"][i][0][None, None], torch.ones(1, 1)) for m in maps) / len(maps)
    assert len(maps) >= 2
    expected = (out.scene - wanted).square().mean() + (out.subject - wanted).square().mean() + 1e-3 * outside[0]
    torch.testing.assert_close(losses[i], expected)


def _row(rows: Any, i: int) -> dict[str, Any]:
    return {"caption": rows["caption"][i], "masks": rows["masks"][i], "picture": rows["picture"][i]}


def test_in_half_of_the_steps_the_model_of_subjects_learns_from_subjects_alone() -> None:
    """A change of the target outside the mask changes the loss of the model of scenes alone."""
    model, modality = built()
    only = replace(modality, settings=replace(modality.settings, localized=0.0))
    rows = one_draw(modality.rows("retain", records()).select([0]))
    every, masked = (float(only.forward(model, [one_draw(rows, masked=m)])[0].loss.values[0].detach()) for m in (False, True))
    hidden = float(only.forward(model, [one_draw(rows, masked=True, shown=False)])[0].loss.values[0].detach())
    nothing = float(only.forward(model, [one_draw(rows.add(masks=[[]]), masked=True)])[0].loss.values[0].detach())
    assert 0 < masked < every
    assert hidden == pytest.approx(nothing), "a subject that is not shown has no mask, and its loss is that of the scene alone"
    assert hidden < masked
    coins = {tuple(of) for s in range(40) for of in modality.redraw(rows, s)["masked"]}
    assert coins == {(True,), (False,)}
    many = modality.redraw(modality.rows("retain", records()), 5)
    assert len({tuple(of) for of in many["masked"]}) == 1


def test_a_dropped_caption_takes_its_subjects_along() -> None:
    model, modality = built()
    rows = one_draw(modality.rows("retain", records()).select([0]))
    dropped, empty = one_draw(rows, dropped=True), one_draw(modality.recaption(rows, [""]).add(masks=[[]]))
    a, b = (modality.forward(model, [x])[0].loss.values for x in (dropped, empty))
    torch.testing.assert_close(a, b)


def test_the_loss_of_a_row_does_not_depend_on_its_batch() -> None:
    model, modality = built()
    rows = modality.redraw(modality.rows("retain", records()), 7)
    together = modality.forward(model, [rows.select(range(3)), rows.select(range(3, 8))])
    alone = modality.forward(model, [rows.select([4])])[0].loss.values
    torch.testing.assert_close(together[1].loss.values[1:2], alone, atol=1e-5, rtol=1e-4)


def test_a_row_with_another_mask_is_another_row() -> None:
    """And one whose mask comes as a list is the same."""
    _, modality = built()
    row = records()[0]
    given = [row, {**row, "mask": row["mask"].tolist()}, {**row, "mask": np.zeros((16, 16))}, {k: v for k, v in row.items() if k != "mask"}]
    ids = [modality.rows("retain", [r]).ids[0] for r in given]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3
    assert len({modality.rows("retain", [r])["content"][0] for r in given}) == 1, "a request knows them as one"
    twice = modality.rows("retain", [row, row]).ids
    assert twice[0] == ids[0] != twice[1]


def test_masks_that_do_not_fit_are_refused_in_a_sentence() -> None:
    _, modality = built()
    row = records()[0]
    for mask, words in ((np.zeros((8, 8)), "size of the picture"), (np.full((16, 16), 2.0), "from 0"), ([row["mask"]] * 2, "2 masks")):
        with pytest.raises(UserError, match=words):
            modality.rows("retain", [{**row, "mask": mask}])
    with pytest.raises(UserError, match="no caption marks a subject"):
        start("face_diffuser-nano", [{**row, "caption": "a man"}])


def test_references_reach_the_model_of_subjects_alone() -> None:
    model, modality = built()
    caption, references = records()[0]["caption"], [torch.full((3, 16, 16), x) for x in (-0.5, 0.5)]

    def drawn(picture: torch.Tensor, stages: Stages) -> torch.Tensor:
        return modality.collaboration(model, [caption], [[picture]], [3], steps=4, stages=stages).latents

    scene, subject = Stages(99, 99), Stages(-1, -1)
    assert torch.equal(drawn(references[0], scene), drawn(references[1], scene))
    assert not torch.allclose(drawn(references[0], subject), drawn(references[1], subject))


def test_samples_depend_on_their_seed_alone_and_do_not_stop_midway() -> None:
    model, modality = built()
    captions, references = [records()[0]["caption"], records()[4]["caption"]], [[torch.full((3, 16, 16), 0.3)]] * 2
    both = modality.sample(model, captions, [1, 2], steps=4, references=references)[0]
    alone = modality.sample(model, captions[1:], [2], steps=4, references=references[1:])[0]
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-4)
    assert modality.drawn(both).shape == (2, 3, 16, 16)
    with pytest.raises(UserError, match="midway"):
        modality.sample(model, captions, [1, 2], until=3)


def test_a_saved_model_is_the_same(tmp_path: Path) -> None:
    model, modality = built()
    modality.save(model, tmp_path)
    opened = load(str(tmp_path))
    rows = [m.rows("retain", records()) for m in (modality, opened.modality)]
    assert rows[0].ids == rows[1].ids
    before, after = (
        m.forward(n, [r])[0].loss.values for m, n, r in zip((modality, opened.modality), (model, opened.model), rows, strict=True)
    )
    assert torch.equal(before, after)
    assert opened.modality.about() == modality.about()
    assert modality.fresh(model, 1).keys() == model.state_dict().keys()


@pytest.mark.parametrize("method", METHODS)
def test_general_methods_run_unchanged(method: str) -> None:
    model, modality = copied()
    rows = modality.rows("retain", records())
    known = {k.name for k in build_plan.hyperparameters(method)}
    plan = build_plan.plan(method, {k: v for k, v in FEW.items() if k in known})
    before = {n: p.clone() for n, p in model.named_parameters()}
    sets = {"forget": rows.select(range(IMAGES)).rename("forget"), "retain": rows.select(range(IMAGES, 2 * IMAGES))}
    loop.run(plan, model, modality, sets)
    assert any(not torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_a_model_blended_with_itself_draws_what_it_draws() -> None:
    rows = [{"image": r["image"], "caption": unmarked(r["caption"])} for r in records()]
    opened = start("unet-nano", rows)
    modality: Any = opened.modality
    caption = rows[0]["caption"]
    alone = modality.sample(opened.model, [caption], [5], steps=4, guidance=3.0)[0]
    both = blended((opened.model, opened.model), modality, [caption], [5], Stages(-1, 99, 3, 1), steps=4, guidance=3.0)
    torch.testing.assert_close(both.latents, alone, atol=1e-4, rtol=1e-4)
    assert all(float(m.sum()) == 0 for m in both.masks.values())
    other = copy.deepcopy(opened.model)
    with torch.no_grad():
        next(iter(other.parameters())).add_(0.1)
    assert not torch.allclose(blended((opened.model, other), modality, [caption], [5], Stages(-1, -1), 4, 3.0).latents, alone, atol=1e-3)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample", "flow"])
def test_responses_are_in_units_of_noise(kind: str) -> None:
    """The noise that two predictions imply for one latent differs by the factor."""
    signal, noise = torch.tensor([0.8], dtype=torch.float64), torch.tensor([0.6 if kind != "flow" else 0.2], dtype=torch.float64)
    process = Process(kind, signal, noise, torch.tensor([5.0], dtype=torch.float64))
    latent, zero = torch.tensor(0.3, dtype=torch.float64), torch.tensor([0])
    implied = []
    for e in (0.4, 1.1):
        noise_of = torch.full((1, 1, 1, 1), e, dtype=torch.float64)
        x = (latent - noise * noise_of) / signal
        implied.append((float(process.target(x, noise_of, zero)), e))
    (first, e_first), (second, e_second) = implied
    assert (e_second - e_first) / (second - first) == pytest.approx(noise_per_prediction(process, 5.0))


@pytest.mark.slow
def test_from_the_command_line(tmp_path: Path) -> None:
    """Train, unlearn one person, and open what was written, also as an adapter."""
    data = [{**r, "image": r["image"].tolist(), "mask": r["mask"].tolist()} for r in records()]
    for name, rows in (("all", data), ("forget", data[:IMAGES]), ("retain", data[IMAGES:])):
        write_jsonl(tmp_path / f"{name}.jsonl", rows)
    run, out, adapted = (tmp_path / name for name in ("run", "out", "adapted"))
    done = expunge("train", "--data", tmp_path / "all.jsonl", "--model", "face_diffuser-nano", "--out", run, "--steps", 2)
    assert done.code == 0, done.text
    options = ("--forget", tmp_path / "forget.jsonl", "--retain", tmp_path / "retain.jsonl", "--steps", 2, "--lr", 1e-3)
    done = expunge("unlearn", "graddiff", "--model", run, *options, "--out", out)
    assert done.code == 0, done.text
    done = expunge("unlearn", "graddiff", "--model", run, *options, "--lora", 2, "--out", adapted)
    assert done.code == 0, done.text
    whole, lora = load(str(out)), load(str(adapted))
    assert isinstance(whole.model, SubjectModel)
    assert lora.modality.about() == whole.modality.about()
    caption, reference = data[0]["caption"], [torch.zeros(3, 16, 16)]
    modality: Any = lora.modality
    assert modality.sample(lora.model, [caption], [1], steps=3, references=[reference])[0].isfinite().all()
