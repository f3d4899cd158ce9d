"""The report page and the tables: pure functions of a story, safe and whole whatever is missing."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from types import ModuleType
from typing import Any

import pytest
from pydantic import ValidationError
from rich.console import Console

from expunge import catalog
from expunge.report import charts, frame, grouping, page, table, words
from expunge.report.collect import collect
from expunge.report.grouping import Group
from expunge.report.report_data import Asked, Entry, Point, Relearned, ReportData, ReportedCost, Sample, Score
from expunge.report.verdict_data import Check, Leak, Recovery, Verdict

NAN, INF = float("nan"), float("inf")
ORDER = ["verdict", "checks", "scores", "tradeoff", "ratios", "training", "relearning", "samples", "cost", "receipt"]
UNJUDGED = [section for section in ORDER if section != "checks"]


class Page(HTMLParser):
    """The tags and words of a page, as a browser reads them."""

    VOID = {"meta", "wbr", "br", "link", "img", "input", "hr"}

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == [], "elements left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str, **attrs: str) -> list[dict[str, str | None]]:
        attributes = {k.rstrip("_"): v for k, v in attrs.items()}
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in attributes.items())]


def scores(utility: float, p: float, known: float) -> dict[str, Score]:
    return {
        "model_utility": Score(value=utility, interval=(utility - 0.01, utility + 0.01), n=100, direction="higher"),
        "forget_quality": Score(value=p, n=40, direction="higher", scale="p"),
        "forget_prob": Score(value=known, interval=(known - 0.02, known + 0.02), n=40, direction="retrained"),
    }


def entry(name: str, role: Any, utility: float, p: float, known: float, **fields: Any) -> Entry:
    return Entry(
        name=name,
        role=role,
        scores=scores(utility, p, known),
        panels={"text": {"truth_ratios": [known + 0.01 * i for i in range(40)]}},
        relearn=[Relearned(step=s, scores={"forget_prob": min(1.0, known + 0.01 * s)}) for s in (0, 10, 20)],
        **fields,
    )


CONTROLS = [
    entry("full", "original", 0.63, 1e-20, 0.95, cost=ReportedCost(seconds=7200, tokens=3e6, flops=2e16, peak_memory_bytes=2**34)),
    entry("gold", "retrained", 0.62, 1.0, 0.2, cost=ReportedCost(seconds=6000)),
    entry("noise", "random", 0.02, 1e-9, 0.0),
    entry("guarded", "filter", 0.61, 1e-19, 0.1),
]


def method(name: str, seed: int | None = None, utility: float = 0.6, p: float = 0.2, known: float = 0.25, **fields: Any) -> Entry:
    curve = [Point(step=i, loss=2 - i / 50, terms={"forget": 1 - i / 50, "retain": 1.0}) for i in range(50)]
    return entry(
        f"{name}-{seed}",
        "method",
        utility,
        p,
        known,
        method=name,
        seed=seed,
        curves=curve,
        cost=ReportedCost(seconds=60),
        receipt={"lr": 1e-5},
        **fields,
    )


VERDICT = Verdict(
    "not removed",
    gone="No: it is still there.",
    sure="40 rows show it.",
    leaks=[Leak(1, "Who wrote it?", "Ada Lovelace.", "Ada Lovelace", "It was Ada Lovelace.", "name")],
    checks=[Check("a", "not removed", "broken one"), Check("b", "cannot tell", "odd one"), Check("c", "removed", "fine one")],
    brings_back=[Recovery("relearn", "not removed", "back after 3 steps")],
    not_checked=["backups"],
    damage=["utility is lost"],
    notes=["unlike sets"],
    sharpen="give --retrained",
    thresholds={"alpha": 0.05},
)


def whole(**changes: Any) -> ReportData:
    parts: dict[str, Any] = {
        "title": "A report",
        "subtitle": "of a test",
        "created": "2026-11-20",
        "request": Asked(forget=40, retain=360, holdout=40, hash="sha256:77", paths={"forget": "f.jsonl"}),
        "command": "expunge audit model",
        "notes": ["a note"],
        "models": [
            *CONTROLS,
            method("npo", 0, verdict=VERDICT),
            *(method("npo", s) for s in (1, 2)),
            method("rmu", 0, 0.5, 0.01, 0.4),
        ],
        "samples": [Sample("Who?", "Ada Lovelace wrote it.", {"full": "Ada Lovelace wrote it.", "npo-0": "Ada Smith wrote it."})],
        "receipt": {"torch": "2.9", "loss": NAN},
        "utility": "model_utility",
        "quality": "forget_quality",
    }
    return ReportData(**{**parts, **changes})


def sections(html: str) -> list[str]:
    return [str(a["id"]) for a in Page(html).all("section")]


def test_sections_come_in_order_and_failed_checks_lead_the_verdict() -> None:
    html = page.build(whole())
    assert sections(html) == ORDER
    text = Page(html).text
    assert text.index("Not removed") < text.index("It was Ada Lovelace .") < text.index("It is still there.")
    assert text.index("Back after 3 steps") < text.index("broken one") < text.index("odd one") < text.index("fine one")
    for part in (*VERDICT.damage, *VERDICT.notes, "Backups", VERDICT.sharpen, "a note"):
        assert part in text
    assert {"40", "360"} <= set(text.split())
    assert "expunge audit model" in text


def test_a_verdict_goes_through_json_and_back() -> None:
    assert Verdict.from_json(json.dumps(VERDICT.to_dict())) == VERDICT
    assert VERDICT.to_dict()["schema"] == 1
    assert [Verdict(state).passed for state in ("removed", "cannot tell", "not removed")] == [True, False, False]
    with pytest.raises(ValidationError, match="state"):
        Verdict.from_json({"state": "passed"})


def test_many_models_are_counted_by_their_states() -> None:
    verdicts = [VERDICT, Verdict("removed", gone="Yes."), Verdict("cannot tell"), Verdict("cannot tell")]
    report_data = whole(models=[*CONTROLS, *(method(f"m{k}", 0, verdict=v) for k, v in enumerate(verdicts))])
    assert report_data.states == {"not removed": 1, "cannot tell": 2, "removed": 1}
    text = Page(page.build(report_data)).text
    assert "Of 4 models: 1 not removed, 2 cannot tell, 1 removed" in text
    assert "4 attempts were made, each on a copy of the model: something of them is left or can be brought back in 1; " in text
    assert "whether they are gone could not be told in 2; as far as the audit can see, they are gone from 1." in text


@pytest.mark.parametrize("report_data", [whole(), whole(models=[method(f"m{k}", s) for k in range(12) for s in range(3)] + CONTROLS)])
def test_page_loads_nothing_from_elsewhere(report_data: ReportData) -> None:
    html = page.build(report_data)
    for _, attrs in Page(html).tags:
        for name in ("src", "href", "xlink:href", "action", "srcset", "data"):
            assert (attrs.get(name) or "#").startswith("#")
    assert not re.search(r"url\(|@import|https?://|<link|<iframe|fetch\(|XMLHttp", html)
    assert "default-src 'none'" in html
    assert len(html) < 1_000_000


HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"'&{{ 7*7 }}"


def test_text_of_the_user_is_escaped_everywhere() -> None:
    evil = Entry(
        name=HOSTILE,
        method=HOSTILE,
        seed=1,
        scores={HOSTILE: Score(value=1.0, variant=HOSTILE, missing=HOSTILE, kind=HOSTILE, meaning=HOSTILE), **scores(0.5, 0.1, 0.2)},
        panels={"text": {"truth_ratios": [0.1, 0.2, 0.3]}, HOSTILE: HOSTILE},
        verdict=Verdict("not removed", gone=HOSTILE, leaks=[Leak(1, HOSTILE, HOSTILE, HOSTILE, HOSTILE, "name")], notes=[HOSTILE]),
        curves=[Point(step=0, loss=1.0, terms={HOSTILE: 1.0}, scores={HOSTILE: 0.5}), Point(step=1, loss=0.5)],
        relearn=[Relearned(0, {HOSTILE: 0.1}), Relearned(5, {HOSTILE: 0.2})],
        cost=ReportedCost(seconds=3.0, unit=HOSTILE),
        receipt={HOSTILE: HOSTILE},
    )
    report_data = whole(
        title=HOSTILE,
        subtitle=HOSTILE,
        created=HOSTILE,
        command=HOSTILE,
        request=Asked(hash=HOSTILE, paths={HOSTILE: HOSTILE}),
        notes=[HOSTILE],
        models=[*CONTROLS, evil],
        samples=[Sample(HOSTILE, HOSTILE, {"full": "plain", HOSTILE: HOSTILE}, HOSTILE)],
        receipt={HOSTILE: [HOSTILE]},
        main=[HOSTILE, "model_utility", "forget_quality"],
    )
    html = page.build(report_data)
    read = Page(html)
    assert html.count("<script>") == 1, "only the page's own"
    assert not read.all("img")
    assert not [a for _, a in read.tags if "onerror" in a]
    assert "alert('x')" in read.text
    assert f"no such panel is installed: {HOSTILE}." in read.text
    assert "49" not in read.text.split()


def test_missing_parts_are_left_out() -> None:
    assert sections(page.build(ReportData(title="bare", models=[]))) == ["verdict", "scores"]
    assert sections(page.build(ReportData(title="one", models=[Entry(name="m")]))) == ["verdict", "scores"]
    for part, gone in {"samples": "samples", "notes": None}.items():
        assert sections(page.build(whole(**{part: []}))) == [s for s in ORDER if s != gone]
    bare = [Entry(name=e.name, role=e.role, scores=e.scores) for e in whole().models]
    assert sections(page.build(whole(models=bare, receipt={}, request=None))) == ["verdict", "scores", "tradeoff", "samples"], "no verdict"
    without_retrained = [e for e in whole().models if e.role != "retrained"]
    assert "ratios" not in sections(page.build(whole(models=without_retrained)))


BAD = [None, NAN, INF, -INF, 1e308]


@pytest.mark.parametrize("bad", BAD)
def test_missing_and_infinite_numbers_are_dashes(bad: float | None) -> None:
    broken = Entry(
        name="broken",
        scores={n: Score(value=bad, interval=(bad, bad), ideal=bad, retrained=bad, missing="no holdout set") for n in scores(0, 0, 0)},
        panels={"text": {"truth_ratios": [bad, bad]}},
        curves=[Point(step=i, epoch=bad, loss=bad, terms={"forget": bad}, scores={"x": bad}) for i in range(3)],
        relearn=[Relearned(step=0, scores={"forget_prob": bad})],
        cost=ReportedCost(seconds=bad, tokens=bad, flops=bad, peak_memory_bytes=bad),
    )
    half = [Point(step=i, loss=bad if i % 2 else 1.0) for i in range(9)]
    html = page.build(whole(models=[*CONTROLS, broken, Entry(name="half", curves=half, scores=scores(0.5, 0.1, 0.3))]))
    assert sections(html) == UNJUDGED
    assert not re.search(r"\b(nan|inf|none|null)\b", re.sub(r"<meta[^>]*>|<(style|script|pre).*?</\1>", "", html, flags=re.S), re.I)
    row = html[html.index(">broken<") :].split("</tr>")[0]
    assert row.count(f">{words.DASH}<") == 3
    assert "no holdout set" in row
    everywhere = page.build(whole(models=[broken]))
    assert "tradeoff" not in sections(everywhere)


def test_every_drawn_number_is_finite_and_inside_its_picture() -> None:
    html = page.build(whole(models=[*CONTROLS, *(method(f"m{k}", 0, 0.05 * k, 10.0 ** (-3 * k), 0.08 * k) for k in range(12))]))
    pictures = re.findall(r'<svg class="chart [^"]*" viewBox="0 0 ([\d.]+) ([\d.]+)" role="img".*?</svg>', html, re.S)
    drawn = re.findall(r'<svg class="chart [^"]*" viewBox="0 0 [\d.]+ [\d.]+" role="img".*?</svg>', html, re.S)
    assert len(drawn) == 2 + 15 + 12 + 2
    assert len(re.findall('class="ink" d="M', "".join(drawn))) >= 2 * 15 + 3 * 12
    for (w, h), svg in zip(pictures, drawn, strict=True):
        for d in re.findall(r'class="(?:ink|hit|front|leader)" d="([^"]*)"', svg):
            for x, y in re.findall(r"[ML](-?[\d.]+),(-?[\d.]+)", d):
                assert -1 <= float(x) <= float(w) + 1
                assert -1 <= float(y) <= float(h) + 1


def test_many_methods_and_seeds_make_one_row_each() -> None:
    models = [*CONTROLS, *(method(f"m{k}", s, 0.3 + 0.02 * k, 10.0**-k, 0.1 + 0.05 * k) for k in range(12) for s in range(3))]
    html = page.build(whole(models=models))
    body = html[html.index('<section id="scores"') : html.index('<section id="tradeoff"')].split("<details>")[0]
    assert body.count("<tr>") == 1 + 4 + 12
    assert body.count("3 seeds") == 12
    read = Page(html)
    for k in range(12):
        assert f"m{k}:" in " ".join(str(a["aria-label"]) for a in read.all("svg", role="img"))


def test_seeds_are_pooled_as_a_mean_with_a_t_interval() -> None:
    (row,) = grouping.groups([method("npo", s, u) for s, u in enumerate((0.5, 0.6, 0.7))])
    score = row.pooled["model_utility"]
    assert score.value == pytest.approx(0.6)
    assert score.ends == pytest.approx((0.6 - 4.302653 * 0.1 / math.sqrt(3), 0.6 + 4.302653 * 0.1 / math.sqrt(3)))
    p = grouping.groups([method("npo", s, p=10.0**-k) for s, k in enumerate((1, 2, 3))])[0].pooled["forget_quality"]
    assert p.p
    assert p.value == pytest.approx(0.01)  # the mean of the logarithms, not of the numbers
    assert p.ends[1] <= 1.0


def test_entries_of_the_same_seed_are_different_rows() -> None:
    rows = grouping.groups([method("npo", 0), Entry(name="npo, beta 1", method="npo", seed=0)])
    assert [g.label for g in rows] == ["npo-0", "npo, beta 1"]


def test_page_and_table_tell_of_a_seed_without_a_value() -> None:
    models = [*CONTROLS, method("npo", 0), method("npo", 1), method("npo", 2, utility=NAN)]
    assert "2 of 3 seeds" in Page(page.build(whole(models=models))).text
    assert "(2 of 3 seeds)" in table.markdown(models, ["model_utility"])


@pytest.mark.parametrize(
    ("name", "value", "meaning"),
    [
        ("forget_prob", 0.2, "reached"),
        ("forget_prob", 0.96, "missed"),  # as the original
        ("forget_prob", 0.5, ""),
        ("model_utility", 0.62, "reached"),
        ("model_utility", 0.1, "missed"),  # nearer to random weights than to the ideal
        ("model_utility", 0.5, ""),
        ("forget_quality", 0.06, "reached"),
        ("forget_quality", 0.01, ""),
        ("forget_quality", 1e-25, "missed"),
    ],
)
def test_marks_follow_from_the_controls(name: str, value: float, meaning: str) -> None:
    at = {"model_utility": 0.6, "forget_quality": 0.2, "forget_prob": 0.3, name: value}
    rows = grouping.groups([*CONTROLS, method("npo", 0, at["model_utility"], at["forget_quality"], at["forget_prob"])])
    assert grouping.judge(rows, rows[-1], name) == meaning
    assert all(grouping.judge(rows, g, name) == "" for g in rows[:-1])


def test_a_wide_interval_is_not_success() -> None:
    wild = [method("npo", s, known=k) for s, k in enumerate((0.1, 0.9))]
    rows = grouping.groups([*CONTROLS, *wild])
    low, high = rows[-1].pooled["forget_prob"].ends
    assert low < 0.2 < high
    assert grouping.judge(rows, rows[-1], "forget_prob") != "reached"


def test_pareto_front_keeps_points_that_no_other_beats() -> None:
    points = [(0.1, 0.9), (0.5, 0.5), (0.4, 0.4), (0.9, 0.1), (0.9, 0.05)]
    assert grouping.front(points) == [0, 1, 3]
    assert grouping.front([]) == []


def test_changed_words_are_marked_in_similar_texts_alone() -> None:
    assert words.changed("Ada Lovelace wrote it.", "Ada Smith wrote it.") == [
        ("same", "Ada "),
        ("gone", "Lovelace "),
        ("new", "Smith "),
        ("same", "wrote it."),
    ]
    assert words.changed("It is a tale of two cities.", "I do not know, it is secret.") == [("new", "I do not know, it is secret.")]
    assert words.changed("a", "") == []
    html = page.build(whole())
    assert "<ins>Smith</ins>" in html
    assert "<del>Lovelace</del>" in html


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.4123, "0.412"),
        (-98.04, "\N{MINUS SIGN}98.0"),
        (12400.0, "12,400"),
        (3.14e-9, "3.1·10⁻⁹"),
        (9.96e-10, "1·10⁻⁹"),
        (0.0, "0"),
        (5e-324, "1·10⁻³²⁴"),
    ],
)
def test_numbers_read_well(value: float, shown: str) -> None:
    assert words.number(value) == shown


def test_durations_counts_and_sizes_have_units() -> None:
    assert [words.duration(s) for s in (0.35, 8.2, 59.97, 200, 3599.9, 8040, 86399, 97200)] == [
        "350 ms",
        "8.2 s",
        "1 min",
        "3 min 20 s",
        "1 h",
        "2 h 14 min",
        "1 d",
        "1 d 3 h",
    ]
    assert [words.count(n) for n in (950, 12_400, 3_100_000)] == ["950", "12.4 k", "3.1 M"]
    assert [words.flops(3.1e15), words.size(1.5 * 2**30), words.share(0.034), words.share(2.5)] == [
        "3.1 PFLOP",
        "1.5 GiB",
        "3.4 %",
        "250 %",
    ]
    assert {f(bad) for f in (words.number, words.duration, words.count, words.flops, words.size, words.share) for bad in BAD} == {
        words.DASH
    }


def test_axes_have_few_round_ticks() -> None:
    for low, high in ((0.0, 1.0), (-12.3, 0.4), (0.601, 0.6042), (0.0, 1e9), (1e-8, 3e-8), (5.0, 5.0)):
        ticks = frame.Axis(low, high).ticks(6)
        assert len(ticks) <= 7
        assert all(low - 1e-9 <= v <= high * (1 + 1e-9) + 1e-9 for v, _ in ticks)
        assert len({t for _, t in ticks}) == len(ticks)


def test_end_labels_keep_apart_and_inside() -> None:
    axis = frame.Axis(0, 1)
    box = frame.Frame(360, 300, axis, axis)
    for ys in ([20.0] * 12, [10.0, 12.0, 200.0, 262.0, 262.0], [262.0] * 3, [150.0]):
        placed = charts._apart(ys, 14, box)
        assert all(b - a >= 13.99 for a, b in pairwise(placed))
        assert placed[0] >= 7.99
        assert placed[-1] <= 270.01
    assert charts._apart([150.0], 14, box) == [150.0]


def test_a_story_is_equal_after_json() -> None:
    report_data = whole()
    text = report_data.to_json()
    json.loads(text, parse_constant=lambda c: pytest.fail(f"{c} is not JSON"))
    again = ReportData.from_json(text)
    assert again.to_json() == text
    assert page.build(again) == page.build(report_data)
    assert ReportData.from_json(json.loads(text)) == again
    with pytest.raises(ValidationError, match="verdicts"):
        ReportData.from_json({"title": "t", "models": [], "verdicts": []})


def test_write_keeps_the_old_page_when_building_fails(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    target = page.write(whole(), tmp_path / "new" / "report.html")
    assert target.read_text(encoding="utf-8") == page.build(whole())

    def fails(report_data: ReportData) -> str:
        raise RuntimeError("broken")

    monkeypatch.setattr(page, "build", fails)
    with pytest.raises(RuntimeError):
        page.write(whole(), target)
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [p.name for p in target.parent.iterdir()] == ["report.html"]


def test_tables_as_text_show_intervals_and_marks() -> None:
    models = [*CONTROLS, *(method("npo", s, u) for s, u in enumerate((0.5, 0.6, 0.7))), method("a|b\nc", 0, known=NAN)]
    columns = ["model_utility", "forget_prob", "unheard_of"]
    lines = table.markdown(models, columns).splitlines()
    assert lines[0] == "| model | seeds | model_utility ↑ | forget_prob ≈ | unheard_of |"
    assert lines[2] == f"| full | 1 | 0.630 [0.620, 0.640] | 0.950 [0.930, 0.970] | {words.DASH} |"
    assert lines[6].startswith("| npo | 3 | 0.600 ± 0.248 |")
    assert lines[7].startswith("| a\\|b c | 1 |")
    assert len(lines) == 2 + 4 + 2
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(table.render(models, columns))
    shown = console.export_text()
    assert "✕" not in shown.split("npo")[0]
    assert re.search(r"npo +3 +✓ 0\.600 .*\n +± 0\.248", shown)


def test_a_table_leaves_out_what_the_terminal_has_no_room_for() -> None:
    models = [*CONTROLS, *(method("some_method", s, u) for s, u in enumerate((0.5, 0.6, 0.7)))]
    columns = ["model_utility", "forget_prob", "unheard_of_score"]

    def shown(width: int) -> str:
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(table.render(models, columns, width))
        text = console.export_text()
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        return text

    full = shown(80)
    lines = full.splitlines()
    assert lines[0].split() == ["model", "forget", "unheard"]
    assert lines[1].split() == ["model", "seeds", "utility", "↑", "prob", "≈", "of_score"]
    assert "[0.620, 0.640]" in full
    narrow = shown(50)
    assert "[0.620, 0.640]" not in narrow
    assert "± 0.248" in narrow
    assert "of_score" in narrow
    assert "prob ≈" in shown(34)
    assert "prob ≈" not in shown(30)
    assert "utility ↑" in shown(30)


def test_recorded_tables_of_a_method_are_drawn_by_block() -> None:
    records = [{"block": i, "refusal": 0.1 * i, "true answer": 0.9 - 0.1 * i} for i in (2, 5, 9)]
    lunar = Entry(name="lunar", receipt={"shown": {"replies by block": records, "fit": records[:1]}})
    read = Page(page.build(whole(models=[*CONTROLS, lunar])))
    assert "shown" in sections(page.build(whole(models=[*CONTROLS, lunar])))
    assert {"refusal", "true answer"} <= set(read.words)
    assert {"lunar: replies by block", "lunar: fit"} <= set(read.words)
    assert {"2", "5", "9"} <= set(read.words)
    assert "shown" not in sections(page.build(whole()))


def panel(name: str, html: str, style: str = "") -> ModuleType:
    """A panel that shows its own data after the title of the story and the labels of the rows."""

    def shown(report_data: ReportData, rows: Sequence[Group]) -> str:
        data = [str(e.panels[name]) for group in rows for e in group.entries if name in e.panels]
        return f"{html}<p>{report_data.title}: {', '.join(group.label for group in rows)}: {', '.join(data)}</p></section>" if data else ""

    module = ModuleType(name)
    module.html = shown  # type: ignore[attr-defined]
    module.STYLE = style  # type: ignore[attr-defined]
    return module


@pytest.fixture
def dials() -> Iterator[None]:
    section = '<section id="dials" data-nav="The dials"><h2>Dials</h2>'
    catalog.register("panels", "dials", panel("dials", section, ".dial { color: red; }"))
    yield
    catalog.unregister("panels", "dials")


@pytest.mark.usefixtures("dials")
def test_a_registered_panel_shows_its_sections_and_style_and_is_in_the_navigation() -> None:
    models = [*whole().models[:-1], replace(method("turned", 0), panels={"dials": {"angle": 90}})]
    html = page.build(whole(models=models))
    read = Page(html)
    assert "A report: full, gold, noise, guarded, npo, turned: {'angle': 90}" in read.text
    assert ".dial { color: red; }" in html.split("</style>")[0]
    assert sections(html) == [*ORDER[:5], "dials", *ORDER[5:]], "after the panel that occurs first"
    assert [a["href"] for a in read.all("a")][1:] == [f"#{name}" for name in sections(html)[1:]]
    assert "The dials" in read.words
    plain = page.build(whole())
    assert sections(plain) == ORDER
    assert ".dial" not in plain, "a panel without data leaves no trace"


@pytest.mark.usefixtures("dials")
def test_the_story_orders_and_chooses_its_panels() -> None:
    models = [replace(e, panels={**e.panels, "dials": {"angle": 90}}) for e in whole().models]
    assert whole(models=models).shown_panels == ["text", "dials"]
    assert sections(page.build(whole(models=models, panels=["dials", "text"])))[4:6] == ["dials", "ratios"]
    assert sections(page.build(whole(models=models, panels=["dials"])))[4:6] == ["dials", "training"]


def test_an_unknown_panel_is_noted_and_the_rest_of_the_page_is_shown() -> None:
    models = [replace(e, panels={**e.panels, "hologram": {"depth": 3}}) for e in whole().models]
    html = page.build(whole(models=models))
    assert sections(html) == ORDER
    assert "Not shown, because no such panel is installed: hologram." in Page(html).text
    assert "no such panel" not in page.build(whole())


def test_a_panel_refuses_data_that_it_does_not_know() -> None:
    for broken in ({"truth_ratio": [0.1]}, {"truth_ratios": ["low"]}, [0.1]):
        models = [replace(e, panels={"text": broken}) for e in whole().models]
        with pytest.raises(ValidationError, match=r"truth_ratio|TruthRatios"):
            page.build(whole(models=models))


def test_panels_hold_plain_json_alone() -> None:
    with pytest.raises(ValidationError, match="JSON"):
        Entry(name="m", panels={"text": {"truth_ratios": (0.1, 0.2)}})


def test_without_the_names_of_two_scores_there_is_no_scatter() -> None:
    assert "tradeoff" not in sections(page.build(whole(utility="", quality="")))
    assert "tradeoff" not in sections(page.build(whole(quality="")))


def test_tables_tell_what_scores_mean() -> None:
    described = {n: replace(s, meaning=f"meaning of {n}", kind="knowledge") for n, s in scores(0.5, 0.1, 0.2).items()}
    models = [replace(e, scores=described if e.name == "rmu-0" else e.scores) for e in whole().models]
    text = Page(page.build(whole(models=models))).text
    assert all(text.count(f"meaning of {n}") == 1 for n in ("model_utility", "forget_quality"))
    titles = [str(a.get("title")) for a in Page(page.build(whole(models=models))).all("th", class_="num")]
    assert "forget_quality: meaning of forget_quality" in titles


def test_costs_say_what_they_count() -> None:
    assert "Tokens" in Page(page.build(whole())).words
    counted = Entry(name="m", cost=ReportedCost(seconds=1.0, tokens=9.0, unit="images"))
    assert "Images" in Page(page.build(ReportData(title="t", models=[counted]))).words
    assert "Tokens or images" in Page(page.build(whole(models=[*CONTROLS, counted]))).words


def test_stories_of_several_folders_keep_their_panels_and_axes(tmp_path: Any) -> None:
    bare = ReportData(title="bare", models=[Entry(name="m", panels={"hologram": {}})])
    for name, story in {"a": bare, "b": whole(receipt={}), "c": whole(panels=["text", "dials"], receipt={})}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "story.json").write_text(story.to_json())
    assert collect([tmp_path / "b"]) == whole(receipt={})
    both = collect([tmp_path / name for name in "abc"])
    assert both.panels == ["hologram", "text", "dials"]
    assert (both.utility, both.quality) == ("model_utility", "forget_quality")
    assert [e.name for e in both.models][:2] == ["m", "full"]
    assert "full (c)" in {e.name for e in both.models}


def test_published_numbers_stand_beside_ours() -> None:
    """By role or by method; a method that did not run here has a dash, and without published numbers there is no section."""
    entries = [
        Entry("original", "original", scores={"probe": Score(0.75)}),
        Entry("npo seed 0", "method", method="npo", seed=0, scores={"probe": Score(0.25)}),
    ]
    published = {"original": {"probe": 0.9, "other": 0.5}, "npo": {"probe": 0.125}, "ga": {"probe": 0.375}}
    report_data = ReportData("Title", entries, published=published, published_about="A model of 7B parameters.")
    html = page.build(report_data)
    section = html[html.index('<section id="published"') : html.index("</section>", html.index('<section id="published"'))]
    cells = re.findall(r'<td class="num">([^<]*)<small>([^<]*)</small>', section)
    assert cells == [
        ("0.900", "0.750"),
        ("0.500", words.DASH),
        ("0.125", "0.250"),
        (words.DASH, words.DASH),
        ("0.375", words.DASH),
        (words.DASH,) * 2,
    ]
    assert "A model of 7B parameters." in section
    assert '<a href="#published">' in html
    assert 'id="published"' not in page.build(ReportData("Title", entries))
    assert ReportData.from_json(report_data.to_json()) == report_data


@pytest.mark.parametrize(("far", "best"), [(0.5, 1), (0.61, 2)])
def test_a_score_that_is_best_near_the_retrained_model_has_that_model_above(far: float, best: int) -> None:
    methods = [method("near", known=0.25, utility=0.6), method("far", known=0.8, utility=far)]
    html = page.build(whole(quality="forget_prob", models=[*CONTROLS, *methods]))
    plane = html[html.index('<section id="tradeoff"') :].partition("</section>")[0]
    assert "axis reversed: best near the retrained model" in plane
    assert plane.count('class="mark method best" transform') == 2 * best, "each in the narrow and in the wide drawing"
