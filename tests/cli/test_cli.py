"""The command line itself: lists, cards, help, reports; and everything that a user can get wrong, each with one clear sentence."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cases import Cases, expunge, left, receipt_of, rows_of
from expunge import catalog
from expunge.io.data import write_jsonl
from expunge.modalities.text.modality import Text
from expunge.modalities.text.models import llama

# What there is


def test_names_for_programs_and_for_people() -> None:
    listed = json.loads(expunge("list", "--json").fine().out)
    assert listed.keys() == set(catalog.kinds())
    assert {"name": "npo", "status": catalog.card("npo").status, "summary": catalog.card("npo").headline} in listed["methods"]
    assert json.loads(expunge("list", "attacks", "--json").fine().out) == listed["attacks"]
    output = expunge("list").fine().out
    assert all(f"  {r['name']} " in output for rows in listed.values() for r in rows)
    assert expunge("list", "method").error == "there is no kind of thing called 'method'; did you mean 'methods'?"


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in catalog.kinds() for n in catalog.names(k)])
def test_every_card_is_printed_whole(kind: str, name: str) -> None:
    output = expunge("show", name).fine().out
    card = catalog.card(name, kind)
    assert f"{name} ({kind[:-1]}, {card.folder}/{name}.py)\n\n{card.summary}\n" in output  # one name may be of several kinds
    assert all(f"{key}: {text}\n" in output for key, text in card.fields.items())  # brackets of equations included


def test_a_card_that_is_not_there() -> None:
    assert expunge("show", "npoo").error.startswith("nothing here is called 'npoo'; did you mean 'npo'")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["unlearn", "npo", "--help"], ["--beta", "0.1", "> 0", "inverse temperature", "--epochs", "--checkpoint-every"]),
        (["unlearn", "--help"], ["--forget", "--prompt-format", "METHOD"]),
        (["train", "--help"], ["--vocabulary", "--epochs", "passes over the anchor set"]),
        (["attack", "relearn", "--help"], ["--every", "--k", "attacker"]),
        (["attack", "mia", "--help"], ["--holdout"]),
        (["--help"], ["unlearn", "audit", "Remove the influence of chosen training data"]),
    ],
    ids=" ".join,
)
def test_help_shows_hyperparameters_with_their_ranges(words: list[str], shown: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    output = " ".join(expunge(*words).fine().out.lower().split())  # a narrow terminal wraps lines
    assert [s for s in shown if s.lower() not in output] == []


# Reports


def test_one_report_of_one_run_or_of_several(cases: Cases, tmp_path: Path) -> None:
    for name in ("first", "second"):
        cases.unlearn("ga", tmp_path / name).fine()
    cases.audit(tmp_path / "first", tmp_path / "audit", "--original", cases.model).fine()
    assert expunge("report", tmp_path / "first").fine().out == f"report: {tmp_path / 'first' / 'report.html'}\n"
    page = (tmp_path / "first" / "report.html").read_text()
    assert "This run has not been audited" in page
    (tmp_path / "audit" / "report.html").unlink()
    expunge("report", tmp_path / "audit").fine()
    assert (tmp_path / "audit" / "report.html").exists()
    runs = (tmp_path / "audit", tmp_path / "first", tmp_path / "second")
    expunge("report", *runs, "--out", tmp_path / "all.html").fine()
    page = (tmp_path / "all.html").read_text()
    assert "ga (second)" in page
    assert "original" in page
    cases.unlearn("ga", tmp_path / "first", "--overwrite").fine()  # a report in a run folder is part of the run


def test_reports_that_are_refused(cases: Cases, tmp_path: Path) -> None:
    assert expunge("report", tmp_path / "nowhere").error == f"there is no folder {tmp_path / 'nowhere'}"
    expected = f"{cases.model} holds no finished run: there is neither a story.json nor a receipt.json in it"
    assert expunge("report", cases.model).error == expected


# What a user can get wrong with `unlearn`: each time one sentence, exit code 2, and nothing left behind


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return tmp_path / "out" / "run"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--betta", 1], "there is no hyperparameter 'betta' here; did you mean 'beta'?"),
        (["--forgett", "x"], "there is no option or hyperparameter --forgett; did you mean --forget?"),
        (["--beta", "-3"], "hyperparameter 'beta' = '-3': input should be greater than 0"),
        (["--beta", "much"], "hyperparameter 'beta' = 'much': input should be a valid number, unable to parse string as a number"),
        (["--beta"], "the hyperparameter --beta needs a value"),
        (["--beta", "--epochs", 1], "the hyperparameter --beta needs a value"),
        (["--prompt-format", "--epochs"], "--prompt-format needs a value, but --epochs follows it"),
        (["much"], "unexpected argument 'much': hyperparameters are given as --NAME VALUE"),
        (["--schedule", "lineal"], "hyperparameter 'schedule' = 'lineal': input should be 'linear', 'constant' or 'cosine'"),
        (["--select", "idkk"], "there is no method called 'idkk'; did you mean 'idk'"),
        (["--update", "npo"], "'npo' has no update of its own to add"),
        (["--prompt-format", "Q:"], "the prompt format must contain {prompt}, for instance 'Question: {prompt}\\nAnswer: '; this is 'Q:'"),
        (["--lr", 0], "the weights did not change: is the learning rate or the number of steps 0?"),
        (["--steps", 0, "--epochs", 0], "the weights did not change: is the learning rate or the number of steps 0?"),
        (["--trainable", "nothing"], "no parameter of this model matches 'nothing', so nothing would train"),
        (["--keep-best", "forget_qualty"], "cannot keep the best 'forget_qualty': there is no such score; did you mean 'forget_quality'"),
        (["--keep-best", "forget_quality"], "cannot keep the best 'forget_quality': no retrained model was given"),
        (["--keep-best", "forget_rouge"], "cannot keep the best 'forget_rouge': forget: "),
        (["--keep-best", "forget_probability"], "'forget_probability' is best where it is as in the retrained model: give one with"),
    ],
    ids=lambda x: " ".join(map(str, x)) if isinstance(x, list) else "",
)
def test_wrong_words(words: list[Any], message: str, run: Path, cases: Cases) -> None:
    assert cases.unlearn("npo", run, *words).error.startswith(message)
    assert not run.exists()


def test_missing_words(run: Path, cases: Cases) -> None:
    assert expunge("unlearn", "npoo").error == "there is no method called 'npoo'; did you mean 'npo' or 'simnpo' or 'pop'?"
    assert expunge("unlearn", "npo").error == "missing options --model and --out"
    assert expunge("unlearn", "npo", "--mdoel", cases.model).error == "there is no option or hyperparameter --mdoel; did you mean --model?"
    arguments = ("unlearn", "npo", "--model", cases.model, "--out", run)
    assert expunge(*arguments).error == "this method reads rows to 'forget', and the request brings nothing: give --forget"
    message = expunge(*arguments, "--forget", cases.forget).error
    assert message == "this method reads rows to 'retain', and the request brings forget: give --retain"
    assert expunge(*arguments, "--forget", cases.forget, "--evaluate").error == message
    assert expunge(*arguments, "--retain", cases.retain).error.endswith("and the request brings retain: give --forget")
    assert expunge("unlearn").error == "missing argument METHOD, e.g. expunge unlearn npo: see expunge list methods"
    assert expunge("nosuch").code == 2
    assert not run.exists()


def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_models_that_are_not_there(run: Path, cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    offline(monkeypatch)
    monkeypatch.chdir(cases.folder)
    near = "; did you mean 'original'?"
    assert cases.unlearn("ga", run, model="./orignal").error == f"there is no folder ./orignal{near}"
    assert cases.unlearn("ga", run, model=cases.path("orignal")).error == f"there is no folder {cases.path('orignal')}{near}"
    unreachable = "here, and the hub cannot be reached to look for it there"
    assert cases.unlearn("ga", run, model="orignal").error == f"there is no folder orignal {unreachable}{near}"
    assert cases.unlearn("ga", run, model="nobody/nothing").error == f"there is no folder nobody/nothing {unreachable}"
    assert cases.unlearn("ga", run, model="forget.jsonl").error.startswith("forget.jsonl is a file, and a model is a folder")
    assert cases.unlearn("ga", run, model="/no/where").error == "there is no folder /no/where"
    assert not run.exists()


def test_models_that_do_not_load(run: Path, cases: Cases, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(cases.model, broken)
    (broken / "config.json").unlink()
    assert cases.unlearn("ga", run, model=broken).error.startswith(f"the folder {broken} holds no model: there is no config.json in it")
    shutil.rmtree(broken)
    shutil.copytree(cases.model, broken)
    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    message = cases.unlearn("ga", run, model=broken).error
    assert message == f"{broken} holds no safetensors weights; pickled ones can run code, so they load only with --allow-pickle"
    assert not run.exists()
    cases.unlearn("ga", run, "--allow-pickle", model=broken).fine()


def test_rows_that_cannot_be_read(run: Path, cases: Cases, tmp_path: Path) -> None:
    rows = rows_of(cases.forget)
    file = tmp_path / "forget.jsonl"

    def refused(text: str, name: str = "forget.jsonl") -> str:
        (tmp_path / name).write_text(text)
        message = cases.unlearn("ga", run, forget=str(tmp_path / name)).error
        assert not run.exists()
        return message

    assert refused("") == f"{file} holds no rows"
    assert refused("\n\n") == f"{file} holds no rows"
    whole = [json.dumps(r) for r in rows]
    assert refused("\n".join([*whole[:2], '{"question": "Who?", "answer": ']) + "\n").startswith(f"{file}, line 3: not JSON (")
    assert refused('["Who?"]\n') == f"{file}, line 1: a row must be an object such as {{...}}, this is an array"
    lacking = json.dumps({"question": "Who?", "reply": "Me."})
    assert refused("\n".join([*whole[:2], lacking])) == (
        f"{file}, row 3: a row is {{'prompt','completion'}}, {{'question','answer'}}, {{'messages'}} or {{'text'}}; "
        f"this one has the columns 'question', 'reply'"
    )
    assert refused("question,reply\nWho?,Me.\n", "forget.csv").endswith("this one has the columns 'question', 'reply'")
    assert "line 3: 1 cells where the header has 2" in refused("question,answer\nWho?,Me.\nWho\n", "forget.csv")
    assert refused(json.dumps({"question": "Who?", "answer": " "})) == f"{file}, row 1: an answer is empty"
    assert refused(json.dumps({"question": "Who?", "answer": 3})) == f"{file}, row 1: 'question' and 'answer' must be texts"
    chat = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Me."}]}
    assert refused(json.dumps(chat)) == f"{file}, row 1: this row is a chat, and the tokenizer has no chat template"
    long = {"question": "Who is it? " * 60, "answer": "Me."}
    message = refused("\n".join([whole[0], json.dumps(long)]))
    assert message.startswith(f"{file}, row 2: a prompt has ")
    assert "tokens, and the model takes 128" in message
    assert refused("x", "forget.xml").startswith(f"{tmp_path / 'forget.xml'}: unknown file type '.xml'; known types are .jsonl")
    message = cases.unlearn("ga", run, forget=str(tmp_path / "forgett.jsonl")).error
    assert message.startswith(f"{tmp_path / 'forgett.jsonl'} does not exist; did you mean 'forget.jsonl'")
    message = cases.unlearn("idk", run, "--alternate-answers", cases.forget.replace("forget", "nowhere")).error
    assert "nowhere.jsonl does not exist" in message
    assert not run.exists()


def test_rows_on_both_sides(run: Path, cases: Cases, tmp_path: Path) -> None:
    both = tmp_path / "retain.jsonl"
    write_jsonl(both, [*rows_of(cases.retain)[:5], *rows_of(cases.forget)[:2]])
    rule = "Take them out, or allow it with --allow-overlap"
    message = cases.unlearn("npo", run, retain=str(both)).error
    assert message.startswith("2 of 7 rows of 'retain' also stand in 'forget'")
    assert message.endswith(rule)
    message = cases.unlearn("npo", run, "--holdout", both).error
    assert message.startswith("2 of 7 rows of 'holdout' also stand in 'forget'")
    assert message.endswith(rule)
    assert not run.exists()
    done = cases.unlearn("npo", run, "--allow-overlap", retain=str(both)).fine()
    finding = "2 of 7 rows of 'retain' also stand in 'forget' (allowed by request)"
    assert receipt_of(run)["request"]["findings"] == [finding]
    assert f"warning: {finding}" in done.out


def test_a_first_step_that_is_not_finite(run: Path, cases: Cases, tmp_path: Path) -> None:
    model, tokenizer = llama.build("nano", ["a few words"], seed=0)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    Text(tokenizer).save(model, tmp_path / "broken")
    message = cases.unlearn("ga", run, model=tmp_path / "broken").error
    assert message.startswith("the weights did not change: the loss or its gradient was not finite at epoch 1, step 1")
    assert "not finite at epoch 1, step 1 (loss nan)" in message
    assert not run.exists()


def test_a_package_that_is_missing(run: Path, cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    message = cases.unlearn("ga", run, "--lora", 2).error
    assert message == "this needs the package peft, which is not installed: pip install peft"


def test_a_folder_that_may_not_be_written(run: Path, cases: Cases, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert cases.unlearn("ga", run).error == f"{run}: permission denied"


def test_no_message_of_ours_is_lost_in_markup(cases: Cases, tmp_path: Path) -> None:
    folder = tmp_path / "[bold]run[/]"
    done = cases.unlearn("ga", folder).fine()
    assert f"the model is in {folder}/model" in done.out
    assert left(folder) == ["log.jsonl", "model", "receipt.json"]


def test_ctrl_c_is_one_word(cases: Cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("expunge.workflows.audit.audit", stop)
    done = cases.audit(cases.model, tmp_path / "audit")
    assert (done.code, done.err.splitlines()[-1]) == (130, "stopped")
    monkeypatch.setattr("expunge.workflows.unlearn.unlearn", stop)  # a second Ctrl-C does not wait for the step to end
    done = cases.unlearn("ga", tmp_path / "run")
    assert (done.code, done.err.splitlines()[-1]) == (130, "stopped; the same command with --resume continues from its last checkpoint")
