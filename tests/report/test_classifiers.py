"""The pictures of a classifier on the report page: counted, pooled, drawn and named as the story has it."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

import pytest
import test_report as text
from pydantic import ValidationError
from test_report import BAD, HOSTILE, ORDER, Page, sections

from expunge.report import grids, grouping, page
from expunge.report.frame import Axis
from expunge.report.panels import image, image_features
from expunge.report.report_data import Classes, Entry, LayerSimilarity, ReportData, Sample, Score

NAMES = ["cat", "dog", "fox"]
MINE = ["pictures", "classes", "confidence", "features"]
DOT = "iVBORw0KGgo="


def made(**changes: Any) -> Classes:
    """Foxes are forgotten altogether: 8 forgotten ones, 6 of them called dogs, 2 still foxes."""
    parts: dict[str, Any] = {
        "names": NAMES,
        "called": {
            "forget": [(2, 1, 6), (2, 2, 2)],
            "retain": [(0, 0, 9), (1, 1, 9)],
            "holdout": [(0, 0, 3), (0, 1, 1), (1, 1, 4), (2, 1, 4)],
        },
        "confidence": {"forget": [6, 0, 0, 2], "unseen": [4, 0, 0, 0]},
        "entropy": {"forget": [2, 4, 2], "unseen": [0, 4, 0]},
        "roc": [(0.0, 0.0), (0.25, 0.5), (1.0, 1.0)],
        "layers": [LayerSimilarity("block.0", 0.9, 0.7), LayerSimilarity("head", 0.6, 0.8)],
        "places": [(math.cos(i), math.sin(i), i % 3, i % 3 == 2) for i in range(12)],
    }
    return Classes(**{**parts, **changes})


def entry(name: str, role: Any = "method", seed: int | None = 0, classes: Classes | None = None, **more: Any) -> Entry:
    scores = {
        "model_utility": Score(value=0.8 + 0.01 * len(name)),
        "h_lr": Score(value=0.5, direction="higher", ideal=1.0),
        "mia_loss": Score(value=0.625),
        "knn_forget": Score(value=0.25),
    }
    return Entry(
        name=name if seed in (None, 0) else f"{name} {seed}",
        role=role,
        method=name if role == "method" else "",
        label="" if role == "method" else name,
        seed=seed if role == "method" else None,
        scores=scores,
        classes=classes or made(),
        **more,
    )


PAIR = [entry("original", "original"), entry("retrained", "retrained")]
STRIP = [
    Sample("image 1", "fox", {"original": "fox", "retrained": "dog", "npo": "fox"}, "forget", DOT),
    Sample("image 2", "cat", {"original": "cat", "retrained": "cat", "npo": "dog"}, "retain", DOT),
]


def told(*methods: Entry, **changes: Any) -> ReportData:
    parts: dict[str, Any] = {"title": "A classifier", "models": [*PAIR, *(methods or [entry("npo")])], "quality": "h_lr", "samples": STRIP}
    return ReportData(**{**parts, **changes})


def drawn(report_data: ReportData) -> image.Pictures:
    found = image.pictures(report_data, grouping.groups(report_data.models))
    assert found is not None
    return found


def hovers(svg: str) -> list[str]:
    return re.findall("<title>(.*?)</title>", svg)


def test_sections_of_a_classifier_come_in_order_and_a_text_model_has_none() -> None:
    html = page.build(told())
    assert sections(html) == ["verdict", "scores", "tradeoff", *MINE]
    assert [a["href"] for a in Page(html).all("a")] == ["#scores", "#tradeoff", *(f"#{s}" for s in MINE)]
    plain = page.build(text.whole())
    assert sections(plain) == ORDER
    assert not re.search(r"\.strip|\.bins|<img|>Images<", plain), "the page of a text model carries nothing of a classifier's"


def test_parts_that_are_missing_are_left_out() -> None:
    for part, gone in {
        "confidence entropy roc": "confidence",
        "places layers": "features",
        "called": "classes",
    }.items():
        bare = made(**{p: type(getattr(made(), p))() for p in part.split()})
        models = [replace(e, classes=bare) for e in told().models]
        assert sections(page.build(told(models=models))) == ["verdict", "scores", "tradeoff", *(s for s in MINE if s != gone)]
    assert "pictures" not in sections(page.build(told(models=[replace(e, classes=made(called={})) for e in told().models], samples=[])))
    assert sections(page.build(told(models=[replace(e, classes=Classes([])) for e in told().models], samples=[]))) == [
        "verdict",
        "scores",
        "tradeoff",
    ]


def test_accuracy_by_class_by_hand() -> None:
    (panel,) = drawn(told()).accuracy
    assert {"cat, npo: 75 %", "dog, npo: 100 %", "fox, npo: 0 %", "fox, original: 0 %", "cat, retrained: 75 %"} <= {*hovers(panel.narrow)}
    assert panel.narrow.count('class="lit"') == 1, "the forgotten class is shaded"


def test_confusion_by_hand_and_over_seeds() -> None:
    found = drawn(told()).confusion
    assert [p.name for p in found] == ["original", "retrained", "npo"]
    assert hovers(found[2].narrow) == [
        "cat called cat: 75 % of 4",
        "cat called dog: 25 % of 4",
        "dog called dog: 100 % of 4",
        "fox called dog: 100 % of 4",
    ]
    assert found[2].note == "accuracy 0.875", "of the classes that remain: 7 of 8"
    other = made(called={**made().called, "holdout": [(0, 0, 12), (1, 1, 4), (2, 2, 4)]})
    two = drawn(told(entry("npo", seed=0), entry("npo", seed=1, classes=other))).confusion[2]
    assert "cat called cat: 94 % of 16" in hovers(two.narrow), "seeds are added up, not averaged"
    assert two.note == "accuracy 0.958"


def test_without_unseen_items_accuracies_are_of_known_ones() -> None:
    called = {n: c for n, c in made().called.items() if n != "holdout"}
    report_data = told(models=[replace(e, classes=made(called=called)) for e in told().models])
    assert not drawn(report_data).unseen
    assert "known images of each class" in Page(page.build(report_data)).text
    assert "unseen images of each class" in Page(page.build(told())).text


def test_what_forgotten_items_are_called_by_hand() -> None:
    panel = drawn(told()).called
    assert panel is not None
    assert "npo calls 75 % of 8 forgotten items dog" in hovers(panel.narrow)
    assert "npo calls 25 % of 8 forgotten items fox" in hovers(panel.narrow)
    assert panel.narrow.count("cell right") == panel.narrow.count("cell wrong") == 3, "still called foxes, and called dogs, by three models"
    assert '<text class="tick mid strong"' in panel.narrow


def test_where_items_of_every_class_are_forgotten_none_is_pointed_at() -> None:
    called = {**made().called, "forget": [(0, 0, 2), (1, 1, 2), (2, 2, 2)], "retain": [(0, 0, 9), (1, 1, 9), (2, 2, 9)]}
    found = drawn(told(models=[replace(e, classes=made(called=called)) for e in told().models]))
    assert found.called is None
    assert found.lit == ""
    assert 'class="lit"' not in found.accuracy[0].narrow
    some = {**called, "forget": [(2, 2, 2)]}
    found = drawn(told(models=[replace(e, classes=made(called=some)) for e in told().models]))
    assert found.lit == "fox, of which some items were forgotten"
    assert drawn(told()).lit == "fox, which was forgotten altogether"


def test_many_classes_are_drawn_as_those_that_matter_and_the_rest() -> None:
    names = [f"class {i}" for i in range(100)]
    right = [(i, i, 5) for i in range(100)]
    damaged = [(i, i if i != 77 else 78, 5) for i in range(100) if i != 50]
    known = [c for c in right if c[0] != 50]
    called = {"forget": [(50, 61, 9), (50, 50, 1)], "retain": known, "holdout": [*damaged, (50, 61, 5)]}
    before = {"forget": [(50, 50, 10)], "retain": known, "holdout": right}
    models = [replace(e, classes=made(names=names, called=before, places=[])) for e in PAIR]
    report_data = told(models=[*models, entry("npo", classes=made(names=names, called=called, places=[]))])
    found = drawn(report_data)
    words = found.confusion[-1].narrow
    heads = re.findall(r'class="tick end(?: strong)?"[^>]*>([^<]*)<', words)
    assert len(heads) == image.MOST
    assert heads[-1] == "others"
    assert {"class 50", "class 61", "class 77"} <= {*heads}, "the forgotten one, what it is called, and what was damaged"
    assert "others called others: 100 %" in " ".join(hovers(words))
    assert "Of 100 classes" in Page(page.build(report_data)).text


def test_histograms_show_shares_and_tell_the_middle() -> None:
    found = drawn(told())
    assert [p.name for p in found.confidence] == ["original", "retrained", "npo"]
    svg = found.confidence[2].narrow
    assert hovers(svg) == ["half of the forgotten images above 0.17", "half of the unseen images above 0.12"]  # 4/6 and 1/2 of a bin of 1/4
    axis = Axis(0, math.log(3))
    assert image._middle([0.25, 0.5, 0.25], axis) == pytest.approx(math.log(3) / 2)
    assert '<path class="bins forget"' in svg.split('<path class="bins unseen"')[0]
    without = drawn(told(entry("npo", classes=made(confidence={"forget": [6, 2]})))).confidence[2]
    assert "bins unseen" not in without.narrow


def test_roc_lies_beside_the_retrained_model_and_says_its_area() -> None:
    found = drawn(told()).roc
    assert [p.note for p in found] == ["AUC 0.62"] * 3
    assert [p.narrow.count('class="ink"') for p in found] == [3, 2, 3], "chance, the retrained model and the model itself"
    two = drawn(told(entry("npo", seed=0), entry("npo", seed=1))).roc[2]
    assert two.narrow.count('class="ink"') == 4


def test_layers_stand_beside_how_alike_the_two_controls_are() -> None:
    original = made(layers=[LayerSimilarity("block.0", 1.0, 0.5), LayerSimilarity("head", 1.0, 0.3)])
    models = [replace(PAIR[0], classes=original), PAIR[1]]
    (panel,) = drawn(told(models=[*models, entry("npo")])).layers
    assert hovers(panel.narrow) == [
        "original and retrained: block.0 0.50, head 0.30",
        "npo and the original model: block.0 0.90, head 0.60",
        "npo and the retrained model: block.0 0.70, head 0.80",
    ]
    half = made(layers=[LayerSimilarity("block.0", None, 0.5), LayerSimilarity("head", float("nan"), 0.5)])
    alone = drawn(told(models=[entry("npo", classes=half)]))
    assert len(hovers(alone.layers[0].narrow)) == 1
    assert not drawn(told(models=[entry("npo", classes=made(layers=[LayerSimilarity("head", 0.5, 0.5)]))])).layers


@pytest.mark.parametrize("mirrored", [1, -1])
def test_a_turned_picture_is_turned_back(mirrored: int) -> None:
    places = image_features.places(made())
    turn = 2.1
    c, s = math.cos(turn), math.sin(turn)
    moved = [replace(p, x=c * p.x - s * p.y * mirrored, y=s * p.x + c * p.y * mirrored) for p in places]
    back = image_features.turned(moved, places)
    assert max(abs(a.x - b.x) + abs(a.y - b.y) for a, b in zip(back, places, strict=True)) < 1e-9
    assert max(abs(a.x - b.x) for a, b in zip(moved, places, strict=True)) > 0.5
    others = [replace(p, label=0) for p in places]
    assert image_features.turned(moved, others) == moved, "other items: nothing to be laid beside"


def test_forgotten_items_lie_on_top_and_every_class_has_its_name() -> None:
    panel = drawn(told()).plane[0]
    kept, gone = (panel.narrow.index(f'class="spots {css}"') for css in ("kept", "gone"))
    assert kept < gone
    assert [len(re.findall(r"h0", d)) for d in re.findall(r'class="spots \w+" d="([^"]*)"', panel.narrow)] == [8, 4]
    assert re.findall(r'class="place mid(?: strong)?"[^>]*>(\w+)<', panel.narrow) == NAMES
    assert panel.note == "neighbours 0.250"


def test_a_strip_shows_pictures_and_what_they_are_called() -> None:
    html = page.build(told())
    read = Page(html)
    assert [a["src"] for a in read.all("img")] == [f"data:image/png;base64,{DOT}"] * 2
    table = html[html.index('<table class="strip">') :].split("</table>")[0]
    row = {name: r for r in table.split("<tr>")[3:] for name in ("original", "retrained", "npo") if f"<span>{name}</span>" in r}
    assert [re.findall(r'chip( right)?">(\w+)<', row[n]) for n in ("original", "retrained", "npo")] == [
        [(" right", "fox"), (" right", "cat")],
        [("", "dog"), (" right", "cat")],
        [(" right", "fox"), ("", "dog")],
    ]
    assert table.index("To be forgotten") < table.index("To be kept")
    mixed = told(samples=[STRIP[1], Sample("Who?", "Ada", {"npo": "Bo"}), STRIP[0]])
    assert "samples" in sections(page.build(mixed)), "questions in words keep their cards"
    assert [s.set for s in page._strip(mixed).pictures] == ["retain", "forget"]


def test_pictures_are_png_in_base64_and_nothing_else() -> None:
    for bad in ('" onerror="alert(1)', "javascript:alert(1)", "https://example.org/x.png", "AA==\n"):
        with pytest.raises(ValidationError):
            Sample("q", picture=bad)


def test_everything_the_user_wrote_is_escaped() -> None:
    evil = made(names=[HOSTILE, "dog", HOSTILE * 2], layers=[LayerSimilarity(HOSTILE, 0.5, 0.5), LayerSimilarity("head", 0.5, 0.5)])
    models = [replace(e, classes=evil) for e in [*PAIR, entry(HOSTILE)]]
    html = page.build(told(models=models, samples=[Sample(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, HOSTILE, DOT)]))
    read = Page(html)
    assert html.count("<script>") == 1
    assert len(read.all("img")) == 1
    assert not [a for _, a in read.tags if "onerror" in a]


@pytest.mark.parametrize("bad", BAD)
def test_numbers_that_are_none_draw_nothing(bad: float | None) -> None:
    broken = made(
        roc=[(bad, 0.5), (0.5, bad)],
        layers=[LayerSimilarity("block.0", bad, bad), LayerSimilarity("head", bad, bad)],
        places=[(bad, 0.1, 0, True), (0.1, bad, 99, False)],
        called={"forget": [(99, -1, 3), (0, 0, -5)], "holdout": [(7, 8, 0)]},
        confidence={"forget": []},
        entropy={"forget": [0, 0], "unseen": [-1]},
    )
    html = page.build(told(entry("broken", classes=broken)))
    assert sections(html) == ["verdict", "scores", "tradeoff", *MINE]
    assert not re.search(r"\b(nan|inf|none|null)\b", re.sub(r"<meta[^>]*>|<(style|script|pre).*?</\1>", "", html, flags=re.S), re.I)
    page.build(told(models=[entry("broken", classes=broken)]))


def test_every_drawn_number_is_finite_and_inside_its_picture() -> None:
    html = page.build(told(*(entry(f"method_{k}") for k in range(12))))
    found = re.findall(r'<svg class="chart [^"]*" viewBox="0 0 ([\d.]+) ([\d.]+)" role="img"(.*?)</svg>', html, re.S)
    assert len(found) == 2 + 2 + 12 + 14 * 5 + 12, "tradeoff, called, accuracy; confusion, confidence, entropy, ROC, plane; layers"
    for width, height, svg in found:
        for d in re.findall(r'class="(?:ink|bins \w+|spots \w+)" d="([^"]*)"', svg):
            for x, y in re.findall(r"[ML](-?[\d.]+),(-?[\d.]+)", d):
                assert -1 <= float(x) <= float(width) + 1
                assert -1 <= float(y) <= float(height) + 1
        for x, y, w, h in re.findall(r'<rect class="[\w ]+" x="(-?[\d.]+)" y="(-?[\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg):
            assert min(float(x), float(y)) >= 0
            assert float(x) + float(w) <= float(width) + 0.1
            assert float(y) + float(h) <= float(height) + 0.1


def test_names_of_columns_lean_where_they_do_not_fit_and_stand_where_there_are_many() -> None:
    def turns(columns: int, words: str) -> set[str]:
        heads = [grids.Heading(words)] * columns
        return {*re.findall(r"rotate\((-\d+)\)", grids.matrix({}, [grids.Heading("a")], heads, ("a", "b"), 340, ""))}

    assert turns(3, "cat") == set()
    assert turns(8, "aeroplane") == {"-50"}
    assert turns(30, "aeroplane") == {"-90"}


def test_a_story_survives_json_and_unknown_parts_are_an_error() -> None:
    report_data = told()
    again = ReportData.from_json(report_data.to_json())
    assert again == report_data
    assert page.build(again) == page.build(report_data)
    with pytest.raises(ValidationError, match="confusions"):
        ReportData.from_json({"title": "t", "models": [{"name": "m", "classes": {"names": [], "confusions": []}}]})


def test_models_of_other_classes_are_named_instead_of_drawn() -> None:
    found = drawn(told(entry("npo"), entry("other", classes=made(names=["a", "b", "c"]))))
    assert [p.name for p in found.confusion] == ["original", "retrained", "npo"]
    assert found.note == "Not drawn, for knowing other classes: other."


def test_a_large_page_stays_small() -> None:
    names = [f"class {i}" for i in range(100)]
    holdout = [(i, (i + k * k) % 100, 3) for i in range(100) for k in range(8)]
    many = made(
        names=names,
        called={"forget": holdout[24:32], "retain": [c for c in holdout if c[0] != 3], "holdout": holdout},
        places=[(math.cos(i), math.sin(3 * i), i % 100, i < 100) for i in range(300)],
        roc=[(i / 99, i / 99) for i in range(100)],
    )
    models = [replace(e, classes=many) for e in (*PAIR, *(entry(f"m{k}", seed=s) for k in range(12) for s in range(3)))]
    html = page.build(told(models=models, samples=[replace(s, picture=DOT[:8] * 1000) for s in STRIP * 6]))
    assert len(html) < 1_500_000
    more = re.findall(r"<summary>(\d+) more</summary>", html)
    assert more == ["4", "6", "6", "6", "6", "6", "4"], "beyond eight panels the rest is folded"
