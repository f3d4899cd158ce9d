"""What `import expunge` gives: everything by name, nothing heavy before it is used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import expunge
import worlds
from expunge.benchmarks import people
from expunge.io.models import Opened


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
