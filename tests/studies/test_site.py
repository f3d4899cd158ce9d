"""The documentation site builds without a network, with every link alive, and the tutorials run as they are written."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIALS = sorted(p for p in (ROOT / "docs" / "tutorials").glob("*.md") if p.stem != "index")
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        "-d",
        folder / "trees",
        ROOT / "docs",
        folder / "html",
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"http_proxy": "http://127.0.0.1:9"})
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "html"


def test_pages_fetch_nothing_when_they_are_read(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=\"(https?://[^\"]+)\"", page.read_text())
        assert not [url for url in fetched if 'rel="canonical"' not in url], page.name


def test_the_search_knows_methods_and_words_of_the_glossary(site: Path) -> None:
    index = (site / "searchindex.js").read_text()
    assert "npo" in index
    assert "holdout" in index


def test_the_reference_documents_public_functions_with_their_arguments(site: Path) -> None:
    page = (site / "reference" / "python.html").read_text()
    for name in ("expunge.unlearn", "expunge.audit", "expunge.train", "expunge.load", "expunge.classifier"):
        assert f'id="{name}"' in page
    assert page.count("Parameters") >= 5


@pytest.mark.timeout(900)
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda p: p.stem)
def test_a_tutorial_runs_as_it_is_written(tutorial: Path, tmp_path: Path) -> None:
    """Its blocks run one after the other in an empty folder: shell by shell, Python in one session."""
    if tutorial.stem == "new-method":
        (tmp_path / "capped.py").write_text(BLOCK.search(tutorial.read_text())[2])  # type: ignore[index]
    bin_folder = Path(sys.executable).parent
    environment = os.environ | {"EXPUNGE_CACHE": str(tmp_path / "cache"), "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}
    script = ["set -E", "trap 'code=$?; [ $code -eq 3 ] || exit $code' ERR"]  # 3: an audit says that the rows are not removed
    python: list[str] = []
    for language, code in BLOCK.findall(tutorial.read_text()):
        if language == "python":
            python.append(code)
            script.append(f"python - <<'PYTHON'\n{''.join(python)}PYTHON")
        else:
            script.append(code)
    done = subprocess.run(["bash", "-c", "\n".join(script)], cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
