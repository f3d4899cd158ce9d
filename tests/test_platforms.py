"""Nothing needs Linux: modules and functions that only some systems have are hidden, and files are read and written as UTF-8."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import expunge

ROOT = Path(expunge.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
POSIX = ("resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix")  # modules that Windows lacks
POSIX_FUNCTIONS = ("fork", "getuid", "geteuid", "setsid", "getpgid", "killpg", "mkfifo", "uname", "getloadavg", "sched_getaffinity")
POSIX_SIGNALS = ("SIGKILL", "SIGALRM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGCHLD", "SIGQUIT")

# Imports every module of the package, and measures memory, where what only some systems have is hidden.
HIDDEN = f"""
import importlib, os, pkgutil, signal, sys
import torch, transformers, datasets, peft, accelerate, scipy.stats, sklearn.linear_model, pydantic, psutil, rich.progress, typer
for name in {POSIX[:-1]}:
    sys.modules[name] = None
for name in {POSIX_FUNCTIONS}:
    if hasattr(os, name):
        delattr(os, name)
for name in {POSIX_SIGNALS}:
    delattr(signal, name)
import expunge
for module in pkgutil.walk_packages(expunge.__path__, "expunge."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from expunge.engine.receipt import peak_memory
print(psutil.Process().memory_info().rss / peak_memory())
"""


@pytest.mark.slow
def test_everything_imports_and_measures_without_what_only_some_systems_have() -> None:
    done = subprocess.run([sys.executable, "-c", HIDDEN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(1, rel=0.2)  # resident memory, where no peak is known


BINARY = ("Image", "self.opener", "os", "Ledger")  # whose `open` gives pictures, answers over HTTP, descriptors, or a ledger


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_text_files_are_utf_8_whatever_the_system_prefers(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, (ast.Attribute, ast.Name)):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        mode = "".join(a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))
        text = name in ("read_text", "write_text") or (name == "open" and owner not in BINARY and "b" not in mode)
        if text:
            assert any(k.arg == "encoding" for k in node.keywords), f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_module_of_one_system_is_imported_at_the_top(path: Path) -> None:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module] if isinstance(node, ast.ImportFrom) else []
        assert not set(names) & set(POSIX)
