"""Charts of classifiers: accuracy by class, what forgotten images are called, confidence, features."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydantic
from pydantic import ConfigDict, TypeAdapter

from expunge.report.charts import Line, lines
from expunge.report.features import CONTROLS, LayerMeans, Place, by_layer, mean_by_layer, planes
from expunge.report.figures import Figure
from expunge.report.frame import Axis, Frame
from expunge.report.grids import Heading, MatrixCell, dots, histogram, matrix
from expunge.report.grouping import Group
from expunge.report.report_data import Entry, ReportData
from expunge.report.templates import render
from expunge.report.words import finite, number, share

NAME = "image"
STYLE = Path(__file__).with_name("image.css").read_text(encoding="utf-8")
MOST = 16  # classes of a chart; the others are one
NEIGHBORS = "knn_forget"  # the score that charts of features name
LOSS_ATTACK = "mia_loss"  # the score that ROC curves name
_OTHER = -1
_KINDS = {"forget": "forgotten", "unseen": "unseen"}
_STRICT = ConfigDict(extra="forbid")


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class LayerSimilarity:
    """How alike the features of the forgotten items are to another model's at one place, by linear CKA: 0 to 1."""

    name: str
    original: float | None = None
    retrained: float | None = None


@pydantic.dataclasses.dataclass(frozen=True, config=_STRICT)
class Classes:
    """The panel's data on one model: what a classifier makes of the items of each set, as counts, so that seeds can be added up.

    Args:
        names: of the classes, in the order of the outputs.
        called: set -> (class, what it is called, how many), for the pairs that occur.
        confidence: forget, unseen (of the same classes) -> items by the probability of their class, in equal bins from 0 to 1.
        entropy: the same by the entropy of the outputs, in equal bins from 0 to log(classes) nats.
        roc: of the loss attack: (share of unseen items called members, share of forgotten items called members) at every threshold.
        layers: similarity of features, first layer to last.
        places: some items in a plane: x and y from -1 to 1, class, whether it is forgotten.
    """

    names: list[str]
    called: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)
    confidence: dict[str, list[int]] = field(default_factory=dict)
    entropy: dict[str, list[int]] = field(default_factory=dict)
    roc: list[tuple[float | None, float | None]] = field(default_factory=list)
    layers: list[LayerSimilarity] = field(default_factory=list)
    places: list[tuple[float | None, float | None, int, bool]] = field(default_factory=list)


_ADAPTER: TypeAdapter[Classes] = TypeAdapter(Classes)


def data(classes: Classes) -> dict[str, Any]:
    """Classes as plain JSON data, for `Entry.panels`."""
    plain: dict[str, Any] = _ADAPTER.dump_python(classes, mode="json")
    return plain


def read(entry: Entry) -> Classes | None:
    """The classes of a model; None where it has none.

    Raises:
        pydantic.ValidationError: when the data have unknown fields, or values of another type.
    """
    return _ADAPTER.validate_python(entry.panels[NAME]) if NAME in entry.panels else None


def html(report_data: ReportData, rows: Sequence[Group]) -> str:
    """The sections of classifiers; '' where no model has classes."""
    charts = draw(rows)
    strip = any(sample.picture for sample in report_data.samples)  # whether the page has a strip of pictures before the panels
    return render("panels/image.html.j2", charts=charts, strip=strip).strip() if charts else ""


@dataclass(frozen=True)
class Charts:
    """The charts of one page; `unseen` says whether accuracies are those of unseen items."""

    accuracy: list[Figure]
    confusion: list[Figure]
    called: Figure | None
    confidence: list[Figure]
    entropy: list[Figure]
    roc: list[Figure]
    plane: list[Figure]
    layers: list[Figure]
    unseen: bool
    lit: str  # the highlighted classes, and why they are, in words
    near: bool  # whether charts of the plane say what neighbors name
    note: str


def draw(rows: Sequence[Group]) -> Charts | None:
    """All charts of the classifiers among the rows; None without any. Models of other classes than the first one's are left out."""
    read_rows = [(group, [classes for entry in group.entries if (classes := read(entry))]) for group in rows]
    classifiers = [(group, every) for group, every in read_rows if every]
    if not classifiers:
        return None
    names = classifiers[0][1][0].names
    alike = [(group, [classes for classes in every if classes.names == names]) for group, every in classifiers]
    drawn = [ClassifierRow(group, every) for group, every in alike if every]
    return _Draw(names, drawn).charts([group.label for group, every in alike if not every])


@dataclass(frozen=True)
class ClassifierRow:
    """A row with the classes of its models."""

    group: Group
    classes: Sequence[Classes]

    @property
    def label(self) -> str:
        return self.group.label

    @property
    def role(self) -> str:
        return self.group.role

    def calls(self, set_name: str) -> Counter[tuple[int, int]]:
        """(class, what it is called) -> how many items of a set, over all seeds."""
        counts: Counter[tuple[int, int]] = Counter()
        for classes in self.classes:
            for true, called, n in classes.called.get(set_name, ()):
                counts[true, called] += max(0, n)
        return +counts

    def bins(self, quantity: str, items: str) -> list[float]:
        """Shares of the items (forget, unseen) by bin of a quantity (confidence, entropy), over all seeds."""
        histograms = [bins for classes in self.classes if (bins := getattr(classes, quantity).get(items))]
        counts = [sum(max(0, bins[i]) for bins in histograms if i < len(bins)) for i in range(max(map(len, histograms), default=0))]
        return [n / sum(counts) for n in counts] if sum(counts) else []

    @property
    def curves(self) -> list[list[tuple[float, float]]]:
        """The ROC curves of all seeds that have at least two points."""
        return [points for classes in self.classes if len(points := _points(classes)) > 1]

    @property
    def places(self) -> list[Place]:
        """The items in the plane, of the first seed that has any."""
        return next((placed for classes in self.classes if (placed := places(classes))), [])

    @property
    def layers(self) -> LayerMeans:
        """The similarity by layer, seeds averaged."""
        layers = [layer for classes in self.classes for layer in classes.layers]
        means = {control: mean_by_layer([(layer.name, getattr(layer, control)) for layer in layers]) for control in CONTROLS}
        return LayerMeans(self.group, list(dict.fromkeys(layer.name for layer in layers)), means)


class _Draw:
    """The charts of models that know the same classes."""

    def __init__(self, names: Sequence[str], rows: Sequence[ClassifierRow]) -> None:
        self.names, self.rows = names, rows
        self.forgotten = {true for row in rows for true, _ in row.calls("forget")}
        kept = {true for row in rows for true, _ in row.calls("retain")}
        self.gone = self.forgotten - kept if kept else set[int]()
        self.set_name = next((name for name in ("holdout", "retain", "forget") if any(row.calls(name) for row in rows)), "")
        self.shown = self._chosen()

    def charts(self, left_out: Sequence[str]) -> Charts:
        note = f"Not drawn, for knowing other classes: {', '.join(left_out)}." if left_out else ""
        if _OTHER in self.shown:
            note = f"Of {len(self.names)} classes those are shown that forgetting touches most; the others are one row. {note}".strip()
        near = bool(self.gone) and any(row.group.value(NEIGHBORS) is not None for row in self.rows)
        headings = dict(zip(self.shown, self.headings(self.shown), strict=True))
        return Charts(
            accuracy=self._accuracy(),
            confusion=self._confusion(),
            called=self._called(),
            confidence=self._histograms("confidence", Axis(0, 1, "probability of the true class →")),
            entropy=self._histograms("entropy", Axis(0, math.log(max(2, len(self.names))), "entropy, in nats →")),
            roc=self._roc(),
            plane=planes([(row.group, row.places) for row in self.rows], headings, NEIGHBORS if near else ""),
            layers=by_layer([row.layers for row in self.rows]),
            unseen=self.set_name == "holdout",
            lit=self._lit(),
            near=near,
            note=note,
        )

    def name(self, i: int) -> str:
        return "others" if i == _OTHER else self.names[i] if 0 <= i < len(self.names) else str(i)

    def headings(self, classes: Sequence[int]) -> list[Heading]:
        return [Heading(self.name(i), i in self.bold) for i in classes]

    @property
    def bold(self) -> set[int]:
        """Classes to highlight: none where some items of every class are forgotten."""
        return self.gone or (self.forgotten if 2 * len(self.forgotten) <= len(self.names) else set())

    def _lit(self) -> str:
        words, were = _listed([self.name(i) for i in sorted(self.bold)]), "were" if len(self.bold) > 1 else "was"
        why = f"which {were} forgotten altogether" if self.gone else "of which some items were forgotten"
        return f"{words}, {why}" if words else ""

    def _chosen(self) -> list[int]:
        """The classes that charts show, in order: all, or those of forgotten items, what they are called, and those that lost the most."""
        every = sorted({i for row in self.rows for name in (self.set_name, "forget") for pair in row.calls(name) for i in pair})
        if len(every) <= MOST:
            return every
        called = sum((_totals(row.calls("forget"), 1) for row in self.rows), Counter[int]())
        accuracies = [_accuracies(row.calls(self.set_name)) for row in self.rows]
        lost = {i: max((abs(a.get(i, 0.0) - b.get(i, 0.0)) for a in accuracies for b in accuracies), default=0.0) for i in every}
        best = sorted(every, key=lambda i: (i not in self.bold, -called[i] * (i not in self.bold), -lost[i], i))
        return [*sorted(best[: MOST - 1]), _OTHER]

    def folded(self, counts: Counter[tuple[int, int]]) -> Counter[tuple[int, int]]:
        """The same counts with the classes that are not shown as one."""
        folded: Counter[tuple[int, int]] = Counter()
        for pair, n in counts.items():
            true, called = (i if i in self.shown else _OTHER for i in pair)
            folded[true, called] += n
        return folded

    def _accuracy(self) -> list[Figure]:
        accuracies = {id(row): _accuracies(row.calls(self.set_name), self.shown) for row in self.rows}
        controls = {row.role: accuracies[id(row)] for row in reversed(self.rows) if row.role in CONTROLS}
        figures = []
        for row in [row for row in self.rows if row.role == "method"]:
            models = {**controls, "method": accuracies[id(row)]}
            labels = {**{role: role for role in controls}, "method": row.label}
            marks = [
                (heading, {role: (a[i], f"{heading.words}, {labels[role]}: {share(a[i])}") for role, a in models.items() if i in a})
                for i, heading in zip(self.shown, self.headings(self.shown), strict=True)
            ]
            hovers = "; ".join(by_role["method"][1] for _, by_role in marks if "method" in by_role)
            if any(by_role for _, by_role in marks):
                chart = dots([mark for mark in marks if mark[1]], f"Accuracy by class of {row.label}: {hovers}", "accuracy →")
                figures.append(Figure(row.label, chart))
        return figures

    def _confusion(self) -> list[Figure]:
        figures = []
        headings = self.headings(self.shown)
        for row in self.rows:
            counts = row.calls(self.set_name)
            if cells := self._cells(self.folded(counts)):
                kept = Counter({pair: n for pair, n in counts.items() if pair[0] not in self.gone})
                accuracy = sum(n for (true, called), n in kept.items() if true == called) / sum(kept.values()) if kept else None
                note = f"accuracy {number(accuracy)}" if accuracy is not None else ""
                label = f"Confusion matrix of {row.label}: {note}".strip(": ")
                figures.append(Figure(row.label, matrix(cells, headings, headings, ("true class", "called"), 340, label), note=note))
        return figures

    def _cells(self, counts: Counter[tuple[int, int]]) -> dict[tuple[int, int], MatrixCell]:
        totals, cells = _totals(counts, 0), {}
        for (true, called), n in counts.items():
            hover = f"{self.name(true)} called {self.name(called)}: {share(n / totals[true])} of {totals[true]:,}"
            css = "right" if true == called else "wrong"
            cells[self.shown.index(true), self.shown.index(called)] = MatrixCell(n / totals[true], css, hover)
        return cells

    def _called(self) -> Figure | None:
        """What forgotten items are called, a row a model. None where items of most classes were forgotten: the chart would show nothing."""
        if not self.bold:
            return None
        every = [(row, self.folded(row.calls("forget"))) for row in self.rows]
        known = [(row, counts) for row, counts in every if sum(counts.values())]
        cells = {}
        for k, (row, counts) in enumerate(known):
            total = sum(counts.values())
            for called, n in _totals(counts, 1).items():
                css = "right" if 2 * counts[called, called] > n else "wrong"
                hover = f"{row.label} calls {share(n / total)} of {total:,} forgotten items {self.name(called)}"
                cells[k, self.shown.index(called)] = MatrixCell(n / total, css, hover)
        if not cells:
            return None
        label = "What forgotten items are called: " + "; ".join(cell.hover for cell in cells.values())
        headings, columns = [Heading(row.label) for row, _ in known], self.headings(self.shown)
        sizes = ((360, "narrow", 30), (900, "wide", 32))
        narrow, wide = (matrix(cells, headings, columns, ("model", "called"), w, label, css, tall) for w, css, tall in sizes)
        return Figure("", narrow, wide)

    def _histograms(self, quantity: str, x: Axis) -> list[Figure]:
        every = [(row, {items: bins for items in _KINDS if (bins := row.bins(quantity, items))}) for row in self.rows]
        known = [(row, shares) for row, shares in every if "forget" in shares]
        most = min(1.0, 1.05 * max((v for _, shares in known for bins in shares.values() for v in bins), default=1.0))
        figures = []
        for row, shares in known:
            hovers = {k: f"half of the {_KINDS[k]} images above {number(_middle(bins, x), 2)}" for k, bins in shares.items()}
            label = f"{quantity.capitalize()} of {row.label}: {'; '.join(hovers.values())}"
            figures.append(Figure(row.label, histogram(shares, x, most, label, hovers, "share of images")))
        return figures

    def _roc(self) -> list[Figure]:
        base = next((row.curves for row in self.rows if row.role == "retrained"), [])
        frame = Frame(340, 300, Axis(0, 1, "unseen images accused →"), Axis(0, 1, "forgotten images accused"), left=34)
        figures = []
        for row in self.rows:
            if not row.curves:
                continue
            curves = [Line([0, 1], [0, 1], "chance", "chance")]
            curves += [_curve(points, "retrained", "retrained model") for points in base[:1] if row.role != "retrained"]
            curves += [_curve(points, f"{row.role} own", row.label) for points in row.curves]
            area = row.group.value(LOSS_ATTACK)
            note = f"AUC {number(area, 2)}" if area is not None else ""
            label = f"ROC of the loss attack on {row.label}: {note}".strip(": ")
            figures.append(Figure(row.label, lines(frame, curves, label), note=note))
        return figures


def places(classes: Classes) -> list[Place]:
    """The items of a model whose places are known, moved into the plane's bounds."""
    finite_places = [(finite(x), finite(y), label, forgotten) for x, y, label, forgotten in classes.places]
    return [
        Place(max(-1.0, min(1.0, x)), max(-1.0, min(1.0, y)), label, forgotten)
        for x, y, label, forgotten in finite_places
        if x is not None and y is not None
    ]


def _points(classes: Classes) -> list[tuple[float, float]]:
    """The points of a ROC curve whose coordinates are known."""
    return [(a, b) for x, y in classes.roc if (a := finite(x)) is not None and (b := finite(y)) is not None]


def _curve(points: Sequence[tuple[float, float]], css: str, hover: str) -> Line:
    return Line([x for x, _ in points], [y for _, y in points], css, hover)


def _middle(shares: Sequence[float], x: Axis) -> float:
    """The value that about half of the items of a histogram lie below."""
    below = 0.0
    for i, bin_share in enumerate(shares):
        if bin_share > 0 and below + bin_share >= 0.5:
            return x.low + (x.high - x.low) * (i + (0.5 - below) / bin_share) / len(shares)
        below += bin_share
    return x.high


def _totals(counts: Mapping[tuple[int, int], int], position: int) -> Counter[int]:
    """How many items by class (position 0), or by what they are called (position 1)."""
    totals = Counter[int]()
    for pair, n in counts.items():
        totals[pair[position]] += n
    return totals


def _accuracies(counts: Mapping[tuple[int, int], int], shown: Sequence[int] = ()) -> dict[int, float]:
    """Accuracy by class; classes beyond the shown ones count as one."""
    totals, right = Counter[int](), Counter[int]()
    for (true, called), n in counts.items():
        i = true if not shown or true in shown else _OTHER
        totals[i] += n
        right[i] += n * (true == called)
    return {i: right[i] / n for i, n in totals.items() if n > 0}


def _listed(words: Sequence[str], most: int = 5) -> str:
    """Words with commas and an 'and'."""
    words = [*words[:most], f"{len(words) - most} more"] if len(words) > most else list(words)
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
