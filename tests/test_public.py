"""What `import expunge` gives: everything by name, nothing heavy before it is used."""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import expunge
import worlds
from expunge.benchmarks import people
from expunge.io.models import Opened
from expunge.workflows.audit import AuditOptions
from expunge.workflows.audit_keywords import AuditKeywords


def fresh(script: str) -> str:
    """What a script prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_import_and_lists_need_no_torch() -> None:
    fresh("import sys, expunge; expunge.names(); expunge.card('npo'); dir(expunge); assert 'torch' not in sys.modules")


def test_every_name_is_there() -> None:
    assert len(set(expunge.__all__)) == len(expunge.__all__)
    assert set(dir(expunge)) == set(expunge.__all__)
    for name in expunge.__all__:
        assert getattr(expunge, name) is not None


@pytest.mark.slow
@pytest.mark.parametrize("before", ["", "import expunge.workflows.audit; ", "from expunge import audit; "])
def test_audit_is_a_function_whatever_was_imported_before(before: str) -> None:
    script = f"import inspect, expunge; {before}print(inspect.isfunction(expunge.audit), expunge.audit.__name__)"
    assert fresh(script) == "True audit\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'expunge' has no attribute 'forgive'"):
        expunge.forgive  # noqa: B018


def test_version_is_the_installed_one() -> None:
    assert fresh("import expunge; print(expunge.__version__)").strip() == expunge.__version__
    assert expunge.__version__[0].isdigit()


def test_forgets_and_audits_in_five_lines(text: worlds.World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    records = people.generate(seed=0, people=12, forget=1, holdout=1, neighbours=1, retain_audit=16)
    model = Opened(text.model(), text.modality, "tiny world")
    before = expunge.audit(Opened(text.model(), text.modality, "tiny world"), records.forget, records.retain_audit)

    result = expunge.unlearn("npo", model, records.forget, records.retain, lr=1e-3, epochs=30)
    after = expunge.audit(Opened(result.model, result.modality, "after"), records.forget, records.retain_audit, out=tmp_path / "audit")

    assert result.receipt["result"]["changed"]
    assert after.scores["forget_probability"]["value"] < 0.5 * before.scores["forget_probability"]["value"]
    assert (tmp_path / "audit" / "report.html").exists()


FUNCTIONS = [name for name in expunge.__all__ if inspect.isfunction(getattr(expunge, name))]
CLASSES = [name for name in expunge.__all__ if inspect.isclass(getattr(expunge, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_say_what_they_take_give_and_raise(name: str) -> None:
    function = getattr(expunge, name)
    doc = inspect.getdoc(function) or ""
    gives = inspect.signature(function).return_annotation not in (None, "None")
    for part in ("Args", *(["Returns"] if gives else []), "Raises"):
        assert re.search(rf"^{part}:$", doc, re.M), f"{name} has no {part}"
    described = doc[doc.index("Args:") : doc.index("Returns:" if gives else "Raises:")]
    missing = [p for p in inspect.signature(function).parameters if not re.search(rf"^ +([\w*]+, )*\**{p}(, [\w*]+)*: ", described, re.M)]
    assert not missing, f"{name} does not describe {missing}"


@pytest.mark.parametrize("name", CLASSES)
def test_classes_and_their_methods_say_what_they_are(name: str) -> None:
    kind = getattr(expunge, name)
    own = {n: m for n, m in vars(kind).items() if not n.startswith("_") and (inspect.isfunction(m) or isinstance(m, property))}
    assert inspect.getdoc(kind)
    assert not [n for n in own if not inspect.getdoc(own[n])] or name in ("Plan", "Train", "Request"), "parts are described in docs/"


def test_options_of_an_audit_are_known_to_type_checkers() -> None:
    fields = {f.name: str(f.type) for f in dataclasses.fields(AuditOptions)}
    assert {n: getattr(t, "__forward_arg__", str(t)) for n, t in AuditKeywords.__annotations__.items()} == fields


SCRIPT = """
from pathlib import Path

import expunge


class Print(expunge.Callback):
    def on_step(self, record: "dict[str, object] | object") -> None:
        print(record)


class Keep:
    def start(self, name: str, settings: object, folder: Path | None) -> None: ...
    def log(self, values: object, step: int) -> None: ...
    def end(self, failed: bool) -> None: ...


try:
    trained: expunge.Result = expunge.train("all.jsonl", "nano", callbacks=[Print()], epochs=2)
    result = expunge.unlearn(
        "npo", "model", "forget.jsonl", "retain.jsonl", out="run", track="mlflow", watch=expunge.watching("forget.jsonl"), lr=1e-4
    )
    audited = expunge.audit("run", "forget.jsonl", limit=100, attack=("relearn",), callbacks=Print(), track=[Keep(), "tensorboard"])
    attacked: expunge.Audit = expunge.attack("quantize", "run", "forget.jsonl", hyperparameters={"bits": 4})
    swept: expunge.SweepResult = expunge.bench(expunge.Sweep("people", ("npo",)), "out")
except expunge.Interrupted:
    raise
except expunge.UserError as error:
    print(error)
passed: bool = audited.passed
name: str = result.method
receipt: dict[str, object] = result.to_dict()
frames = audited.to_pandas("attacks"), swept.to_pandas(), swept.to_dict(), audited.to_dict()
opened: expunge.Opened = expunge.load(Path("run"))
model = expunge.classifier(opened.model, ["cat", "dog"])
plans: tuple[expunge.Plan, ...] = expunge.plan("npo", {"beta": 0.1})
train: expunge.Train = plans[0].train
text: str = expunge.card("npo").headline + expunge.names("attacks")[0] + expunge.__version__
request = expunge.Request(forget=None)
watch: expunge.Watch | None = None
tracker: expunge.Tracker = Keep()
"""
WRONG = """
import expunge

expunge.unlern("npo", "model")
expunge.audit("run", "forget.jsonl", limit="all")
expunge.audit("run", atack=("relearn",))
expunge.attack(4, "run")
passed: str = expunge.audit("run").passed
"""


def checked(script: str, tmp_path: Path, python: Path | str) -> list[str]:
    """The errors that a strict type checker finds in a script, with the package as that interpreter has it installed."""
    (tmp_path / "script.py").write_text(script)
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\n[mypy-torch.*,numpy.*,transformers.*]\nfollow_imports = skip\n")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--python-executable", str(python), "script.py"]
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "MYPYPATH")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return [line for line in done.stdout.splitlines() if "error:" in line]


@pytest.mark.slow
def test_a_user_script_passes_a_strict_type_checker_and_mistakes_do_not(tmp_path: Path) -> None:
    site = Path(expunge.__file__).parents[1]
    assert (site / "expunge" / "py.typed").is_file()
    python = interpreter_with(site, tmp_path / "env")
    assert checked(SCRIPT, tmp_path, python) == []
    errors = checked(WRONG, tmp_path, python)
    assert [int(line.split(":")[1]) for line in errors] == [4, 5, 6, 7, 8], errors


def interpreter_with(source: Path, folder: Path) -> Path:
    """An environment in which the package is installed as users have it: in site-packages, typed or not by its own mark."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    packages = next(folder.glob("lib/python*/site-packages"))
    shutil.copytree(source / "expunge", packages / "expunge")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin" / "python"
