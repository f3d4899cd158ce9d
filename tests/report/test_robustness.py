"""The figure of attacks: positions of marks, seeds averaged, scores that came back, attacks that are missing."""

from __future__ import annotations

import re

import pytest

from expunge.report import grouping, page
from expunge.report.report_data import After, Attacked, Entry, ReportData, Role, Score
from expunge.report.robustness import Robustness, robustness
from expunge.report.words import span

SCORE = "extraction_strength"


def after(before: float, value: float | None, half: float = 0.05, **fields: object) -> dict[str, After]:
    interval = None if value is None else (value - half, value + half)
    return {SCORE: After(before, value, interval, 9, value, **fields)}  # type: ignore[arg-type]


def entry(name: str, role: Role, *attacks: Attacked, seed: int | None = None, method: str = "") -> Entry:
    return Entry(name=name, role=role, method=method, seed=seed, attacks=list(attacks), scores={SCORE: Score(0.1)})


def four_bits(before: float, value: float | None) -> Attacked:
    return Attacked("quantize", "4 bits", SCORE, after(before, value))


RETRAINED = entry("gold", "retrained", four_bits(0.1, 0.2))
HIDES = entry("hides", "method", four_bits(0.0, 0.6), method="hides")
FORGOT = entry("forgot", "method", four_bits(0.1, 0.22), method="forgot")


def outcome(*models: Entry) -> Robustness:
    robust = robustness(grouping.groups(models))
    assert robust is not None
    return robust


def wide_chart(*models: Entry) -> str:
    figure = outcome(*models).figure
    assert figure.wide is not None
    return str(figure.wide)


def test_a_score_that_came_back_past_the_retrained_model_is_marked() -> None:
    robust = outcome(RETRAINED, HIDES, FORGOT)
    cells = {group.label: cells[0] for group, cells in robust.table}
    assert cells["hides"] == ("0 → 0.600", span(0.55, 0.65), "missed")
    assert cells["forgot"][2] == cells["gold"][2] == ""
    assert robust.heads == ["quantize, 4 bits"]
    svg = str(robust.figure.wide)
    assert svg.count('class="mark method back"') == 1
    assert svg.count('class="mark method best"') == 1
    assert f"hides, quantize, 4 bits: 0 before, 0.600 ({span(0.55, 0.65)}) after" in svg


def test_a_score_that_was_high_before_the_attack_does_not_come_back() -> None:
    assert "back" not in wide_chart(RETRAINED, entry("left", "method", four_bits(0.6, 0.6), method="left"))
    assert "back" not in wide_chart(RETRAINED, entry("full", "original", four_bits(0.6, 0.9))), "the original has hidden nothing"
    assert "back" not in wide_chart(HIDES), "there is no line to be past"


def test_the_line_marks_the_retrained_model_under_the_same_attack() -> None:
    svg = wide_chart(RETRAINED, FORGOT)
    (line,) = re.findall(r'class="yard" x1="([\d.]+)"', svg)
    (mark,) = re.findall(r'class="mark retrained control" transform="translate\(([\d.]+),', svg)
    assert float(line) == float(mark)
    assert 'class="yard"' not in wide_chart(FORGOT)


def test_seeds_are_averaged_without_those_that_have_no_value() -> None:
    seeds = [entry(f"m {i}", "method", four_bits(0.0, v), seed=i, method="m") for i, v in enumerate((0.3, 0.5, None))]
    (cell,) = [cells[0] for group, cells in outcome(RETRAINED, *seeds).table if group.label == "m"]
    assert cell == ("0 → 0.400", span(0.3, 0.5), "missed")


def test_steps_until_recovery_and_reasons_of_missing_attacks_are_listed() -> None:
    grid = Attacked("relearn_grid", "forget rows", SCORE, after(0.0, 0.4), [(1, None), (4, 10)])
    robust = outcome(entry("m", "method", grid, Attacked("paraphrase", missing="no column"), method="m"))
    assert robust.held == ["relearn grid, forget rows, 1 held", "relearn grid, forget rows, 4 held"]
    assert [cells for _, cells in robust.recovered] == [["never", "10"]]
    assert robust.missing == ["paraphrase (no column)"]


def test_the_page_has_the_section_where_a_model_was_attacked() -> None:
    report_data = ReportData(title="t", models=[RETRAINED, HIDES, FORGOT])
    html = page.build(report_data)
    assert '<section id="robustness"' in html
    assert '<a href="#robustness">Robustness</a>' in html
    assert page.build(ReportData.from_json(report_data.to_json())) == html
    assert "robustness" not in page.build(ReportData(title="t", models=[entry("m", "method")]))
    assert robustness(grouping.groups([entry("m", "method", Attacked("paraphrase", missing="no column"))])) is None


@pytest.mark.parametrize("ways", [1, 4, 5, 9])
def test_plots_stand_in_bands_inside_the_chart(ways: int) -> None:
    attacks = [Attacked("quantize", f"{i} bits", SCORE, after(0.0, 1.0)) for i in range(ways)]
    svg = wide_chart(entry("a method with a very long name", "method", *attacks))
    assert svg.count('class="plot-name"') == ways
    width, height = map(float, re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)[0])
    xs = [float(x) for x in re.findall(r"translate\(([\d.]+),", svg)]
    ys = [float(y) for y in re.findall(r"translate\([\d.]+,([\d.]+)\)", svg)]
    assert len(xs) == ways
    assert max(xs) <= width - 7
    assert max(ys) < height
