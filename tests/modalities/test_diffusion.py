"""Pictures with captions as rows: losses, draws, samples, pipelines in and out, and sentences about what is wrong."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import denoisers
from expunge import UserError
from expunge.core.capabilities import Denoises, require
from expunge.core.plan import Plan, Train, as_plans
from expunge.core.rows import Rows
from expunge.engine import loop
from expunge.engine.validate import check_capabilities
from expunge.engine.weights import weights_of
from expunge.io.models import load
from expunge.methods.terms import NLL, Ascent
from expunge.methods.updates.salun import Saliency
from expunge.modalities.common.records import Records
from expunge.modalities.diffusion.captions import class_name
from expunge.modalities.diffusion.libraries import class_of
from expunge.modalities.diffusion.process import process_of
from expunge.workflows import build_plan

pytestmark = [
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # pipelines of diffusers with some schedulers
]


def pipeline_pictures(pipeline: Any, captions: list[str], seeds: list[int], **options: Any) -> Tensor:
    generators = [torch.Generator().manual_seed(s) for s in seeds]
    pipeline.set_progress_bar_config(disable=True)
    return torch.as_tensor(pipeline(captions, generator=generators, output_type="latent", **options).images)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_the_squared_error_of_what_is_predicted(prediction: str) -> None:
    model, modality = denoisers.built()
    scheduler = class_of("DDPMScheduler")(prediction_type=prediction, beta_schedule="squaredcos_cap_v2")
    modality.process, modality.scheduler = process_of(scheduler), scheduler
    rows = modality.redraw(modality.rows("retain", denoisers.records(1)), 5)
    clean = torch.stack([p.float() / 127.5 - 1 for p in rows["picture"]])
    noise = torch.stack([torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(n[0])) for n in rows["noise"]])
    times = torch.tensor([t[0] for t in rows["times"]])
    noisy = scheduler.add_noise(clean, noise, times)
    assert torch.allclose(modality.noised(rows)[0], noisy, atol=1e-6)
    assert torch.equal(modality.noised(rows)[1], times)
    wanted = {"epsilon": lambda: noise, "sample": lambda: clean, "v_prediction": lambda: scheduler.get_velocity(clean, noise, times)}
    captions = ["" if gone else c for c, (gone,) in zip(rows["caption"], rows["dropped"], strict=True)]
    predicted = modality.predict(model, noisy, times, modality.encode(model, captions))
    output = modality.forward(model, [rows])[0]
    assert torch.allclose(output.prediction.values, predicted, atol=1e-6)
    assert torch.allclose(output.loss.sum(), (predicted - wanted[prediction]()).square().mean((1, 2, 3)), atol=1e-5)


def test_flow_matching_predicts_the_way_from_picture_to_noise() -> None:
    process = process_of(class_of("FlowMatchEulerDiscreteScheduler")(shift=3.0))
    x, e = torch.randn(2, 1, 4, 4), torch.randn(2, 1, 4, 4)
    first, last = torch.tensor([0, 0]), torch.tensor([999, 999])
    assert torch.allclose(process.noisy(x, e, last), e, atol=1e-6)
    sigma = 3 * 0.001 / (1 + 2 * 0.001)
    assert torch.allclose(process.noisy(x, e, first), (1 - sigma) * x + sigma * e, atol=1e-6)
    assert torch.allclose(process.target(x, e, first), e - x)
    assert float(process.time[-1]) == 1000


def test_draws_are_a_function_of_row_and_seed() -> None:
    _, modality = denoisers.built()
    rows = modality.rows("retain", denoisers.records())
    again = modality.redraw(rows, 7)
    some = modality.redraw(rows.select([5, 2]), 7)
    for column in ("times", "noise", "dropped"):
        assert some[column] == [again[column][5], again[column][2]]
    assert modality.redraw(rows, 8)["noise"] != again["noise"]
    assert modality.rows("forget", denoisers.records())["noise"] == rows["noise"]
    assert rows["times"][0] == [250, 750]
    copies = modality.rows("retain", [denoisers.records()[0]] * 2)
    assert copies["noise"][0] != copies["noise"][1]


def test_tokens_have_the_same_numbers_whenever_a_model_is_built() -> None:
    vocabularies = [denoisers.built()[1].tokenizer.get_vocab() for _ in range(3)]
    assert vocabularies[0] == vocabularies[1] == vocabularies[2]
    _, modality = denoisers.built()
    content = modality.content_tokens(["a red bar", "red", "", "purple"])
    assert [list(c) for c in content[:3]] == [[1, 2, 3], [1], []]
    assert content[0][2] == content[1][1] == vocabularies[0]["red</w>"]
    assert len(content[3]) == 6, "letters of a word that is not known"


def test_drawn_times_are_uniform_and_captions_are_dropped_at_the_rate() -> None:
    _, modality = denoisers.built()
    one = modality.rows("retain", denoisers.records(1)[:1])
    draws = [modality.redraw(one, seed) for seed in range(2000)]
    times = np.array([d["times"][0][0] for d in draws])
    assert min(np.histogram(times, 10, (0, 1000))[0]) > 140
    assert 0.07 < np.mean([d["dropped"][0][0] for d in draws]) < 0.13


def test_rows_of_one_pass_do_not_depend_on_each_other() -> None:
    model, modality = denoisers.built()
    rows = modality.rows("retain", denoisers.records())
    whole, (first, second) = modality.forward(model, [rows])[0], modality.forward(model, [rows.select([3]), rows.select([7, 1])])
    expected = whole.loss.sum()
    assert torch.allclose(first.loss.sum(), expected[[3]], atol=1e-6)
    assert torch.allclose(second.loss.sum(), expected[[7, 1]], atol=1e-6)


def test_another_caption_changes_the_prediction_alone() -> None:
    model, modality = denoisers.built()
    rows = modality.redraw(modality.rows("forget", denoisers.records(1)), 1)
    empty = modality.recaption(rows, [""])
    assert torch.equal(modality.noised(rows)[0], modality.noised(empty)[0])
    assert set(empty.ids).isdisjoint(rows.ids)
    a, b = modality.forward(model, [rows, empty])
    assert torch.equal(a.target.values, b.target.values)
    assert not torch.allclose(a.prediction.values, b.prediction.values)
    latents, times = modality.noised(rows)
    placed = modality.placed(empty, latents, times)
    assert torch.allclose(modality.forward(model, [placed])[0].prediction.values, b.prediction.values, atol=1e-6)
    states = modality.encode(model, rows["caption"])
    given = modality.placed(empty, latents, times, states)
    assert torch.allclose(modality.forward(model, [given])[0].prediction.values, _undropped(model, modality, rows), atol=1e-6)


def _undropped(model: Any, modality: Any, rows: Rows) -> Tensor:
    return modality.forward(model, [modality.recaption(rows, rows["caption"])])[0].prediction.values


def test_samples_are_those_of_the_pipeline(tmp_path: Path) -> None:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    model, modality = denoisers.built()
    modality.save(model, tmp_path)
    captions, seeds = ["a red square", "a blue bar"], [3, 4]
    latents, index = modality.sample(model, captions, seeds)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path, vae=None)
    assert torch.allclose(latents, pipeline_pictures(pipeline, captions, seeds, num_inference_steps=3, guidance_scale=2.0), atol=1e-5)
    assert index.tolist() == [-1, -1]
    alone, _ = modality.sample(model, captions[1:], seeds[1:])
    assert torch.allclose(alone[0], latents[1], atol=1e-5)


@pytest.mark.parametrize("scheduler", ["PNDMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_stable_diffusion_loads_draws_and_saves(scheduler: str, tmp_path: Path) -> None:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    denoisers.stable_diffusion(tmp_path / "original", scheduler=scheduler)
    opened = load(tmp_path / "original")
    modality = require(opened.modality, Denoises)
    captions, seeds, options = ["a red square", "a blue bar"], [3, 4], {"num_inference_steps": 4, "guidance_scale": 3.0}
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "original")
    expected = pipeline_pictures(pipeline, captions, seeds, **options)
    assert torch.allclose(modality.sample(opened.model, captions, seeds, 4, 3.0)[0], expected, atol=1e-4)
    opened.modality.save(opened.model, tmp_path / "saved")
    again = StableDiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert torch.equal(pipeline_pictures(again, captions, seeds, **options), expected)
    reopened = load(tmp_path / "saved")
    before, after = weights_of(opened.model), weights_of(reopened.model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert reopened.modality.about() == opened.modality.about()


def test_a_vae_reads_and_draws_as_its_library_does(tmp_path: Path) -> None:
    opened = load(denoisers.stable_diffusion(tmp_path))
    modality: Any = opened.modality
    picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    rows = modality.rows("retain", [{"image": picture, "caption": "a red square"}])
    vae = modality.latents.vae
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        assert torch.allclose(rows["latent"][0], vae.encode(x).latent_dist.mode()[0] * vae.config.scaling_factor, atol=1e-6)
        latents = torch.randn(2, 4, 8, 8)
        decoded = vae.decode(latents / vae.config.scaling_factor).sample
    assert torch.equal(modality.drawn(latents), ((decoded / 2 + 0.5) * 255).round().clamp(0, 255).to(torch.uint8))


def test_a_transformer_of_classes_loads_draws_and_saves(tmp_path: Path) -> None:
    from diffusers.pipelines.dit.pipeline_dit import DiTPipeline

    denoisers.diffusion_transformer(tmp_path / "original")
    opened = load(tmp_path / "original")
    modality: Any = opened.modality
    assert modality.classes == ("red", "green", "blue")
    pipeline = DiTPipeline.from_pretrained(tmp_path / "original")
    pipeline.set_progress_bar_config(disable=True)
    options: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 1.0}  # with guidance the pipeline takes 1000 classes for granted
    generators = [torch.Generator().manual_seed(s) for s in (5, 6)]
    shown = pipeline([0, 2], generator=generators, output_type="np", **options).images
    latents, _ = modality.sample(opened.model, ["red", "blue"], [5, 6], 3, 1.0)
    assert np.abs(modality.drawn(latents).permute(0, 2, 3, 1).numpy() / 255 - shown).max() < 0.02
    rows = modality.rows("retain", [{"image": np.zeros((16, 16, 3), np.uint8), "label": k} for k in (0, "blue")])
    assert rows["caption"] == ["red", "blue"]
    assert modality.forward(opened.model, [rows])[0].loss.values.shape == (16,)
    modality.save(opened.model, tmp_path / "saved")
    assert load(tmp_path / "saved").modality.about() == modality.about()
    DiTPipeline.from_pretrained(tmp_path / "saved")
    with pytest.raises(UserError, match="the model has no text encoder: it is given classes"):
        modality.encode(opened.model, ["red"])


def test_a_sampling_stops_midway(tmp_path: Path) -> None:
    model, modality = denoisers.built()
    start, at = modality.sample(model, ["a red bar"], [1], steps=4, until=0)
    assert torch.equal(start[0], torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1)))
    assert at.tolist() == [999]
    _, at = modality.sample(model, ["a red bar"], [1], steps=4, until=2)
    assert at.tolist() == [499]


def test_resumed_losses_under_sam_and_the_reference_meet_the_same_noise() -> None:
    model, modality = denoisers.built()
    sets = {"forget": modality.rows("forget", denoisers.records()[:6]), "retain": modality.rows("retain", denoisers.records()[6:])}
    plan = build_plan.plan("npo", {"steps": 1, "lr": 0.0, "batch_size": 6, "warmup": 0})
    run = loop.run(plan, model, modality, sets)
    term = run.log[0]["terms"]["0 npo forget"]
    assert term == pytest.approx(20 * np.log(2), rel=1e-4), "at the reference's own weights the gain of each row is 0"


def test_a_saved_model_can_be_trained_on(tmp_path: Path) -> None:
    model, modality = denoisers.built()
    rows = {"retain": modality.rows("retain", denoisers.records())}
    before = float(modality.forward(model, list(rows.values()))[0].loss.values.mean().detach())
    loop.run((Plan(NLL("retain"), train=Train(epochs=30, lr=3e-3, batch_size=6, anchor="retain")),), model, modality, rows)
    assert float(modality.forward(model, list(rows.values()))[0].loss.values.mean().detach()) < 0.8 * before


def test_the_text_encoder_of_a_pipeline_rests_unless_it_is_named(tmp_path: Path) -> None:
    opened = load(denoisers.stable_diffusion(tmp_path))
    rows = [{"image": np.zeros((16, 16, 3), np.uint8), "caption": "a red bar"}] * 2
    sets = {"retain": opened.modality.rows("retain", rows)}
    for pattern, moves in ((".*", {"unet"}), ("text_encoder", {"text_encoder"})):
        before = weights_of(opened.model)
        train = Train(epochs=1, lr=1e-2, batch_size=2, anchor="retain")
        loop.run((Plan(NLL("retain"), train=train, trainable=pattern),), opened.model, opened.modality, sets)
        assert {n.partition(".")[0] for n, w in weights_of(opened.model).items() if not torch.equal(w, before[n])} == moves


def test_an_adapter_loads_here_and_in_the_pipeline(tmp_path: Path) -> None:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    opened = load(denoisers.stable_diffusion(tmp_path / "base"))
    rows = [{"image": np.full((16, 16, 3), 9, np.uint8), "caption": "a red bar"}] * 4
    sets = {"retain": opened.modality.rows("retain", rows)}
    run = loop.run(
        (Plan(NLL("retain"), train=Train(epochs=2, lr=1e-1, batch_size=2, lora=2, anchor="retain")),), opened.model, opened.modality, sets
    )
    run.modality.save(run.model, tmp_path / "adapter")
    assert not any("text_encoder" in n for n in weights_of(run.model) if "lora_" in n)
    captions, seeds, options = ["a red square"], [3], {"num_inference_steps": 2, "guidance_scale": 3.0}
    again: Any = load(tmp_path / "adapter")
    latents = again.modality.sample(again.model, captions, seeds, 2, 3.0)[0]
    plain: Any = load(tmp_path / "base")
    assert not torch.allclose(latents, plain.modality.sample(plain.model, captions, seeds, 2, 3.0)[0], atol=1e-3)
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "base")
    pipeline.load_lora_weights(tmp_path / "adapter")
    assert torch.allclose(pipeline_pictures(pipeline, captions, seeds, **options), latents, atol=1e-4)


GENERAL = ("ga", "graddiff", "npo", "finetune", "retrain", "sam", "ssd", "task_vector", "wagle")


@pytest.mark.parametrize("name", GENERAL)
def test_general_methods_run(name: str) -> None:
    model, modality = denoisers.built()
    before = weights_of(model)
    sets = {"forget": modality.rows("forget", denoisers.records(2)[:2]), "retain": modality.rows("retain", denoisers.records(2)[4:8])}
    known = {k.name for k in build_plan.hyperparameters(name)}
    few = {"epochs": 1, "steps": 2, "batch_size": 2, "lr": 1e-3, "samples": 2, "alpha": 0.5, "against": "retain"}
    loop.run(build_plan.plan(name, {k: v for k, v in few.items() if k in known}), model, modality, sets)
    after = weights_of(model)
    assert any(not torch.equal(after[n], before[n]) for n in before)
    assert all(w.isfinite().all() for w in after.values())


def test_a_saliency_mask_works_under_any_objective_and_holds_the_other_weights() -> None:
    model, modality = denoisers.built()
    before = weights_of(model)
    sets = {"forget": modality.rows("forget", denoisers.records(2)[:2]), "retain": modality.rows("retain", denoisers.records(2)[4:8])}
    plan = Plan(Ascent() + NLL("retain"), train=Train(epochs=2, lr=1e-2, batch_size=2), updates=(Saliency(fraction=0.25),))
    loop.run((plan,), model, modality, sets)
    moved = sum(int((w != before[n]).sum()) for n, w in model.named_parameters())
    assert 0 < moved <= sum(p.numel() for p in model.parameters()) // 4


@pytest.mark.parametrize("name", ["salun", "fisher", "random_labels"])
def test_what_needs_classes_is_refused_in_a_sentence(name: str) -> None:
    _, modality = denoisers.built()
    with pytest.raises(UserError, match="rows with labels out of classes, which the modality 'diffusion' does not have"):
        check_capabilities(as_plans(build_plan.plan(name, {})), modality)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"image": np.zeros((8, 8, 3), np.uint8)}, "row 1: no caption; what the picture shows, in words, stands in a column caption"),
        ({"caption": 7, "image": np.zeros((8, 8, 3), np.uint8)}, "row 1, column 'caption': a caption is a text, and this is a number"),
        ({"caption": "a", "image": "gone.png"}, "row 1: there is no image file gone.png"),
        ({"caption": "a", "image": b"no picture"}, "row 1: not an image that can be read"),
        (
            {"caption": "a", "image": np.zeros((4, 9, 3), np.uint8)},
            r"row 1: a picture of 4 x 9 pixels \(height, width\), and the model draws 8",
        ),
    ],
)
def test_records_that_do_not_fit_are_named(record: dict[str, Any], message: str) -> None:
    _, modality = denoisers.built()
    with pytest.raises(UserError, match=message):
        modality.rows("forget", [record], "f.jsonl")


def test_larger_pictures_are_cut_and_counted() -> None:
    _, modality = denoisers.built()
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:, 8:16] = 255
    records = Records([{"image": picture, "caption": "a"}], "f.jsonl")
    rows = modality.rows("forget", records)
    assert rows["picture"][0].shape == (3, 8, 8)
    assert rows["picture"][0][0, 4].tolist()[3:5] == [255, 255]
    assert records.notes == ["1 of 1 pictures of 'forget' were scaled and cut to the 8 x 8 pixels that the model draws"]


def test_long_captions_are_counted_and_synonyms_name_a_class() -> None:
    _, modality = denoisers.built()
    records = Records([{"prompt": "a red bar " * 9}, {"prompt": "a red bar"}], "f.jsonl")
    modality.rows("forget", records)
    assert records.notes == ["1 of 2 captions of 'forget' are longer than the 16 tokens that are read"]
    assert class_name("carp", ("tench, carp", "eel"), "row 1") == "tench, carp"
    with pytest.raises(UserError, match=r"row 1: the model has no class 'eels'; did you mean 'eel'\?"):
        class_name("eels", ("tench, carp", "eel"), "row 1")


def test_a_concept_that_no_caption_names_is_refused() -> None:
    _, modality = denoisers.built()
    rows = modality.rows("forget", denoisers.records(1))
    assert modality.naming(rows, "Bar")["caption"] == ["a red bar", "a green bar", "a blue bar"]
    with pytest.raises(UserError, match=r"forget: none of 6 captions holds 'squar'; did you mean 'square'\?"):
        modality.naming(rows, "squar")


def test_prompts_alone_are_no_pictures_to_learn_from() -> None:
    model, modality = denoisers.built()
    rows = modality.rows("forget", [{"prompt": "a red bar"}])
    assert rows["picture"] == [None]
    with pytest.raises(UserError, match="rows of 'forget' are prompts alone, and this learns from pictures"):
        modality.forward(model, [rows])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_encoder": [None, None]}, "reads captions, and the pipeline has no text encoder: add it"),
        ({"tokenizer": [None, None]}, "reads captions, and the pipeline has no tokenizer: add it"),
        ({"text_encoder_2": ["transformers", "T5EncoderModel"]}, "with text_encoder_2, which are not supported"),
        ({"unet": [None, None]}, "holds no denoiser"),
        ({"unet": ["somewhere", "OwnDenoiser"]}, "OwnDenoiser is no part of a pipeline that is supported"),
        ({"scheduler": ["diffusers", "HeunScheduler"]}, "the installed diffusers has no HeunScheduler"),
    ],
)
def test_pipelines_that_do_not_load_say_why(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    model, modality = denoisers.built()
    modality.save(model, tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({**index, **change}))
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_without_diffusers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers.utils", None)
    with pytest.raises(UserError, match=r"diffusion models need diffusers: pip install 'expunge\[diffusion\]'"):
        class_of("UNet2DConditionModel")


def test_pickled_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    model, modality = denoisers.built()
    modality.save(model, tmp_path)
    file = tmp_path / "unet" / "diffusion_pytorch_model.safetensors"
    shutil.copy(file, tmp_path / "kept")
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"(cannot load the unet|the unet) of .* "):
        load(tmp_path)
    file.unlink()
    (tmp_path / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="no safetensors weights; pickled ones can run code"):
        load(tmp_path)
