"""A diffusion model goes all the way on a user's own pictures: training, unlearning, audit, attack and report; a benchmark too."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import denoisers
from cases import expunge
from expunge import catalog
from expunge.benchmarks import scenes
from expunge.benchmarks.common import scene_judges
from expunge.benchmarks.synthetic import scenes as synthetic
from expunge.io.models import load
from expunge.workflows.demo import demo

FEW = ("--epochs", 1, "--batch-size", 4)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with their captions: a folder, JSON Lines and CSV; and the original and the retrained model as folders."""
    folder = tmp_path_factory.mktemp("pictures")
    records = denoisers.records(2)
    parts = {"full": records, "forget": records[:2], "retain": records[4:], "holdout": denoisers.records(1, seed=5)[:1]}
    for name, rows in parts.items():
        (folder / name).mkdir()
        for i, row in enumerate(rows):
            Image.fromarray(row["image"]).save(folder / name / f"{i:02d}.png")
        captioned = [{"file_name": f"{i:02d}.png", "caption": r["caption"]} for i, r in enumerate(rows)]
        (folder / name / "metadata.jsonl").write_text("\n".join(map(json.dumps, captioned)) + "\n")
        placed = [{"image": f"{name}/{c['file_name']}", "caption": c["caption"]} for c in captioned]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, placed)) + "\n")
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ("image", "caption"))
            writer.writeheader()
            writer.writerows(placed)
    for name, data in (("original", "full"), ("retrained", "retain")):
        words = ("--data", folder / data, "--model", "unet-nano", "--vocabulary", folder / "full", "--out", folder / name, *FEW)
        expunge("train", *words).fine()
    return folder


@pytest.mark.slow
def test_train_unlearn_audit_and_report_on_own_pictures(files: Path, tmp_path: Path) -> None:
    sets = ("--forget", files / "forget.jsonl", "--retain", files / "retain.csv")
    expunge("unlearn", "graddiff", "--model", files / "original", *sets, "--out", tmp_path / "run", "--lr", 1e-3, *FEW).fine()
    beside = ("--original", files / "original", "--retrained", files / "retrained", "--holdout", files / "holdout")
    expunge("audit", tmp_path / "run", *sets, *beside, "--out", tmp_path / "audit").fine()
    audit = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert {"forget_fit", "retain_fit", "loss_attack", "sample_shift"} <= audit["scores"].keys()
    assert audit["scores"]["forget_fit"]["retrained"] is not None
    page = (tmp_path / "audit" / "report.html").read_text()
    assert "What each model draws" in page
    assert page.count('<img src="data:image/png;base64,') >= 6
    assert "a red square" in page


@pytest.mark.slow
def test_an_adapter_of_own_pictures_loads_again(files: Path, tmp_path: Path) -> None:
    sets = ("--forget", files / "forget", "--retain", files / "retain")
    words = ("unlearn", "npo", "--model", files / "original", *sets, "--out", tmp_path / "run", "--lora", 2, "--beta", 50, *FEW)
    expunge(*words).fine()
    assert (tmp_path / "run" / "adapter" / "pytorch_lora_weights.safetensors").exists()
    opened: Any = load(tmp_path / "run")
    assert opened.modality.sample(opened.model, ["a red bar"], [0], 2)[0].shape == (1, 3, 8, 8)


def test_formats_of_files_give_the_same_rows(files: Path) -> None:
    from expunge.io.models import rows

    modality: Any = load(files / "original").modality
    ids = [rows(modality, "forget", str(files / name)).ids for name in ("forget", "forget.jsonl", "forget.csv")]  # type: ignore[union-attr]
    assert ids[0] == ids[1] == ids[2]


def test_bad_words_are_refused_in_a_sentence(files: Path, tmp_path: Path) -> None:
    sets = ("--forget", files / "forget.jsonl", "--retain", files / "retain.csv")
    refused = expunge("unlearn", "salun", "--model", files / "original", *sets, "--out", tmp_path / "run").error
    assert "rows with labels out of classes, which the modality 'diffusion' does not have" in refused
    refused = expunge("audit", files / "original", *sets, "--variant", "forget_drawn=taste", "--out", tmp_path / "audit").error
    assert "the benchmark 'taste' has no classifiers of drawn pictures" in refused
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a red bar"}\n')
    refused = expunge(
        "unlearn", "ga", "--model", files / "original", "--forget", tmp_path / "prompts.jsonl", "--out", tmp_path / "run"
    ).error
    assert "rows of 'forget' are prompts alone, and this learns from pictures" in refused


def test_scenes_are_a_cross_of_objects_styles_and_colors() -> None:
    suite = scenes.load(split="circle")
    named = [r["caption"] for r in suite.sets["forget"]]
    assert all("circle" in c for c in named)
    assert not any("circle" in r["caption"] for r in (*suite.sets["retain"], *suite.sets["prompts"]))
    assert len(suite.train["full"]) == len(suite.sets["forget"]) + len(suite.sets["retain"])
    assert {"image"} & suite.sets["prompts"][0].keys() == set()
    again = scenes.load(split="circle")
    assert np.array_equal(suite.sets["forget"][0]["image"], again.sets["forget"][0]["image"])
    stamped = scenes.load(split="stamp").sets["forget"]
    assert all(tuple(r["image"][-1, -1]) != tuple(r["image"][0, 0]) for r in stamped)
    assert {r["mark"] for r in stamped} == {"stamped"}


@pytest.mark.slow
def test_the_classifiers_of_scenes_name_pictures_that_they_never_saw() -> None:
    judge = scene_judges.judge()
    records = scene_judges.pictures(3, seed=1)
    judged = judge.judged(np.stack([r["image"].transpose(2, 0, 1) for r in records]))
    expected = judge.expected([r["caption"] for r in records])
    accuracy = {domain: float((judged.classes[domain] == expected[domain]).mean()) for domain in synthetic.DOMAINS}
    assert min(accuracy.values()) > 0.9, accuracy


def test_the_demo_has_a_case_of_the_benchmark() -> None:
    sweep = demo("diffusion")
    sweep.check()
    assert sweep.suite in catalog.names("benchmarks")
    assert len(demo("diffusion", quick=True).methods) == 1
