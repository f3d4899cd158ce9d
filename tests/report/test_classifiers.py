"""The charts of a classifier on the report page: counts are pooled, drawn and named as the story has them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import test_report as text
from pydantic import ValidationError
from test_report import BAD, HOSTILE, ORDER, Page, sections

from expunge.report import features, grids, grouping, page
from expunge.report.frame import Axis
from expunge.report.panels import image
from expunge.report.panels.image import Classes, LayerSimilarity
from expunge.report.report_data import Entry, ReportData, Sample, Score

NAMES = ["cat", "dog", "fox"]
SECTIONS = ["pictures", "classes", "confidence", "features"]
DOT = "iVBORw0KGgo="


def foxes(**changes: Any) -> Classes:
    """Foxes are forgotten altogether: of 8 forgotten images 6 are called dogs, 2 still foxes."""
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


def entry(name: str, role: Any = "method", seed: int | None = 0, classes: Classes | None = None, **fields: Any) -> Entry:
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
        panels={"image": image.data(classes or foxes())},
        **fields,
    )


def with_classes(entries: Sequence[Entry], classes: Classes) -> list[Entry]:
    return [replace(e, panels={"image": image.data(classes)}) for e in entries]


PAIR = [entry("original", "original"), entry("retrained", "retrained")]
STRIP = [
    Sample("image 1", "fox", {"original": "fox", "retrained": "dog", "npo": "fox"}, "forget", DOT),
    Sample("image 2", "cat", {"original": "cat", "retrained": "cat", "npo": "dog"}, "retain", DOT),
]


def story(*methods: Entry, **changes: Any) -> ReportData:
    parts: dict[str, Any] = {
        "title": "A classifier",
        "models": [*PAIR, *(methods or [entry("npo")])],
        "utility": "model_utility",
        "quality": "h_lr",
        "samples": STRIP,
    }
    return ReportData(**{**parts, **changes})


def charts(report_data: ReportData) -> image.Charts:
    drawn = image.draw(grouping.groups(report_data.models))
    assert drawn is not None
    return drawn


def hovers(svg: str) -> list[str]:
    return re.findall("<title>(.*?)</title>", svg)


def test_sections_of_a_classifier_come_in_order_and_a_text_model_has_none() -> None:
    html = page.build(story())
    assert sections(html) == ["verdict", "scores", "tradeoff", *SECTIONS]
    assert [a["href"] for a in Page(html).all("a")] == ["#scores", "#tradeoff", *(f"#{s}" for s in SECTIONS)]
    plain = page.build(text.whole())
    assert sections(plain) == ORDER
    assert not re.search(r"\.strip|\.bins|<img|>Images<", plain), "the page of a text model carries no part of a classifier's"


def test_missing_parts_are_left_out() -> None:
    for part, gone in {
        "confidence entropy roc": "confidence",
        "places layers": "features",
        "called": "classes",
    }.items():
        bare = foxes(**{p: type(getattr(foxes(), p))() for p in part.split()})
        models = with_classes(story().models, bare)
        assert sections(page.build(story(models=models))) == ["verdict", "scores", "tradeoff", *(s for s in SECTIONS if s != gone)]
    assert "pictures" not in sections(page.build(story(models=with_classes(story().models, foxes(called={})), samples=[])))
    empty = page.build(story(models=with_classes(story().models, Classes([])), samples=[]))
    assert sections(empty) == ["verdict", "scores", "tradeoff"]
    assert ".bins" not in empty, "without sections there is no style"


def test_accuracy_by_class_matches_hand_counts() -> None:
    (figure,) = charts(story()).accuracy
    assert {"cat, npo: 75 %", "dog, npo: 100 %", "fox, npo: 0 %", "fox, original: 0 %", "cat, retrained: 75 %"} <= {*hovers(figure.narrow)}
    assert figure.narrow.count('class="lit"') == 1, "the forgotten class is shaded"


def test_confusion_matches_hand_counts_over_seeds() -> None:
    confusion = charts(story()).confusion
    assert [p.name for p in confusion] == ["original", "retrained", "npo"]
    assert hovers(confusion[2].narrow) == [
        "cat called cat: 75 % of 4",
        "cat called dog: 25 % of 4",
        "dog called dog: 100 % of 4",
        "fox called dog: 100 % of 4",
    ]
    assert confusion[2].note == "accuracy 0.875", "of the classes that remain: 7 of 8"
    second = foxes(called={**foxes().called, "holdout": [(0, 0, 12), (1, 1, 4), (2, 2, 4)]})
    two = charts(story(entry("npo", seed=0), entry("npo", seed=1, classes=second))).confusion[2]
    assert "cat called cat: 94 % of 16" in hovers(two.narrow), "seeds are added up, not averaged"
    assert two.note == "accuracy 0.958"


def test_without_unseen_items_accuracies_are_of_known_items() -> None:
    called = {n: c for n, c in foxes().called.items() if n != "holdout"}
    report_data = story(models=with_classes(story().models, foxes(called=called)))
    assert not charts(report_data).unseen
    assert "known images of each class" in Page(page.build(report_data)).text
    assert "unseen images of each class" in Page(page.build(story())).text


def test_calls_of_forgotten_items_match_hand_counts() -> None:
    figure = charts(story()).called
    assert figure is not None
    assert "npo calls 75 % of 8 forgotten items dog" in hovers(figure.narrow)
    assert "npo calls 25 % of 8 forgotten items fox" in hovers(figure.narrow)
    assert figure.narrow.count("cell right") == figure.narrow.count("cell wrong") == 3, (
        "still called foxes, and called dogs, by three models"
    )
    assert '<text class="tick mid strong"' in figure.narrow


def test_no_class_is_highlighted_where_items_of_every_class_are_forgotten() -> None:
    called = {**foxes().called, "forget": [(0, 0, 2), (1, 1, 2), (2, 2, 2)], "retain": [(0, 0, 9), (1, 1, 9), (2, 2, 9)]}
    drawn = charts(story(models=with_classes(story().models, foxes(called=called))))
    assert drawn.called is None
    assert drawn.lit == ""
    assert 'class="lit"' not in drawn.accuracy[0].narrow
    partly = {**called, "forget": [(2, 2, 2)]}
    drawn = charts(story(models=with_classes(story().models, foxes(called=partly))))
    assert drawn.lit == "fox, of which some items were forgotten"
    assert charts(story()).lit == "fox, which was forgotten altogether"


def test_of_many_classes_those_that_matter_are_drawn_and_the_others_are_one() -> None:
    names = [f"class {i}" for i in range(100)]
    right = [(i, i, 5) for i in range(100)]
    damaged = [(i, i if i != 77 else 78, 5) for i in range(100) if i != 50]
    known = [c for c in right if c[0] != 50]
    called = {"forget": [(50, 61, 9), (50, 50, 1)], "retain": known, "holdout": [*damaged, (50, 61, 5)]}
    before = {"forget": [(50, 50, 10)], "retain": known, "holdout": right}
    models = with_classes(PAIR, foxes(names=names, called=before, places=[]))
    report_data = story(models=[*models, entry("npo", classes=foxes(names=names, called=called, places=[]))])
    svg = charts(report_data).confusion[-1].narrow
    labels = re.findall(r'class="tick end(?: strong)?"[^>]*>([^<]*)<', svg)
    assert len(labels) == image.MOST
    assert labels[-1] == "others"
    assert {"class 50", "class 61", "class 77"} <= {*labels}, "the forgotten one, what it is called, and what was damaged"
    assert "others called others: 100 %" in " ".join(hovers(svg))
    assert "Of 100 classes" in Page(page.build(report_data)).text


def test_histograms_show_shares_and_name_the_median() -> None:
    confidence = charts(story()).confidence
    assert [p.name for p in confidence] == ["original", "retrained", "npo"]
    svg = confidence[2].narrow
    assert hovers(svg) == ["half of the forgotten images above 0.17", "half of the unseen images above 0.12"]  # 4/6 and 1/2 of a bin of 1/4
    axis = Axis(0, math.log(3))
    assert image._middle([0.25, 0.5, 0.25], axis) == pytest.approx(math.log(3) / 2)
    assert '<path class="bins forget"' in svg.split('<path class="bins unseen"')[0]
    without = charts(story(entry("npo", classes=foxes(confidence={"forget": [6, 2]})))).confidence[2]
    assert "bins unseen" not in without.narrow


def test_roc_lies_beside_the_retrained_model_and_names_its_area() -> None:
    roc = charts(story()).roc
    assert [p.note for p in roc] == ["AUC 0.62"] * 3
    assert [p.narrow.count('class="ink"') for p in roc] == [3, 2, 3], "chance, the retrained model and the model itself"
    two = charts(story(entry("npo", seed=0), entry("npo", seed=1))).roc[2]
    assert two.narrow.count('class="ink"') == 4


def test_layers_stand_beside_the_similarity_of_the_two_controls() -> None:
    original = foxes(layers=[LayerSimilarity("block.0", 1.0, 0.5), LayerSimilarity("head", 1.0, 0.3)])
    models = [*with_classes(PAIR[:1], original), PAIR[1]]
    (figure,) = charts(story(models=[*models, entry("npo")])).layers
    assert hovers(figure.narrow) == [
        "original and retrained: block.0 0.50, head 0.30",
        "npo and the original model: block.0 0.90, head 0.60",
        "npo and the retrained model: block.0 0.70, head 0.80",
    ]
    half = foxes(layers=[LayerSimilarity("block.0", None, 0.5), LayerSimilarity("head", float("nan"), 0.5)])
    alone = charts(story(models=[entry("npo", classes=half)]))
    assert len(hovers(alone.layers[0].narrow)) == 1
    assert not charts(story(models=[entry("npo", classes=foxes(layers=[LayerSimilarity("head", 0.5, 0.5)]))])).layers


@pytest.mark.parametrize("mirrored", [1, -1])
def test_a_turned_plane_is_turned_back(mirrored: int) -> None:
    places = image.places(foxes())
    turn = 2.1
    c, s = math.cos(turn), math.sin(turn)
    moved = [replace(p, x=c * p.x - s * p.y * mirrored, y=s * p.x + c * p.y * mirrored) for p in places]
    back = features.turned(moved, places)
    assert max(abs(a.x - b.x) + abs(a.y - b.y) for a, b in zip(back, places, strict=True)) < 1e-9
    assert max(abs(a.x - b.x) for a, b in zip(moved, places, strict=True)) > 0.5
    others = [replace(p, label=0) for p in places]
    assert features.turned(moved, others) == moved, "other items: nothing to be laid beside"


def test_forgotten_items_lie_on_top_and_every_class_has_its_name() -> None:
    figure = charts(story()).plane[0]
    kept, gone = (figure.narrow.index(f'class="spots {css}"') for css in ("kept", "gone"))
    assert kept < gone
    assert [len(re.findall(r"h0", d)) for d in re.findall(r'class="spots \w+" d="([^"]*)"', figure.narrow)] == [8, 4]
    assert re.findall(r'class="place mid(?: strong)?"[^>]*>(\w+)<', figure.narrow) == NAMES
    assert figure.note == "neighbors 0.250"


def test_a_strip_shows_pictures_and_the_answers_of_each_model() -> None:
    html = page.build(story())
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
    mixed = story(samples=[STRIP[1], Sample("Who?", "Ada", {"npo": "Bo"}), STRIP[0]])
    assert "samples" in sections(page.build(mixed)), "questions in words keep their cards"
    assert [s.set for s in page._strip(mixed).pictures] == ["retain", "forget"]


def test_all_forgotten_images_follow_the_strip_or_stand_in_their_own_section() -> None:
    called = "Of all the images to be forgotten"
    for samples, heading in ((STRIP, 1), ([], 0)):
        html = page.build(story(samples=samples))
        assert sections(html) == ["verdict", "scores", "tradeoff", *SECTIONS]
        assert html.count("<h3>All forgotten images</h3>") == heading
        assert html.count('href="#pictures"') == html.count('<h2 id="pictures-h">What forgotten images are called</h2>') == 1
        assert html.index('id="pictures"') < html.index(called) < html.index('id="classes"')


def test_pictures_must_be_base64() -> None:
    for bad in ('" onerror="alert(1)', "javascript:alert(1)", "https://example.org/x.png", "AA==\n"):
        with pytest.raises(ValidationError):
            Sample("q", picture=bad)


def test_text_of_the_user_is_escaped_everywhere() -> None:
    evil = foxes(names=[HOSTILE, "dog", HOSTILE * 2], layers=[LayerSimilarity(HOSTILE, 0.5, 0.5), LayerSimilarity("head", 0.5, 0.5)])
    models = with_classes([*PAIR, entry(HOSTILE)], evil)
    html = page.build(story(models=models, samples=[Sample(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, HOSTILE, DOT)]))
    read = Page(html)
    assert html.count("<script>") == 1
    assert len(read.all("img")) == 1
    assert not [a for _, a in read.tags if "onerror" in a]


@pytest.mark.parametrize("bad", BAD)
def test_missing_and_infinite_numbers_draw_nothing(bad: float | None) -> None:
    broken = foxes(
        roc=[(bad, 0.5), (0.5, bad)],
        layers=[LayerSimilarity("block.0", bad, bad), LayerSimilarity("head", bad, bad)],
        places=[(bad, 0.1, 0, True), (0.1, bad, 99, False)],
        called={"forget": [(99, -1, 3), (0, 0, -5)], "holdout": [(7, 8, 0)]},
        confidence={"forget": []},
        entropy={"forget": [0, 0], "unseen": [-1]},
    )
    html = page.build(story(entry("broken", classes=broken)))
    assert sections(html) == ["verdict", "scores", "tradeoff", *SECTIONS]
    assert not re.search(r"\b(nan|inf|none|null)\b", re.sub(r"<meta[^>]*>|<(style|script|pre).*?</\1>", "", html, flags=re.S), re.I)
    page.build(story(models=[entry("broken", classes=broken)]))


def test_every_drawn_number_is_finite_and_inside_its_chart() -> None:
    html = page.build(story(*(entry(f"method_{k}") for k in range(12))))
    drawings = re.findall(r'<svg class="chart [^"]*" viewBox="0 0 ([\d.]+) ([\d.]+)" role="img"(.*?)</svg>', html, re.S)
    assert len(drawings) == 2 + 2 + 12 + 14 * 5 + 12, "tradeoff, called, accuracy; confusion, confidence, entropy, ROC, plane; layers"
    for width, height, svg in drawings:
        for d in re.findall(r'class="(?:ink|bins \w+|spots \w+)" d="([^"]*)"', svg):
            for x, y in re.findall(r"[ML](-?[\d.]+),(-?[\d.]+)", d):
                assert -1 <= float(x) <= float(width) + 1
                assert -1 <= float(y) <= float(height) + 1
        for x, y, w, h in re.findall(r'<rect class="[\w ]+" x="(-?[\d.]+)" y="(-?[\d.]+)" width="([\d.]+)" height="([\d.]+)"', svg):
            assert min(float(x), float(y)) >= 0
            assert float(x) + float(w) <= float(width) + 0.1
            assert float(y) + float(h) <= float(height) + 0.1


def test_column_labels_lean_when_too_wide_and_stand_upright_when_many() -> None:
    def turns(columns: int, words: str) -> set[str]:
        headings = [grids.Heading(words)] * columns
        return {*re.findall(r"rotate\((-\d+)\)", grids.matrix({}, [grids.Heading("a")], headings, ("a", "b"), 340, ""))}

    assert turns(3, "cat") == set()
    assert turns(8, "aeroplane") == {"-50"}
    assert turns(30, "aeroplane") == {"-90"}


def test_a_story_is_equal_after_json_and_unknown_parts_are_an_error() -> None:
    report_data = story()
    again = ReportData.from_json(report_data.to_json())
    assert again == report_data
    assert page.build(again) == page.build(report_data)
    with pytest.raises(ValidationError, match="confusions"):
        page.build(ReportData.from_json({"title": "t", "models": [{"name": "m", "panels": {"image": {"names": [], "confusions": []}}}]}))


def test_models_of_other_classes_are_named_instead_of_drawn() -> None:
    drawn = charts(story(entry("npo"), entry("other", classes=foxes(names=["a", "b", "c"]))))
    assert [p.name for p in drawn.confusion] == ["original", "retrained", "npo"]
    assert drawn.note == "Not drawn, for knowing other classes: other."


def test_a_large_page_stays_small() -> None:
    names = [f"class {i}" for i in range(100)]
    holdout = [(i, (i + k * k) % 100, 3) for i in range(100) for k in range(8)]
    many = foxes(
        names=names,
        called={"forget": holdout[24:32], "retain": [c for c in holdout if c[0] != 3], "holdout": holdout},
        places=[(math.cos(i), math.sin(3 * i), i % 100, i < 100) for i in range(300)],
        roc=[(i / 99, i / 99) for i in range(100)],
    )
    models = with_classes((*PAIR, *(entry(f"m{k}", seed=s) for k in range(12) for s in range(3))), many)
    html = page.build(story(models=models, samples=[replace(s, picture=DOT[:8] * 1000) for s in STRIP * 6]))
    assert len(html) < 1_500_000
    folded = re.findall(r"<summary>(\d+) more</summary>", html)
    assert folded == ["4", "6", "6", "6", "6", "6", "4"], "beyond eight panels the rest is folded"
