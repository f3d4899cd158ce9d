"""What commands print: JSON for programs, nothing for the quiet, a line a stage without a terminal, tables that fit."""

from __future__ import annotations

import io
import json
from importlib.metadata import version
from pathlib import Path

import pytest
from rich.console import Console

from cases import Cases, expunge, receipt_of
from expunge import catalog
from expunge.cli import tables
from expunge.cli.console import Printer
from expunge.cli.exits import MEANINGS, ExitCode
from expunge.report.report_data import Entry, Score
from expunge.report.table import render


def test_version_and_short_help() -> None:
    assert expunge("--version").fine().out == f"expunge {version('expunge')}\n"
    assert expunge("-h").fine().out == expunge("--help").fine().out
    assert "--checkpoint-every" in expunge("unlearn", "-h").fine().out


def test_help_prints_every_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    help_text = " ".join(expunge("--help").fine().out.split())
    assert all(f"{int(code)} {MEANINGS[code]}" in help_text for code in ExitCode)


@pytest.mark.parametrize("command", ["demo", "report", "unlearn", "bench"])
def test_help_shows_no_dot_as_a_default(command: str) -> None:
    assert "[default: .]" not in expunge(command, "--help").fine().out


def test_unlearn_audit_and_report_as_json(cases: Cases, tmp_path: Path) -> None:
    done = cases.unlearn("ga", tmp_path / "run", "--json", "--device", "cpu", "--dtype", "bfloat16").fine()
    assert json.loads(done.out) == {"folder": str(tmp_path / "run"), **receipt_of(tmp_path / "run")}
    assert json.loads(done.out)["compute"] == {"device": "cpu", "dtype": "bfloat16"}
    assert "forgetting: stage 1" in done.err.splitlines()
    audit = cases.audit(tmp_path / "run", tmp_path / "audit", "--json").fine()
    assert json.loads(audit.out) == {"folder": str(tmp_path / "audit"), **json.loads((tmp_path / "audit" / "audit.json").read_text())}
    assert json.loads(audit.out)["compute"] == {"device": "cpu", "dtype": "float32"}
    attack = json.loads(expunge("attack", "quantize", cases.model, "--forget", cases.forget, "--out", tmp_path / "q", "--json").fine().out)
    assert attack["attack"] == "quantize"
    assert attack["ways"] == json.loads((tmp_path / "q" / "audit.json").read_text())["attacks"]["quantize"]["ways"]
    report = expunge("report", tmp_path / "run", "--json").fine()
    assert json.loads(report.out) == {"report": str(tmp_path / "run" / "report.html")}


def test_quiet_commands_print_nothing(cases: Cases, tmp_path: Path) -> None:
    train = expunge("train", "--data", cases.forget, "--model", "nano", "--epochs", "1", "--out", tmp_path / "model", "--quiet").fine()
    assert (train.out, train.err) == ("", "")
    unlearn = cases.unlearn("ga", tmp_path / "run", "--quiet").fine()
    assert (unlearn.out, unlearn.err) == ("", "")
    audit = cases.audit(tmp_path / "run", tmp_path / "audit", "-q").fine()
    assert (audit.out, audit.err) == ("", "")
    assert expunge("report", tmp_path / "run", "-q").fine().out == ""
    assert cases.unlearn("ga", tmp_path / "run", "-q").error.startswith("the run folder")


def test_lists_and_cards_for_programs() -> None:
    assert expunge("list", "attacks", "--quiet").fine().out.split() == catalog.names("attacks")
    (card,) = json.loads(expunge("show", "npo", "--json").fine().out)
    assert (card["summary"], card["fields"]) == (catalog.card("npo").summary, catalog.card("npo").fields)
    assert expunge("show", "npo", "-q").fine().out == f"{catalog.card('npo').headline}\n"
    assert "…" not in expunge("list", "--wide").fine().out


def test_every_stage_is_a_line_where_there_is_no_terminal(cases: Cases, tmp_path: Path) -> None:
    train = expunge("train", "--data", cases.forget, "--model", "nano", "--epochs", "1", "--seed", "3", "--out", tmp_path / "model").fine()
    assert train.err.splitlines() == [f"reading {cases.forget}", "training"]
    unlearn = cases.unlearn("ga", tmp_path / "run", "--epochs", 3).fine()
    assert unlearn.err.splitlines() == [f"loading {cases.model}", "forgetting: stage 1"]
    audit = cases.audit(tmp_path / "run", tmp_path / "audit").fine()
    assert audit.err.splitlines()[0] == f"loading {tmp_path / 'run'}"
    assert any(line.startswith("audited model: ") for line in audit.err.splitlines())


def shown(table: object, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    return console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_tables_fit_and_say_what_they_leave_out() -> None:
    name = "a_score_with_a_name_of_exactly_forty_ones"
    columns = [tables.PrintedColumn("score", [name], right=False), tables.PrintedColumn("value", ["0.5"])]
    columns += [tables.PrintedColumn(f"column {i}", ["x" * 12], rank=i) for i in (1, 2, 3)]
    lines = shown(tables.fitted(columns, 80))
    assert max(map(len, lines)) <= 80
    assert any(line.startswith(name) for line in lines)
    assert lines[-1].strip() == "left out: column 3 (--wide shows all)"
    whole = shown(tables.fitted(columns, 200), 200)
    assert all(f"column {i}" in whole[0] for i in (1, 2, 3))


def test_scores_and_attacks_fit_into_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    record = {
        "value": 0.123456,
        "interval": (0.1, 0.2),
        "n": 4000,
        "mean": 0.1,
        "before": 0.2,
        "retrained": 0.3,
        "case": "after 20 steps, k 1",
    }
    record |= {"ideal": None, "direction": "retrained"}
    names = ["remnant_memorization_accuracy", "an_even_longer_name_of_a_score_that_nobody_has"]
    tables.show_scores(dict.fromkeys(names, record), Printer())
    result = {"ways": {"a long way of it": dict.fromkeys(names, record)}, "steps_to_recover": {}, "missing": {}}
    tables.show_attack(result, "relearn_grid", Printer())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(names[0] in line for line in lines) == 2
    assert [line for line in lines if line.endswith("worst case")] != []
    assert lines[-1].startswith("left out: 95 % interval, mean, retrained, n, worst in (--wide")
    tables.show_attack(result, "relearn_grid", Printer(wide=True))
    whole = capsys.readouterr().out
    assert all(word in whole for word in ("worst in", "after 20 steps, k 1", "95 % interval", *names))
    assert "left out" not in whole


def test_the_table_of_a_benchmark_names_the_scores_that_it_leaves_out() -> None:
    names = [f"score_number_{i:02}" for i in range(12)]
    entry = Entry(name="gradient_restriction", method="gradient_restriction", seed=0, scores={n: Score(value=0.5) for n in names})
    lines = shown(render([entry], names, 80))
    assert max(map(len, lines)) <= 80
    assert any("gradient_restriction" in line for line in lines)
    table_text = " ".join(" ".join(lines).split())
    assert "left out at 80 columns: " in table_text
    assert names[-1] in table_text
