"""Concepts are erased from pipelines by the command line and by the package, from prompts alone or from pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import denoisers
from cases import expunge
from expunge import UserError
from expunge.engine.validate import check_capabilities
from expunge.engine.weights import weights_of
from expunge.io.models import load
from expunge.workflows import build_plan
from expunge.workflows.unlearn import unlearn


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny pipeline in the layout of Stable Diffusion, and prompts in files beside it."""
    folder = tmp_path_factory.mktemp("erasing")
    denoisers.stable_diffusion(folder / "model")
    for name, captions in (("forget", ("a red square", "a red bar")), ("retain", ("a green bar", "a blue square"))):
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps({"prompt": c}) for c in captions) + "\n")
    return folder


def files(pipeline: Path, *names: str) -> list[object]:
    return [word for n in names for word in (f"--{n}", pipeline / f"{n}.jsonl")]


def moved(pipeline: Path, folder: Path) -> set[str]:
    before, after = weights_of(load(pipeline / "model").model), weights_of(load(folder).model)
    return {n for n in before if not torch.equal(before[n], after[n])}


PROMPTS_ALONE: dict[str, tuple[tuple[str, ...], tuple[object, ...]]] = {
    "uce": (("forget", "retain"), ("--concept", "red", "--guide", "green")),
    "esd": (("forget",), ("--concept", "red", "--steps", 1, "--sampling-steps", 2, "--lr", 1e-2)),
    "advunlearn": (("forget", "retain"), ("--steps", 1, "--sampling-steps", 2, "--attack-warmup", 0, "--attack-steps", 1, "--lr", 1e-2)),
}


@pytest.mark.parametrize("name", PROMPTS_ALONE)
def test_the_command_line_erases_from_prompts_alone(name: str, pipeline: Path, tmp_path: Path) -> None:
    sets, options = PROMPTS_ALONE[name]
    expunge("unlearn", name, "--model", pipeline / "model", *files(pipeline, *sets), "--out", tmp_path / "run", *options).fine()
    names = moved(pipeline, tmp_path / "run")
    assert names
    assert all(n.startswith("text_encoder") if name == "advunlearn" else "attn2" in n for n in names)
    receipt = (tmp_path / "run" / "receipt.json").read_text()
    assert "a red square" not in receipt


def test_a_guard_is_saved_loaded_and_draws(pipeline: Path, tmp_path: Path) -> None:
    options = ("--concept", "red", "--adapter.steps", 1, "--sampling-steps", 2, "--warmup", 0, "--lr", 1e-1)
    expunge("unlearn", "spm", "--model", pipeline / "model", *files(pipeline, "forget"), "--out", tmp_path / "run", *options).fine()
    opened: Any = load(tmp_path / "run")
    bare: Any = load(pipeline / "model")
    latents = opened.modality.sample(opened.model, ["a red square"], [1], 2)[0]
    assert not torch.equal(latents, bare.modality.sample(bare.model, ["a red square"], [1], 2)[0])
    assert moved(pipeline, tmp_path / "run") == set()


def test_a_concept_that_no_prompt_contains_is_a_sentence(pipeline: Path, tmp_path: Path) -> None:
    done = expunge(
        "unlearn", "esd", "--model", pipeline / "model", *files(pipeline, "forget"), "--concept", "purple", "--out", tmp_path / "run"
    )
    assert "no caption of the rows to forget contains the concept 'purple'" in done.error


def test_the_package_takes_prompts_too(pipeline: Path, tmp_path: Path) -> None:
    result = unlearn("fmn", pipeline / "model", forget=denoised_records(), steps=1, lr=1e-2, out=tmp_path / "run")
    assert result is not None
    assert moved(pipeline, tmp_path / "run")


def denoised_records() -> list[dict[str, Any]]:
    """Pictures of the size of the pipeline."""
    return [{**r, "image": r["image"].repeat(2, 0).repeat(2, 1)} for r in denoisers.records(1)[:2]]


def test_models_that_read_no_captions_are_refused_in_a_sentence(tmp_path: Path) -> None:
    opened = load(denoisers.diffusion_transformer(tmp_path))
    sets = {"forget": opened.modality.rows("forget", [{"label": "red"}]), "retain": opened.modality.rows("retain", [{"label": "blue"}])}
    from expunge.engine import loop

    for name, message in (("uce", "no text encoder"), ("esd", "no parameter of this model matches")):
        with pytest.raises(UserError, match=message):
            loop.run(build_plan.plan(name, {}), opened.model, opened.modality, sets)
    before = weights_of(opened.model)
    few = {"layers": "full", "steps": 1, "sampling_steps": 2, "lr": 1e-2}
    loop.run(build_plan.plan("esd", few), opened.model, opened.modality, sets)
    assert any(not torch.equal(w, before[n]) for n, w in weights_of(opened.model).items())


def test_other_modalities_are_refused_in_a_sentence() -> None:
    from expunge.modalities.image.modality import Image

    with pytest.raises(UserError, match="needs pictures that the model makes out of noise"):
        check_capabilities(build_plan.plan("esd", {}), Image(("a", "b")))
