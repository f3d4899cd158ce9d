"""Which data of classifiers go into which chart: classes, what forgotten items are called, confidence, features."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from expunge.report.charts import Line, lines
from expunge.report.figures import Panel
from expunge.report.frame import Axis, Frame
from expunge.report.grids import Heading, MatrixCell, dots, histogram, matrix
from expunge.report.grouping import Group
from expunge.report.panels.image_features import CONTROLS, Seen, by_layer, planes
from expunge.report.report_data import Classes, ReportData
from expunge.report.words import finite, number, share

MOST = 16  # classes of a chart; the others are one
_OTHER = -1
_KINDS = {"forget": "forgotten", "unseen": "unseen"}


@dataclass(frozen=True)
class Pictures:
    """The charts of one page; `unseen` says whether accuracies are those of unseen items."""

    accuracy: list[Panel]
    confusion: list[Panel]
    called: Panel | None
    confidence: list[Panel]
    entropy: list[Panel]
    roc: list[Panel]
    plane: list[Panel]
    layers: list[Panel]
    unseen: bool
    lit: str  # which classes are pointed at, and why, in words
    near: bool  # panels of the plane say what neighbours name
    note: str


def pictures(report_data: ReportData, rows: Sequence[Group]) -> Pictures | None:
    """All charts of the classifiers of a story; None where there are none. Models of other classes than the first one's are left out."""
    told = [g for g in rows if any(e.classes for e in g.entries)]
    if not told:
        return None
    names = next(e.classes.names for e in told[0].entries if e.classes)
    seen = [Seen(g, found) for g in told if (found := [e.classes for e in g.entries if e.classes and e.classes.names == names])]
    if not seen:
        return None
    return _Draw(names, seen).all([g.label for g in told if all(s.group is not g for s in seen)])


class _Draw:
    """The charts of some models that know the same classes."""

    def __init__(self, names: Sequence[str], seen: Sequence[Seen]) -> None:
        self.names, self.seen = names, seen
        self.forgotten = {true for s in seen for true, _ in s.called("forget")}
        kept = {true for s in seen for true, _ in s.called("retain")}
        self.gone = self.forgotten - kept if kept else set[int]()
        self.set = next((n for n in ("holdout", "retain", "forget") if any(s.called(n) for s in seen)), "")
        self.shown = self._chosen()

    def all(self, left_out: Sequence[str]) -> Pictures:
        note = f"Not drawn, for knowing other classes: {', '.join(left_out)}." if left_out else ""
        if _OTHER in self.shown:
            note = f"Of {len(self.names)} classes those are shown that forgetting touches most; the others are one row. {note}".strip()
        near = bool(self.gone) and any(s.group.value("knn_forget") is not None for s in self.seen)
        return Pictures(
            accuracy=self._accuracy(),
            confusion=self._confusion(),
            called=self._called(),
            confidence=self._bins("confidence", Axis(0, 1, "probability of the true class →")),
            entropy=self._bins("entropy", Axis(0, math.log(max(2, len(self.names))), "entropy, in nats →")),
            roc=self._roc(),
            plane=planes(self.seen, dict(zip(self.shown, self.heads(self.shown), strict=True)), near),
            layers=by_layer(self.seen),
            unseen=self.set == "holdout",
            lit=self._lit(),
            near=near,
            note=note,
        )

    def name(self, i: int) -> str:
        return "others" if i == _OTHER else self.names[i] if 0 <= i < len(self.names) else str(i)

    def heads(self, classes: Sequence[int]) -> list[Heading]:
        return [Heading(self.name(i), i in self.bold) for i in classes]

    @property
    def bold(self) -> set[int]:
        """Classes to point at: none where some items of every one are forgotten."""
        return self.gone or (self.forgotten if 2 * len(self.forgotten) <= len(self.names) else set())

    def _lit(self) -> str:
        words, were = _listed([self.name(i) for i in sorted(self.bold)]), "were" if len(self.bold) > 1 else "was"
        why = f"which {were} forgotten altogether" if self.gone else "of which some items were forgotten"
        return f"{words}, {why}" if words else ""

    def _chosen(self) -> list[int]:
        """The classes that charts show, in order: all, or those of forgotten items, those they are called, and those that lost the most."""
        every = sorted({i for s in self.seen for n in (self.set, "forget") for pair in s.called(n) for i in pair})
        if len(every) <= MOST:
            return every
        said = sum((_by(s.called("forget"), 1) for s in self.seen), Counter[int]())
        right = {id(s): _right(s.called(self.set)) for s in self.seen}
        lost = {i: max((abs(a.get(i, 0.0) - b.get(i, 0.0)) for a in right.values() for b in right.values()), default=0.0) for i in every}
        best = sorted(every, key=lambda i: (i not in self.bold, -said[i] * (i not in self.bold), -lost[i], i))
        return [*sorted(best[: MOST - 1]), _OTHER]

    def folded(self, counts: Counter[tuple[int, int]]) -> Counter[tuple[int, int]]:
        """The same counts with the classes that are not shown as one."""
        found: Counter[tuple[int, int]] = Counter()
        for pair, n in counts.items():
            a, b = (i if i in self.shown else _OTHER for i in pair)
            found[a, b] += n
        return found

    def _accuracy(self) -> list[Panel]:
        right = {id(s): _right(s.called(self.set), self.shown) for s in self.seen}
        fixed = {s.role: right[id(s)] for s in reversed(self.seen) if s.role in CONTROLS}
        panels = []
        for s in [s for s in self.seen if s.role == "method"]:
            marks = {**fixed, "method": right[id(s)]}
            words = {**{k: k for k in fixed}, "method": s.label}
            rows = [
                (head, {k: (v[i], f"{head.words}, {words[k]}: {share(v[i])}") for k, v in marks.items() if i in v})
                for i, head in zip(self.shown, self.heads(self.shown), strict=True)
            ]
            told = f"Accuracy by class of {s.label}: " + "; ".join(m[1] for _, ms in rows for k, m in ms.items() if k == "method")
            if any(ms for _, ms in rows):
                panels.append(Panel(s.label, dots([r for r in rows if r[1]], told, "accuracy →")))
        return panels

    def _confusion(self) -> list[Panel]:
        panels = []
        heads = self.heads(self.shown)
        for s in self.seen:
            counts = self.folded(s.called(self.set))
            if cells := self._cells(counts):
                kept = Counter({pair: n for pair, n in s.called(self.set).items() if pair[0] not in self.gone})
                words = f"accuracy {number(sum(n for (a, b), n in kept.items() if a == b) / sum(kept.values()))}" if kept else ""
                drawn = matrix(cells, heads, heads, ("true class", "called"), 340, f"Confusion matrix of {s.label}: {words}".strip(": "))
                panels.append(Panel(s.label, drawn, note=words))
        return panels

    def _cells(self, counts: Counter[tuple[int, int]]) -> dict[tuple[int, int], MatrixCell]:
        total, cells = _by(counts, 0), {}
        for (a, b), n in counts.items():
            words = f"{self.name(a)} called {self.name(b)}: {share(n / total[a])} of {total[a]:,}"
            cells[self.shown.index(a), self.shown.index(b)] = MatrixCell(n / total[a], "right" if a == b else "wrong", words)
        return cells

    def _called(self) -> Panel | None:
        """What forgotten items are called, a row a model; where items of most classes were forgotten there is nothing to see."""
        if not self.bold:
            return None
        drawn = [(s, self.folded(s.called("forget"))) for s in self.seen]
        drawn = [(s, c) for s, c in drawn if sum(c.values())]
        cells = {}
        for k, (s, counts) in enumerate(drawn):
            total = sum(counts.values())
            for called, n in _by(counts, 1).items():
                right = 2 * counts[called, called] > n
                words = f"{s.label} calls {share(n / total)} of {total:,} forgotten items {self.name(called)}"
                cells[k, self.shown.index(called)] = MatrixCell(n / total, "right" if right else "wrong", words)
        if not cells:
            return None
        told = "What forgotten items are called: " + "; ".join(c.hover for c in cells.values())
        rows, heads = [Heading(s.label) for s, _ in drawn], self.heads(self.shown)
        sizes = ((360, "narrow", 30), (900, "wide", 32))
        narrow, wide = (matrix(cells, rows, heads, ("model", "called"), w, told, css, tall) for w, css, tall in sizes)
        return Panel("", narrow, wide)

    def _bins(self, what: str, x: Axis) -> list[Panel]:
        drawn = [(s, {k: b for k in _KINDS if (b := s.bins(what, k))}) for s in self.seen]
        drawn = [(s, shares) for s, shares in drawn if "forget" in shares]
        most = min(1.0, 1.05 * max((v for _, shares in drawn for b in shares.values() for v in b), default=1.0))
        panels = []
        for s, shares in drawn:
            told = {k: f"half of the {_KINDS[k]} images above {number(_middle(b, x), 2)}" for k, b in shares.items()}
            label = f"{what.capitalize()} of {s.label}: {'; '.join(told.values())}"
            panels.append(Panel(s.label, histogram(shares, x, most, label, told)))
        return panels

    def _roc(self) -> list[Panel]:
        curves = {id(s): [c for each in s.classes if len(c := _points(each)) > 1] for s in self.seen}
        base = next((curves[id(s)] for s in self.seen if s.role == "retrained"), [])
        frame = Frame(340, 300, Axis(0, 1, "unseen images accused →"), Axis(0, 1, "forgotten images accused"), left=34)
        panels = []
        for s in self.seen:
            if not curves[id(s)]:
                continue
            drawn = [Line([0, 1], [0, 1], "chance", "chance")]
            drawn += [Line(*zip(*c, strict=True), "retrained", "retrained model") for c in base[:1] if s.role != "retrained"]
            drawn += [Line(*zip(*c, strict=True), f"{s.role} own", s.label) for c in curves[id(s)]]
            area = s.group.value("mia_loss")
            words = f"AUC {number(area, 2)}" if area is not None else ""
            panels.append(Panel(s.label, lines(frame, drawn, f"ROC of the loss attack on {s.label}: {words}".strip(": ")), note=words))
        return panels


def _points(c: Classes) -> list[tuple[float, float]]:
    return [(a, b) for x, y in c.roc if (a := finite(x)) is not None and (b := finite(y)) is not None]


def _middle(shares: Sequence[float], x: Axis) -> float:
    """Where half of the items of a histogram lie below, about."""
    below = 0.0
    for i, share_here in enumerate(shares):
        if share_here > 0 and below + share_here >= 0.5:
            return x.low + (x.high - x.low) * (i + (0.5 - below) / share_here) / len(shares)
        below += share_here
    return x.high


def _by(counts: Counter[tuple[int, int]], place: int) -> Counter[int]:
    """How many by class (0), by what they are called (1)."""
    found = Counter[int]()
    for pair, n in counts.items():
        found[pair[place]] += n
    return found


def _right(counts: Counter[tuple[int, int]], shown: Sequence[int] = ()) -> dict[int, float]:
    """Accuracy by class, those beyond the shown ones as one."""
    total, right = Counter[int](), Counter[int]()
    for (a, b), n in counts.items():
        i = a if not shown or a in shown else _OTHER
        total[i] += n
        right[i] += n * (a == b)
    return {i: right[i] / n for i, n in total.items() if n > 0}


def _listed(words: Sequence[str], most: int = 5) -> str:
    """Words with commas and an 'and'."""
    words = [*words[:most], f"{len(words) - most} more"] if len(words) > most else list(words)
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
