"""The pages of `docs/` say what the cards say, and nothing else lies among them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from expunge import catalog
from expunge.catalog import Card
from studies import docs, reproduction


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return docs.pages()


def test_no_page_is_stale_and_none_is_orphaned(pages: dict[str, str]) -> None:
    assert not docs.stale(docs.ROOT / "docs", pages), "run `make docs`"


def test_everything_has_a_page_and_a_line(pages: dict[str, str]) -> None:
    for kind in catalog.kinds():
        for name in catalog.names(kind):
            assert f"{kind}/{name}.md" in pages
            assert f"| [{name}]({kind}/{name}.md) |" in pages["systems.md"]


def test_links_lead_somewhere(pages: dict[str, str]) -> None:
    for place, text in pages.items():
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text):
            assert (docs.ROOT / "docs" / place).parent.joinpath(target).resolve().exists(), f"{place} links to {target}"


def test_the_tuning_grids_are_shown_with_what_was_chosen(pages: dict[str, str]) -> None:
    parts = dict(zip(*[iter(re.split(r"^## (.*)\n", pages["tuning.md"], flags=re.MULTILINE)[1:])] * 2, strict=True))
    files = {p.stem: json.loads(p.read_text()) for p in (docs.ROOT / "studies/tuning").glob("*.json")}
    assert {n.replace(", ", "-") for n in parts} == set(files)
    for name, record in files.items():
        lines = {m[1]: m[0] for m in re.finditer(r"^\| \[(\w+)\].*$", parts[name.replace("-", ", ", 1)], flags=re.MULTILINE)}
        assert lines.keys() == record["methods"].keys()
        for method, tried in record["tuning"]["tried"].items():
            (best,) = re.findall(r"\*\*.*: (\d\.\d{3})\*\*", lines[method])
            assert best == f"{max(t['goodness'] for t in tried):.3f}", method
            assert lines[method].count("<br>") == len(tried) - 1


def test_snippets_of_python_compile(pages: dict[str, str]) -> None:
    snippets = [(place, code) for place, text in pages.items() for code in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)]
    cards = [place for place in pages if place.split("/")[0] in catalog.kinds()]
    assert sorted(place for place, _ in snippets if place in cards) == sorted(cards), "one a card"
    for place, code in snippets:
        compile(code, place, "exec")


def test_evidence_is_where_reproduce_writes_it() -> None:
    assert reproduction.folder() == docs.ROOT / docs.EVIDENCE


def test_what_is_wrong_is_said_and_mended(tmp_path: Path) -> None:
    wanted = {"systems.md": "all\n", "methods/a.md": "a\n", "methods/b.md": "b\n"}
    docs.write(tmp_path, wanted)
    assert docs.stale(tmp_path, wanted) == []
    (tmp_path / "methods/a.md").write_text("something else\n")
    (tmp_path / "methods/b.md").unlink()
    (tmp_path / "methods/gone.md").write_text("a method that was taken out\n")
    (tmp_path / "guide.md").write_text("written by hand\n")
    assert docs.stale(tmp_path, wanted) == [
        "methods/a.md is out of date",
        "methods/b.md is missing",
        "methods/gone.md is not in the catalog",
    ]
    docs.write(tmp_path, wanted)
    assert docs.stale(tmp_path, wanted) == []
    assert (tmp_path / "guide.md").exists()


def test_check_says_what_is_stale_and_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    assert docs.main(["--check"]) == 2
    (tmp_path / "docs").mkdir()
    monkeypatch.setattr(docs, "pages", lambda: {"systems.md": "all\n"})
    assert docs.main(["--check"]) == 1
    assert "docs/systems.md is missing: run `make docs`" in capsys.readouterr().out
    assert docs.main([]) == 0
    assert docs.main(["--check"]) == 0
    assert docs.main(["--chek"]) == 2
    assert "did you mean '--check'?" in capsys.readouterr().err


def test_prose_is_escaped_and_papers_are_linked() -> None:
    assert docs.prose("a<b, p_t, *, `x_*`, _y_") == "a\\<b, p_t, \\*, `x_*`, \\_y\\_"
    assert docs.prose("X 2024, arXiv 2404.05868") == "X 2024, [arXiv 2404.05868](https://arxiv.org/abs/2404.05868)"
    assert docs.table(("a",), [["x | y"]])[-1] == "| x \\| y |"


def test_hyperparameters_of_stages_that_do_not_train_are_left_out() -> None:
    own, training = docs.hyperparameters(catalog.card("input_filter"))
    assert [r[0] for r in own] == ["`--threshold`", "`--ngram`", "`--refusal`"]
    assert [r[0] for r in training] == ["`--seed`"]
    rate = next(r for r in docs.hyperparameters(catalog.card("retrain"))[1] if r[0] == "`--lr`")
    assert rate[1] == "`0.001`"  # of the stage that trains, not of the one before it


def test_claims_are_shown_with_their_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = Card("npo", "methods", "methods/objectives", "NPO.", {})
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    assert docs.measured(card) == []
    (tmp_path / docs.EVIDENCE).mkdir(parents=True)
    effect = [{"claim": "it forgets", "holds": True}, {"claim": "it spares", "holds": False}]
    (tmp_path / docs.EVIDENCE / "npo.json").write_text(json.dumps({"effect": effect}))
    lines = docs.measured(card)
    assert "- shown: it forgets" in lines
    assert "- **not shown**: it spares" in lines


@pytest.mark.slow
def test_pages_are_the_same_in_another_process(pages: dict[str, str]) -> None:
    script = "import json, sys; from studies import docs; json.dump(docs.pages(), sys.stdout)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env={"PYTHONHASHSEED": "7"})
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == pages


def test_the_choice_of_methods_names_what_exists() -> None:
    text = (docs.ROOT / "docs" / "choosing-a-method.md").read_text()
    listed = {name for line in text.splitlines() if line[:1] == "|" for name in re.findall(r"`(\w+)`", line)}
    assert len(listed) > 20
    assert listed <= set(catalog.names("methods"))


def test_pages_and_readme_use_methods_that_exist() -> None:
    for path in [docs.ROOT / "README.md", *(docs.ROOT / "docs" / "tutorials").glob("*.md")]:
        for name in re.findall(r"^expunge (?:unlearn|show) (\w+)", path.read_text(), flags=re.MULTILINE):
            assert name in catalog.names("methods"), path.name


def test_the_kind_of_each_item_of_several_is_said(pages: dict[str, str]) -> None:
    assert "| `--bits` | `(8, 4)` | whole number, `>= 2, <= 16` |" in pages["attacks/quantize.md"]
    assert "| `--lr-milestones` | `()` | whole number, `> 0` |" in pages["methods/ga.md"]
