"""`expunge train`: a model from rows, kept by content so that the same work is done once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

import expunge as package
import worlds
from cases import Cases, Done, expunge, left, receipt_of, rows_of
from expunge.core.errors import Interrupted
from expunge.engine.hooks import Hooks
from expunge.io.models import load
from expunge.workflows.train import train

QUICK = ("--epochs", 1)


def trained(cases: Cases, out: Path, *more: object, data: object = "", model: object = "nano") -> Done:
    return expunge("train", "--data", data or cases.forget, "--model", model, "--out", out, *QUICK, *more)


def test_a_built_in_size_is_trained(cases: Cases, tmp_path: Path) -> None:
    done = trained(cases, tmp_path / "run").fine()
    assert done.out == f"trained nano for 1 steps; the model is in {tmp_path / 'run' / 'model'}\n"
    assert left(tmp_path) == ["run"]
    assert left(tmp_path / "run") == ["log.jsonl", "model", "receipt.json"]
    AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    receipt = receipt_of(tmp_path / "run")
    assert (receipt["method"], receipt["model"]["source"]) == ("finetune", "nano")
    assert receipt["stages"][0]["hyperparameters"]["plan.lr"] == 5e-3  # what this size wants, where nothing else is said
    assert receipt["request"]["sets"] == {"retain": 9}
    cases.audit(tmp_path / "run", tmp_path / "audit").fine()


def test_a_models_folder_is_trained_on(cases: Cases, tmp_path: Path) -> None:
    before = load(cases.model)
    trained(cases, tmp_path / "run", "--lr", 1e-3, "--prompt-format", "Q: {prompt}\\nA: ", data=cases.holdout, model=cases.model).fine()
    after = load(tmp_path / "run")
    assert after.modality.about()["prompt_format"] == "Q: {prompt}\nA: "
    rows = after.modality.rows("holdout", rows_of(cases.holdout))
    assert worlds.nll(after.model, after.modality, rows) < worlds.nll(before.model, after.modality, rows)


def test_the_same_work_is_done_once(cases: Cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hyperparameters: dict[str, Any] = {"epochs": 1, "cache": tmp_path / "cache"}
    first = train(cases.forget, "nano", **hyperparameters)
    started = time.monotonic()
    monkeypatch.setattr("expunge.workflows.train.unlearn", None)
    again = train(rows_of(cases.forget), "nano", out=tmp_path / "copy", **hyperparameters)
    assert time.monotonic() - started < 20
    assert again.receipt == first.receipt
    assert worlds.same(worlds.tensors(first.model), worlds.tensors(again.model))
    with pytest.raises(TypeError):  # other work
        train(cases.forget, "nano", seed=1, **hyperparameters)


@pytest.mark.slow
def test_models_that_are_compared_share_a_vocabulary(cases: Cases, tmp_path: Path) -> None:
    for name, data in (("original", cases.forget), ("retrained", cases.holdout)):
        trained(cases, tmp_path / name, "--vocabulary", cases.retain, data=data).fine()
    cases.audit(tmp_path / "original", tmp_path / "audit", "--retrained", tmp_path / "retrained").fine()


def test_what_was_stopped_goes_on(cases: Cases, tmp_path: Path) -> None:
    hyperparameters: dict[str, Any] = {"epochs": 4, "batch_size": 5}
    with pytest.raises(Interrupted):
        train(cases.forget, "nano", cache=tmp_path, hooks=Hooks(interrupted=lambda: True), **hyperparameters)
    again = train(cases.forget, "nano", cache=tmp_path, **hyperparameters)
    assert [r["done"] for r in rows_of(again.folder / "log.jsonl") if "loss" in r] == list(range(1, 9))  # type: ignore[operator]
    whole = train(cases.forget, "nano", cache=tmp_path / "other", **hyperparameters)
    assert worlds.same(worlds.tensors(again.model), worlds.tensors(whole.model))


def test_ctrl_c_leaves_what_the_same_command_goes_on_from(cases: Cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def stopping() -> Iterator[Any]:
        yield lambda: True

    monkeypatch.setattr("expunge.cli.console.interruptible", stopping)
    done = trained(cases, tmp_path / "run", "--batch-size", 5, "--seed", 7)
    assert (done.code, done.err.splitlines()[-1]) == (130, "stopped; the same command continues from here")
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    trained(cases, tmp_path / "run", "--batch-size", 5, "--seed", 7).fine()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "{forget}"], "missing option --out"),
        (["--out", "{tmp}/run"], "missing option --data"),
        (["--data", "{folder}/forgot.jsonl", "--out", "{tmp}/run"], "{folder}/forgot.jsonl does not exist; did you mean 'forget.jsonl'"),
        (["--data", "{forget}", "--out", "{tmp}/run", "--model", "{folder}/orignal"], "there is no folder {folder}/orignal; did you mean"),
        (["--data", "{forget}", "--out", "{tmp}/run", "--epoch", "3"], "there is no hyperparameter 'epoch' here; did you mean 'epochs'"),
        (["--data", "{forget}", "--out", "{tmp}/run", "--lr", "0"], "the weights did not change: is the learning rate or the number"),
        (["--data", "{forget}", "--out", "{tmp}/run", "--sed", "1"], "there is no option or hyperparameter --sed; did you mean --seed?"),
    ],
    ids=lambda x: " ".join(x[-2:]) if isinstance(x, list) else "",
)
def test_training_that_is_refused(words: list[str], message: str, cases: Cases, tmp_path: Path) -> None:
    names = {"folder": cases.folder, "forget": cases.forget, "tmp": tmp_path}
    model = () if "--model" in words else ("--model", "nano")
    assert expunge("train", *model, *(w.format(**names) for w in words)).error.startswith(message.format(**names))
    assert not (tmp_path / "run").exists()


def test_only_runs_are_replaced(cases: Cases, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert trained(cases, tmp_path).error == f"the run folder {tmp_path} exists: give another one, or replace it with --overwrite"
    assert "'notes.txt', which is not part of a run" in trained(cases, tmp_path, "--overwrite").error
    run = tmp_path / "run"
    trained(cases, run).fine()
    assert f"lies in {run}, which --overwrite would replace" in trained(cases, run, "--overwrite", model=run / "model").error
    trained(cases, run, "--overwrite", "--seed", 1).fine()
    assert receipt_of(run)["seed"] == 1


def test_python_trains_without_a_folder_of_ones_own(cases: Cases) -> None:
    result = package.train(rows_of(cases.forget), "nano", epochs=1)
    assert result.folder is not None
    assert package.load(result.folder).modality.about()["modality"] == "text"


def test_a_model_is_trained_under_a_lock_of_its_own(cases: Cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    unlearn = package.unlearn

    @contextmanager
    def lock(path: Path) -> Iterator[None]:
        events.append(f"lock {path.name}")
        yield
        events.append("release")

    def counted(*args: Any, **options: Any) -> Any:
        events.append("train")
        return unlearn(*args, **options)

    monkeypatch.setattr("expunge.workflows.train.FileLock", lock)
    monkeypatch.setattr("expunge.workflows.train.unlearn", counted)
    first = train(cases.forget, str(cases.model), epochs=1, cache=tmp_path)
    assert first.folder is not None
    assert events == [f"lock {first.folder.name}", "train", "release"]
    train(cases.forget, str(cases.model), epochs=1, cache=tmp_path)
    assert events[3:] == [f"lock {first.folder.name}", "release"], "who waited finds the model"
