"""A wrong command is refused before torch is imported: with one sentence, exit code 2, and nothing written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cases import Cases, expunge
from expunge import catalog
from expunge.cli import declared
from expunge.core.errors import UserError
from expunge.core.hyperparameters import hyperparameters_of
from expunge.workflows import build_plan

# Runs commands in a process that cannot import torch, and prints the exit code and the last line of each.
WITHOUT_TORCH = """
import contextlib, io, json, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch" or name.startswith("torch."):
            raise AssertionError("torch was imported")

sys.meta_path.insert(0, NoTorch())
from expunge.cli.app import main
for words in json.load(sys.stdin):
    sys.argv, err, out = ["expunge", *words], io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(out):
        try:
            main()
        except SystemExit as done:
            code = done.code
        except BaseException as error:
            code = repr(error)
    print(json.dumps([code, (err.getvalue().strip().splitlines() or [""])[-1], out.getvalue()]))
assert "torch" not in sys.modules
"""


def without_torch(commands: list[list[str]]) -> list[tuple[Any, str, str]]:
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], input=json.dumps(commands), capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.fixture
def files(cases: Cases, tmp_path: Path) -> Mapping[str, str]:
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "file").write_text("text")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.txt").write_text("text")
    names = {"model": cases.model, "forget": cases.forget, "retain": cases.retain, "tmp": str(tmp_path), "out": str(tmp_path / "out")}
    return names


UNLEARN = "unlearn npo --model {model} --forget {forget} --retain {retain}"
AUDIT = "audit {model} --forget {forget}"
WRONG = [
    ("unlearn npoo", "error: there is no method called 'npoo'; did you mean 'npo'"),
    ("unlearn NPO", "error: there is no method called 'NPO'; did you mean 'npo'"),
    ("unlearn npo", "error: missing options --model and --out"),
    (f"{UNLEARN} --out {{out}} --betta 1", "error: there is no hyperparameter 'betta' here; did you mean 'beta'"),
    (f"{UNLEARN} --out {{out}} --forgett x", "error: there is no option or hyperparameter --forgett; did you mean --forget?"),
    (f"{UNLEARN} --out {{out}} --beta -3", "error: hyperparameter 'beta' = '-3': input should be greater than 0"),
    (f"{UNLEARN} --out {{out}} --schedule lineal", "error: hyperparameter 'schedule' = 'lineal': input should be 'linear', 'constant' or"),
    (f"{UNLEARN} --out {{out}} --lr inf", "error: hyperparameter 'lr' = 'inf': input should be a finite number"),
    (f"{UNLEARN} --out {{out}} --select nope", "error: there is no method called 'nope'"),
    (f"{UNLEARN} --out {{out}} --device tpu", "error: invalid value for '--device': 'tpu' is not one of 'auto', 'cpu', 'cuda', 'mps'; see"),
    (
        f"{UNLEARN} --out {{out}} --dtype int8",
        "error: invalid value for '--dtype': 'int8' is not one of 'auto', 'float32', 'bfloat16', 'fl",
    ),
    (f"{UNLEARN} --out {{out}} --resume", "error: there is no run in {out} to resume"),
    (f"{UNLEARN} --out {{tmp}}/folder", "error: the run folder {tmp}/folder exists"),
    (f"{UNLEARN} --out {{tmp}}/file", "error: {tmp}/file is a file, but a run needs a folder"),
    (f"{UNLEARN} --out {{tmp}}/file/run", "error: {tmp}/file is a file, so there can be no folder {tmp}/file/run"),
    ("unlearn ga --model /nope --out {out}", "error: there is no folder /nope"),
    ("unlearn ga --model {tmp}/file --out {out}", "error: {tmp}/file is a file, and a model is a folder"),
    ("unlearn ga --model {model} --forget {tmp}/none.jsonl --out {out}", "error: {tmp}/none.jsonl does not exist"),
    ("unlearn ga --model {model} --forget {tmp}/empty.jsonl --out {out}", "error: {tmp}/empty.jsonl holds no rows"),
    ("unlearn ga --model {model} --forget {tmp}/file --out {out}", "error: {tmp}/file: unknown file type ''"),
    ("unlearn ga --model {model} --forget https://a.b/c.csv --out {out}", "error: https:/a.b/c.csv is an address: download the file"),
    ("train --data {forget} --out {out} --model nanoo", "error: there is no folder nanoo here, and the hub cannot be reached to look"),
    ("train --data {forget} --out {out} --sed 1", "error: there is no option or hyperparameter --sed; did you mean --seed?"),
    ("train --data {tmp}/none.csv --out {out}", "error: {tmp}/none.csv does not exist"),
    (f"{AUDIT} --out {{out}} --attack relern", "error: there is no attack called 'relern'; did you mean 'relearn'"),
    (f"{AUDIT} --out {{out}} --attack relearn --every 0", "error: hyperparameter 'every' = '0': input should be greater than or equal"),
    ("bench people --ouut {out}", "error: there is no option or hyperparameter --ouut; did you mean --out?"),
    ("bench people --sedes 2 --out {out}", "error: there is no option or hyperparameter --sedes; did you mean --seeds?"),
    ("bench people --methods npo,sam --rhoo 1 --out {out}", "error: there is no hyperparameter 'rhoo' here; did you mean 'rho'?"),
    (f"{AUDIT} --out {{out}} --suite tofuu", "error: there is no benchmark called 'tofuu'; did you mean 'tofu'?"),
    (
        f"{AUDIT} --out {{out}} --suite tofu",
        "error: there is no 'locuslab/TOFU' here, and the hub cannot be reached to look for it there: g",
    ),
    (f"{AUDIT} --out {{out}} --limit x", "error: invalid value for '--limit': "),
    ("audit {model} --out {out}", "error: an audit needs the rows that were to be forgotten: give --forget FILE"),
    ("audit", "error: missing argument 'model'; see expunge audit --help"),
    ("attack relern {model} --out {out}", "error: there is no attack called 'relern'"),
    ("attack quantize {model} --forget {forget} --out {out} --bits 99", "error: hyperparameter 'bits' = '99': input should be less than"),
    ("bench poeple --out {out}", "error: there is no benchmark called 'poeple'; did you mean 'people'"),
    ("bench people --out {out} --methods npo,zzz", "error: there is no method called 'zzz'"),
    ("bench people --out {out} --npo:zzz 1", "error: there is no hyperparameter 'zzz' here"),
    (
        "bench people --out {out} --npoo:beta 1",
        "error: the hyperparameter --npoo:beta is for 'npoo', which is neither a method nor an attack",
    ),
    ("bench people --out {out} --train lr=-1", "error: hyperparameter 'lr' = '-1': input should be greater than or equal to 0"),
    ("bench people --out {tmp}/folder", "error: {tmp}/folder exists and is no benchmark run: give another folder"),
    ("demo pictures", "error: there is no demo called 'pictures'; there are people, diffusion, faces, images, recommender"),
    (
        "demo image",
        "error: there is no demo called 'image'; there are people, diffusion, faces, images, recommender; did you mean 'images'",
    ),
    ("demo --out {tmp}/file/run", "error: {tmp}/file is a file, so there can be no folder {tmp}/file/run"),
    ("report {tmp}/none", "error: there is no folder {tmp}/none"),
    ("report {tmp}/file", "error: {tmp}/file is a file, and a run is a folder"),
    ("list zzz", "error: there is no kind of thing called 'zzz'"),
    ("show npoo", "error: nothing here is called 'npoo'"),
    ("unlern", "error: no such command 'unlern'; did you mean 'unlearn'? See expunge --help"),
    ("audit --forgett x m", "error: there is no option or hyperparameter --forgett; did you mean --forget?"),
    ("audit --zzzzzz x m", "error: --zzzzzz stands where MODEL is expected: give MODEL first, and such options after it"),
    ("unlearn --lr 3 npo --model m --forget f --out o", "error: --lr stands where METHOD is expected: give METHOD first"),
    ("methods", "error: no such command 'methods'; see expunge --help"),
]


def test_wrong_commands_are_refused_before_torch_is_imported(files: Mapping[str, str]) -> None:
    outcomes = without_torch([words.format(**files).split() for words, _ in WRONG])
    wrong = [
        (words, got) for (words, sentence), got in zip(WRONG, outcomes, strict=True) if not got[1].startswith(sentence.format(**files))
    ]
    assert wrong == []
    assert {code for code, _, _ in outcomes} == {2}
    assert not Path(files["out"]).exists()


def test_a_path_far_from_every_name_gets_no_suggestion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("opt", "home", "original"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert expunge("unlearn", "ga", "--model", tmp_path / "nope", "--out", "run").error == f"there is no folder {tmp_path / 'nope'}"
    assert expunge("unlearn", "ga", "--model", tmp_path / "orignal", "--out", "run").error.endswith("; did you mean 'original'?")
    refused = expunge("unlearn", "ga", "--model", tmp_path / "home", "--forget", tmp_path / "nope", "--out", "run").error
    assert refused == f"{tmp_path / 'nope'} does not exist"


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in ("methods", "attacks") for n in catalog.names(k)])
def test_what_sources_declare_is_what_plans_have(kind: str, name: str) -> None:
    module = catalog.load(name, kind)
    if not hasattr(module, "plan"):
        return
    real = build_plan.hyperparameters(name) if kind == "methods" else hyperparameters_of(module.plan())
    path = catalog.path_of(name, kind)
    assert path is not None
    assert {h.name for h in real if not h.name.endswith(declared.WEIGHT)} <= declared.declarations(path).keys()
    for h in real:  # no default is refused
        if isinstance(h.value, (int, float, str)) and not isinstance(h.value, bool):
            declared.check({h.name: str(h.value)}, {name: kind})


@pytest.mark.parametrize(("text", "right"), [("0.5", True), ("-1", False), ("x", False), ("nan", False)])
def test_a_value_is_refused_as_the_plan_refuses_it(text: str, right: bool) -> None:
    def message(check: Any) -> str:
        try:
            check()
        except UserError as error:
            return str(error)
        return ""

    early = message(lambda: declared.check({"beta": text}, {"npo": "methods"}))
    assert early == message(lambda: build_plan.plan("npo", {"beta": text}))
    assert (early == "") is right


def test_built_in_sizes_are_those_of_the_models() -> None:
    sizes = [size for name in catalog.names("models") for size in getattr(catalog.load(name, "models"), "SIZES", ())]
    assert declared.built_in_sizes() == sizes


def test_a_run_that_fails_is_told_from_a_wrong_command(cases: Cases, tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n1,2\n")
    assert cases.unlearn("ga", tmp_path / "run", forget=str(rows)).code == 1
    assert cases.unlearn("ga", tmp_path / "run", "--lr", "0").code == 1
    assert cases.unlearn("ga", tmp_path / "run", "--lr", "-1").code == 2
    assert cases.unlearn("ga", tmp_path / "run", "--trainable", "[").error.startswith("--trainable '[' is no regular expression")


@pytest.mark.parametrize("file", ["receipt.json", "story.json"])
def test_a_damaged_run_is_named(file: str, cases: Cases, tmp_path: Path) -> None:
    (tmp_path / file).write_text("{oops")
    assert expunge("report", tmp_path).error.startswith(f"{tmp_path / file} is damaged: ")
    (tmp_path / file).write_text("{}")
    assert expunge("report", tmp_path).error.startswith(f"{tmp_path / file} is damaged: ")
    if file == "receipt.json":
        (tmp_path / file).write_text("{oops")
        assert cases.audit(tmp_path, tmp_path / "audit").error.startswith(f"{tmp_path / file} is damaged")


def test_a_full_disk_is_one_sentence(cases: Cases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("expunge.engine.artifact.write", full)
    done = cases.unlearn("ga", tmp_path / "run")
    assert (done.code, done.error) == (1, "no space left on device")


def test_completion_offers_names() -> None:
    env = {**os.environ, "_EXPUNGE_COMPLETE": "complete_bash", "COMP_WORDS": "expunge unlearn gradi", "COMP_CWORD": "2"}
    command = [sys.executable, "-c", "from expunge.cli.app import app; app(prog_name='expunge')"]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.stdout.split() == [n for n in catalog.names() if n.startswith("gradi")]


# Runs a command and prints what it has imported.
IMPORTED = "import json, sys\nfrom expunge.cli.app import main\ntry:\n    main()\nfinally:\n    print(json.dumps(list(sys.modules)))"
ELSEWHERE = (
    "datasets",
    "diffusers",
    "nltk",
    "pandas",
    "peft",
    "plotly",
    "polars",
    "pyarrow",
    "ray",
    "scipy.stats",
    "sklearn",
    "transformers.trainer",
)


@pytest.mark.slow
def test_an_audit_imports_no_library_and_no_attack_that_it_does_not_use(cases: Cases, tmp_path: Path) -> None:
    words = ["audit", cases.model, "--forget", cases.forget, "--retain", cases.retain, "--out", str(tmp_path / "run"), "--fail-on", "never"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", IMPORTED, *words], capture_output=True, text=True, env=env)
    assert (tmp_path / "run" / "audit.json").exists(), done.stderr
    imported = set(json.loads(done.stdout.splitlines()[-1]))
    assert "torch" in imported
    assert not imported & set(ELSEWHERE)
    unused = {f"expunge.evaluation.attacks.{name}" for name in ("quantize", "prune", "paraphrase", "logit_lens")}
    assert not imported & unused
