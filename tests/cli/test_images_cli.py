"""Classifiers from the command line: arrays and folders of pictures in, models that load anywhere out, one sentence for what cannot be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from sklearn.datasets import load_digits
from torch import nn
from transformers import AutoModelForImageClassification

import expunge as package
import worlds
from cases import Done, expunge, left, receipt_of
from classified import digits as records
from expunge.core.errors import UserError
from expunge.evaluation.audited_models import spread
from expunge.io.data import write_jsonl
from expunge.workflows.train import train

TRAIN, TEST = slice(0, 360), slice(360, 480)


@dataclass(frozen=True)
class Files:
    """`train.npz` and `test.npz`, `pictures` with a folder a class, models `original` and `retrained` (without the threes)."""

    folder: Path

    def __getitem__(self, name: str) -> str:
        return str(self.folder / name)

    @property
    def threes(self) -> tuple[str, ...]:
        return ("--forget", self["train.npz::label=3"], "--retain", self["train.npz::label!=3"], "--holdout", self["test.npz"])

    def unlearn(self, method: str, out: Path, *more: object, model: str = "original") -> Done:
        steps = () if "--epochs" in more else ("--steps", 2)
        return expunge("unlearn", method, "--model", self[model], *self.threes, "--out", out, *steps, "--lr", 1e-3, *more)

    def train(self, data: str, out: Path, *more: object, model: str = "vit-nano") -> Done:
        return expunge("train", "--data", self[data], "--model", model, "--out", out, "--steps", 2, *more)


@pytest.fixture(scope="module")
def files(digits: worlds.World, tmp_path_factory: pytest.TempPathFactory) -> Files:
    """The rows of the tiny world of digits as a user has them: whole numbers from 0 to 255."""
    folder, data = tmp_path_factory.mktemp("images"), load_digits()
    images = (data.images * 255 / 16).round().astype(np.uint8)
    for name, part in (("train", TRAIN), ("test", TEST)):
        np.savez(folder / f"{name}.npz", image=images[part], label=data.target[part])
    for i in range(30):
        place = folder / "pictures" / str(data.target[i])
        place.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(images[i]).save(place / f"{i}.png")
    for name in ("original", "retrained"):
        digits.modality.save(digits.model(name), folder / name)
    return Files(folder)


def names_of(folder: Path) -> list[str]:
    """What the library reads as the names of the classes."""
    return list(AutoModelForImageClassification.from_pretrained(folder / "model").config.id2label.values())


def audited(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "audit.json").read_text()))


# Training


def test_a_built_in_size_is_trained_on_arrays(files: Files, tmp_path: Path) -> None:
    done = files.train("train.npz", tmp_path / "run", model="resnet-nano").fine()
    assert done.out == f"trained resnet-nano for 2 steps; the model is in {tmp_path / 'run' / 'model'}\n"
    assert left(tmp_path / "run") == ["log.jsonl", "model", "receipt.json"]
    assert names_of(tmp_path / "run") == list("0123456789")
    receipt = receipt_of(tmp_path / "run")
    assert (receipt["request"]["sets"], receipt["modality"]["modality"]) == ({"retain": 360}, "image")
    assert receipt["stages"][0]["hyperparameters"]["plan.lr"] == 2e-3  # what this size wants, where nothing else is said


def test_a_folder_of_pictures_gives_its_names_to_the_classes(files: Files, tmp_path: Path) -> None:
    files.train("pictures::label=3,5,8", tmp_path / "run").fine()
    assert names_of(tmp_path / "run") == list("012345678")  # numbers are places
    for old, new in (("3", "three"), ("5", "five")):
        shutil.copytree(files.folder / "pictures" / old, tmp_path / "named" / new)
    expunge("train", "--data", tmp_path / "named", "--model", "vit-nano", "--out", tmp_path / "two", "--steps", 1).fine()
    assert names_of(tmp_path / "two") == ["five", "three"]


def test_a_model_trained_without_a_class_is_told_its_names(files: Files, tmp_path: Path) -> None:
    files.train("pictures", tmp_path / "original").fine()
    files.train("pictures::label!=9", tmp_path / "short").fine()
    files.train("pictures::label!=9", tmp_path / "retrained", "--labels", 10).fine()
    assert len(names_of(tmp_path / "short")) == 9
    assert names_of(tmp_path / "retrained") == names_of(tmp_path / "original") == list("0123456789")
    sets = ("--forget", files["pictures::label=9"], "--retain", files["pictures::label!=9"], "--out", tmp_path / "audit")
    message = expunge("audit", tmp_path / "original", *sets, "--retrained", tmp_path / "short").error
    assert message.endswith("the model has no class of this name; it has 9, '0' first")
    expunge("audit", tmp_path / "original", *sets, "--retrained", tmp_path / "retrained").fine()
    assert audited(tmp_path / "audit")["scores"]["forget_accuracy"]["retrained"] is not None


def test_classes_are_named_and_other_names_are_another_model(files: Files, tmp_path: Path) -> None:
    some = "train.npz::label=0,1,2"
    files.train(some, tmp_path / "a", "--labels", "nought, one,two").fine()
    files.train(some, tmp_path / "b", "--labels", "null,eins,zwei").fine()
    assert names_of(tmp_path / "a") == ["nought", "one", "two"]
    assert names_of(tmp_path / "b") == ["null", "eins", "zwei"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels", 3], "train.npz, row 4: the model has no class of this number; it has 3, '0' first"),
        (["--labels", "a,b,a"], "the class 'a' is named twice"),
        (["--labels", 0], "a classifier has classes: give their names, or how many there are"),
        (["--prompt-format", "{prompt}"], "vit-nano is an image classifier, which has no prompts: leave --prompt-format out"),
    ],
    ids=lambda x: " ".join(map(str, x)) if isinstance(x, list) else "",
)
def test_training_that_is_refused(words: list[object], message: str, files: Files, tmp_path: Path) -> None:
    assert files.train("train.npz", tmp_path / "run", *words).error.endswith(message)
    assert not (tmp_path / "run").exists()


def test_files_are_found_from_where_their_names_are_written(files: Files, tmp_path: Path) -> None:
    pictures = sorted((files.folder / "pictures").glob("*/*.png"))
    lines = [{"image": str(p.relative_to(files.folder)), "label": p.parent.name, "who": f"w{i % 3}"} for i, p in enumerate(pictures)]
    write_jsonl(files.folder / "listed.jsonl", lines)
    files.train("listed.jsonl", tmp_path / "run").fine()
    sets = ("--forget", files["listed.jsonl::who=w1"], "--retain", files["listed.jsonl::who!=w1"], "--out", tmp_path / "forgot")
    expunge("unlearn", "graddiff", "--model", tmp_path / "run", *sets, "--steps", 1, "--lr", 1e-3).fine()
    assert receipt_of(tmp_path / "forgot")["request"]["sets"] == {"forget": 10, "retain": 20}


def test_training_that_runs_away_is_said(files: Files, tmp_path: Path) -> None:
    done = files.train("train.npz", tmp_path / "run", "--lr", 1e30, model="resnet-nano").fine()
    assert "warning: the loss or its gradient was not finite at epoch 1, step 2" in done.out + done.err


def test_a_first_row_that_is_bad_is_named_too(files: Files, tmp_path: Path) -> None:
    write_jsonl(files.folder / "broken.jsonl", [{"image": "train.npz", "label": 1}])
    assert "broken.jsonl, row 1: not an image that can be read" in files.train("broken.jsonl", tmp_path / "run").error
    write_jsonl(files.folder / "unnamed.jsonl", [{"image": "train.npz"}])
    assert "unnamed.jsonl, row 1: no class; it stands in" in files.train("unnamed.jsonl", tmp_path / "run").error
    assert "did you mean 'vit-nano'" in files.train("train.npz", tmp_path / "run", model="vit-nanno").error


# Forgetting, and what it was worth


@pytest.mark.slow
def test_the_whole_way_of_a_deletion_request(files: Files, tmp_path: Path) -> None:
    done = files.unlearn("graddiff", tmp_path / "run", "--epochs", 3).fine()
    assert f"next: expunge audit {tmp_path / 'run'} --forget {files['train.npz::label=3']}" in done.out
    assert receipt_of(tmp_path / "run")["request"]["sets"] == {"forget": 39, "retain": 321, "holdout": 120}
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "model").eval()
    images, label = (np.load(files["train.npz"])[n] for n in ("image", "label"))
    with torch.no_grad():
        predictions = model(pixel_values=torch.tensor(images[:, None] / 255, dtype=torch.float32)).logits.argmax(-1).numpy()
    beside = ("--original", files["original"], "--retrained", files["retrained"])
    done = expunge("audit", tmp_path / "run", *files.threes, *beside, "--limit", 0, "--out", tmp_path / "audit").fine()
    report = audited(tmp_path / "audit")
    assert report["scores"]["forget_accuracy"]["value"] == pytest.approx((predictions == label)[label == 3].mean())
    assert report["scores"]["retain_accuracy"]["value"] == pytest.approx((predictions == label)[label != 3].mean())
    assert report["scores"]["forget_accuracy"]["retrained"] == 0
    assert not report["skipped"]
    assert {"average_gap", "h_lr", "cka_original", "mia_efficacy", "zrf"} <= report["scores"].keys()
    assert "forget_accuracy" in done.out
    assert (tmp_path / "audit" / "report.html").exists()
    observations = tmp_path / "audit" / "observations"
    expunge("audit", observations / "original", "--retrained", observations / "retrained", "--out", tmp_path / "original").fine()
    assert audited(tmp_path / "original")["verdict"]["state"] == "not removed"


def test_an_adapter_on_a_transformer(files: Files, tmp_path: Path) -> None:
    files.unlearn("ga", tmp_path / "run", "--lora", 2).fine()
    assert left(tmp_path / "run") == ["adapter", "log.jsonl", "receipt.json"]
    expunge("audit", tmp_path / "run", *files.threes, "--controls", "--out", tmp_path / "audit").fine()
    report = audited(tmp_path / "audit")
    assert {"forget_accuracy", "knn_forget", "zrf"} <= report["scores"].keys()
    report_data = json.loads((tmp_path / "audit" / "story.json").read_text())
    assert [m["name"] for m in report_data["models"]] == ["audited model", "random weights"]  # a filter reads words


def test_forgetting_is_watched_and_its_best_epoch_kept(files: Files, tmp_path: Path) -> None:
    more = ("--epochs", 2, "--keep-best", "forget_accuracy", "--retrained", files["retrained"])
    files.unlearn("ga", tmp_path / "run", *more).fine()
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all({"forget_accuracy", "retain_accuracy"} <= r["scores"].keys() for r in lines if "scores" in r)
    assert [r for r in lines if "scores" in r]


@pytest.mark.slow
def test_attacks_on_a_classifier(files: Files, tmp_path: Path) -> None:
    done = expunge("attack", "mia_classifier", files["original"], *files.threes, "--out", tmp_path / "mia").fine()
    assert all(n in done.out for n in ("mia_loss", "mia_efficacy", "mia_threshold"))
    words = ("--retrained", files["retrained"], "--every", 2, "--steps", 2, "--out", tmp_path / "relearn")
    done = expunge("attack", "relearn", files["retrained"], *files.threes, *words).fine()
    assert "forget_accuracy" in done.out


@pytest.mark.slow
def test_relearning_and_rounding_of_a_classifier(files: Files, tmp_path: Path) -> None:
    """The same attacks as on a language model; those that ask in words say so."""
    names = [word for n in ("quantize", "relearn_grid", "reformat") for word in ("--attack", n)]
    beside = ("--original", files["original"], "--retrained", files["retrained"], "--limit", 0)
    hyperparameters = ("--relearn_grid:k", 2, "--n", 2, "--lr", 1e-3)
    expunge("audit", files["retrained"], *files.threes, *beside, *names, *hyperparameters, "--out", tmp_path / "audit").fine()
    attacks = audited(tmp_path / "audit")["attacks"]
    assert attacks["quantize"]["ways"]["8 bits"]["forget_accuracy"]["n"] == 39
    assert [t["case"] for t in attacks["relearn_grid"]["tries"]] == ["2 rows, 0 steps", "2 rows, 2 steps"] * 3
    assert attacks["reformat"]["missing"] == {"": "the rows ask nothing in words"}
    assert '<section id="robustness"' in (tmp_path / "audit" / "report.html").read_text()


@pytest.mark.slow
def test_a_benchmark_with_its_controls(tmp_path: Path) -> None:
    words = ("--split", "random10", "--train", "steps=2", "--steps", 1, "--limit", 40, "--no-relearn", "--lr", 1e-3)
    done = expunge("bench", "digits", "--methods", "ga,finetune", *words, "--out", tmp_path / "run").fine()
    record = json.loads((tmp_path / "run" / "bench.json").read_text())
    assert [e["name"] for e in record["entries"]] == ["original", "retrained", "random weights", "ga", "finetune"]
    assert all("forget_accuracy" in e["scores"] for e in record["entries"])
    assert "forget_accuracy" in (tmp_path / "run" / "table.md").read_text()
    assert "finetune" in done.out
    AutoModelForImageClassification.from_pretrained(tmp_path / "run" / "runs" / "ga" / "model")


# What a user can get wrong: each time one sentence, and nothing left behind


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--forget", "train.npz::label=33"],
            "train.npz::label=33: no row has the label '33'; the 360 rows have 10 different values there",
        ),
        (["--forget", "train.npz::labl=3"], "train.npz::labl=3: there is no column 'labl'; did you mean 'label'?"),
        (["--forget", "train.npz::rows=350-360"], "there are 360 rows, with the indices 0 to 359, so 350-360 is out of range"),
        (["--forget", "train.npz::rows=0-9", "--retain", "train.npz"], "10 of 360 rows of 'retain' also stand in 'forget'"),
        (["--forget", "pictures::rows=0-4", "--retain", "train.npz"], "5 of 360 rows of 'retain' also stand in 'forget'"),
        (
            ["--forget", "words.jsonl"],
            "row 1: no image; it stands in a column image, img, pixels, x, and this row has 'question', 'answer'",
        ),
        (["--forget", "eleven.npz"], "eleven.npz, row 1: the model has no class of this number; it has 10, '0' first"),
        (["--forget", "nobody.npz"], "nobody.npz, row 1: no class; it stands in a column label, labels, class, y, target, fine_label"),
        (["--forget", "large.npz", "--retain", "large.npz::rows=1"], "also stand in 'forget'"),
        (["--prompt-format", "Q: {prompt}"], "is an image classifier, which has no prompts: leave --prompt-format out"),
        (["--trainable", "decoder"], "no parameter of this model matches 'decoder', so nothing would train"),
        (["--update", "npo"], "'npo' has no update of its own to add"),
    ],
    ids=lambda x: " ".join(x[:2]) if isinstance(x, list) else "",
)
def test_a_request_that_is_refused(words: list[str], message: str, files: Files, tmp_path: Path) -> None:
    write_jsonl(files.folder / "words.jsonl", [{"question": "Who?", "answer": "Me."}])
    grey = np.zeros((2, 8, 8), np.uint8)
    np.savez(files.folder / "eleven.npz", image=grey, label=[11, 1])
    np.savez(files.folder / "nobody.npz", image=grey)
    np.savez(files.folder / "large.npz", image=np.zeros((2, 16, 16), np.uint8), label=[3, 4])
    arguments = [files[w] if (files.folder / w.split("::")[0]).exists() else w for w in words]
    assert message in files.unlearn("ga", tmp_path / "run", *arguments).error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", ["altpo", "input_filter"])
def test_a_method_for_words_is_refused(method: str, files: Files, tmp_path: Path) -> None:
    message = expunge("unlearn", method, "--model", files["original"], *files.threes, "--out", tmp_path / "run").error
    assert message.startswith("this method needs ")
    assert message.endswith(", which the modality 'image' does not have")
    assert not (tmp_path / "run").exists()


def test_an_audit_that_is_refused(files: Files, tmp_path: Path) -> None:
    message = expunge("audit", files["original"], "--forget", files["train.npz::label=x"], "--out", tmp_path / "a").error
    assert message.endswith("no row has the label 'x'; the 360 rows have 10 different values there")
    message = expunge("audit", files["original"], *files.threes, "--prompt-format", "{prompt}", "--out", tmp_path / "a").error
    assert message.endswith("leave --prompt-format out")
    message = expunge("bench", "digits", "--methods", "ga", "--split", "class33", "--out", tmp_path / "a").error
    assert message.startswith("digits have no split 'class33'")
    assert left(tmp_path) == []


# The same from Python


def test_how_many_classes_there_are_can_be_a_number(files: Files) -> None:
    result = train(records()["retain"][:20], "vit-nano", labels=12, steps=1)
    assert result.modality.about()["labels"] == 12
    with pytest.raises(UserError, match="the class 'a' is named twice"):
        train(records()["retain"][:20], "vit-nano", labels=["a", "a"], steps=1)


class Odd(nn.Module):
    """A classifier that does not say how its own parameter begins."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.last = nn.Linear(64, 10)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.scale * pixels.flatten(1))
        return out


def test_any_module_is_audited_without_what_it_cannot_give() -> None:
    torch.manual_seed(0)
    opened = package.classifier(Odd(), 10)
    done = package.audit(opened, *(records()[n][:30] for n in ("forget", "retain", "holdout")))
    assert done.skipped["zrf"] == "no model with random weights was given"
    assert done.scores["knn_retain"]["value"] <= 1


def rows_of(labels: Sequence[Any], **more: Any) -> list[dict[str, Any]]:
    return [{"image": i, "label": y, **more} for i, y in enumerate(labels)]


def test_few_rows_still_hold_every_class() -> None:
    """Or else a class of which little is retained would pass for one that is forgotten altogether."""
    rows = rows_of([0] * 50 + [1] + [0] * 50 + [2] + [0] * 50)
    assert sorted(r["label"] for r in spread(rows, 5)) == [0] * 5 + [1, 2]
    assert [r["image"] for r in spread(rows, 5)][:5] == [0, 30, 60, 91, 121]
    assert spread(rows, 0) is rows
    assert len(spread([{"question": str(i), "label": i} for i in range(100)], 5)) == 5  # rows that are no images have no classes
