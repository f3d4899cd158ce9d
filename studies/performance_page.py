"""The page on time and memory, `docs/performance.md`, and its picture, made from what the benchmarks of `performance/` have written.

What a benchmark measures, its floor and its reference are told by its docstring. A number that was not measured is a dash, and a benchmark
that was not run has no table. Nothing is measured here.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from expunge.report.charts import Line, lines
from expunge.report.figures import style
from expunge.report.frame import Axis, Frame
from expunge.report.markdown import prose, table
from expunge.report.picture import grid
from expunge.report.words import DASH, count, duration, number, share, size

RESULTS = "results/performance"
PICTURE = f"../{RESULTS}/scale.svg"
HEAD = (
    "<!-- Made by `make docs` from results/performance/ and the docstrings of performance/; run the commands below to measure again. -->\n"
)
GAIN = 1.1  # a way that is faster by less is not called faster

Found = Mapping[str, Any]


def pages(root: Path) -> dict[str, str]:
    """The page, and its picture where there is something to draw, by place under `docs/`. root: of the checkout."""
    found = {p.stem: json.loads(p.read_text()) for p in sorted((root / RESULTS).glob("*.json"))}
    picture = drawn(at(found, "scale", "parts", "axes") or {})
    return {"performance.md": page(found, root / "performance", bool(picture)), **({PICTURE: picture} if picture else {})}


def page(found: Mapping[str, Found], sources: Path, picture: bool) -> str:
    """The page. found: what each benchmark has written, by its name; sources: the folder of the benchmarks."""
    out = [HEAD, "# Performance", "", INTRODUCTION, "", *overview(found), "", *limits(found), ""]
    for name, section in SECTIONS.items():
        out += [f"## {section.title}", "", *told(sources / f"{name}.py")]
        if mine := found.get(name):
            tables = section.lines(mine)
            out += [*tables, ""] if tables else []
            out += [f"![Time and memory along four axes]({PICTURE})", "", CAPTION, ""] if name == "scale" and picture else []
            out += [f"Measured on {machine(mine)}, and written to [{name}.json](../{RESULTS}/{name}.json):", ""]
        else:
            out += ["Not measured yet:", ""]
        command = at(mine, "command") or f"python -m performance.{name}"
        out += ["```sh", f"{command} --json {RESULTS}/{name}.json", "```", ""]
    return "\n".join(out)


INTRODUCTION = """\
Where time and memory go, and what the limits are. Every number is read from a file in `results/performance/`, which holds the command,
the versions and the machine that made it. Seconds tell of that machine alone; what travels is a ratio to a **floor**, which is work that
nobody can leave out, measured by turns in the same run: 1 is as fast as that, and less is faster. A **reference** is the way in which
most research code does the same."""


def overview(found: Mapping[str, Found]) -> list[str]:
    """A line a benchmark."""
    rows = []
    for name, mine in ((n, found[n]) for n in SECTIONS if n in found):
        s = SECTIONS[name]
        speedup = at(mine, "speedup_over_reference")
        slower = DASH if speedup is None else f"{number(speedup, 2)} times as long"
        place = s.title.lower().replace(" ", "-")
        rows.append([f"[{s.title}](#{place})", s.floor or DASH, number(at(mine, "ratio_to_floor"), 2), s.reference or DASH, slower])
    return table(("what", "floor", "ours / floor", "reference", "which takes"), rows)


def told(source: Path) -> list[str]:
    """What a benchmark says of itself, the command left out."""
    doc = (ast.get_docstring(ast.parse(source.read_text())) or "") if source.exists() else ""
    paragraphs = [" ".join(p.split()) for p in doc.split("\n\n") if not p.startswith("    ")]
    return [line for p in paragraphs for line in (prose(p), "")]


# --- sections ---


def evaluation(found: Found) -> list[str]:
    s, parts = at(found, "parts", "seconds") or {}, at(found, "parts") or {}
    steps = (  # each is what a way takes beyond the one before it
        ("reading of given answers, and scores", "reading", None),
        ("gradient norms", "reading and gradients", "reading"),
        ("answers of the model's own", "ours, tokens known", "reading and gradients"),
        ("tokens and packing", "ours", "ours, tokens known"),
    )
    spent = [(what, minus(s.get(way), s.get(before) if before else 0.0)) for what, way, before in steps]
    rows = [[what, duration(x), share(over(x, s.get("ours")))] for what, x in [*spent, ("all of it", s.get("ours"))]]
    rows += [[f"floor: {n}", duration(s.get(n)), share(over(s.get(n), s.get("ours")))] for n in ("body", "generate")]
    kinds = {"sequences": "sequences", "generations": "answers", "gradient norms": "gradient norms"}
    many = ", ".join(f"{count(parts.get(k))} {n}" for k, n in kinds.items())
    hard, reading = at(parts, "ratio_to_floor", "wall", "ours, drafts off"), at(parts, "reading to body", "wall")
    apart = "; ".join(f"{n} {number(v)}" for n, v in (found.get("largest differences") or {}).items())
    return [
        *table((f"where time goes ({many})", "time", "share"), rows),
        "",
        f"Reading takes {number(reading, 2)} of the time of the bare body, since answers to one question share it. Where a model recites,",
        f"the reading has shown most of what it will say; without that help the whole takes {number(hard, 2)} of its floors.",
        *(["", f"Largest differences to the reference, item by item: {apart}."] if apart else []),
    ]


def generation(found: Found) -> list[str]:
    s, parts = at(found, "parts", "seconds") or {}, at(found, "parts") or {}
    rows = [
        [n, duration(x), number(at(parts, "ratio_to_floor", "wall", n), 2), number(at(parts, "answers that differ", n))]
        for n, x in s.items()
    ]
    return table((f"way ({count(parts.get('answers'))} answers)", "time", "/ floor", "answers that differ"), rows)


def training(found: Found) -> list[str]:
    keys = ("to_floor", "to_lean", "whole_to_floor")
    rows = [
        [m, duration(p.get("seconds")), *(number(p.get(k), 2) for k in keys), number(p.get("must"), 2)]
        for m, p in (found.get("parts") or {}).items()
    ]
    return table(("method", "an epoch", "/ plain epoch", "/ lean epoch", "whole run / plain epoch", "must be at most"), rows)


def gradients(found: Found) -> list[str]:
    rows = [
        [kind, n, duration(x), number(over(x, at(p, "seconds", "mean gradient")), 2)]
        for kind, p in (found.get("parts") or {}).items()
        for n, x in (p.get("seconds") or {}).items()
    ]
    return table(("rows", "what", "time", "/ mean gradient"), rows)


def memory(found: Found) -> list[str]:
    sizes, must = at(found, "parts", "bytes") or {}, at(found, "parts", "must")
    rows = [[n, size(x), number(over(x, sizes.get("plain")), 2)] for n, x in sizes.items() if not n.startswith("evaluation")]
    four = at(found, "parts", "four times the rows")
    return [
        *table(("way", "peak above the start", f"/ plain (must be at most {number(must, 1)})"), rows),
        "",
        f"An evaluation takes {size(sizes.get('evaluation x1'))}, and of four times the rows {number(four, 2)} times that.",
    ]


def startup(found: Found) -> list[str]:
    walls = at(found, "parts", "seconds", "wall") or {}
    rows = [[f"`{n}`" if "expunge" in n else n, duration(x)] for n, x in walls.items()]
    return table(("process", f"time (a command may take {duration(at(found, 'parts', 'must'))})"), rows)


def pools(found: Found) -> list[str]:
    rows = [
        [size_, way, number(x), number(over(x, ways.get("one by one")), 2)]
        for size_, ways in (at(found, "parts", "models_per_minute") or {}).items()
        for way, x in ways.items()
    ]
    return table(("model", "way", "models a minute", "/ one by one"), rows)


def scale(found: Found) -> list[str]:
    grown, logits = at(found, "parts", "memory against rows") or {}, at(found, "parts", "logits against length") or {}
    few, many = grown.get("rows") or (DASH, DASH)
    more = [[w, number(x, 2), number(at(grown, "bytes a token", w))] for w, x in (grown.get("times") or {}).items()]
    held = [
        [way, count(length), *(size(x) for x in sizes)]
        for way, mine in logits.items()
        if isinstance(mine, Mapping)
        for length, *sizes in zip(logits.get("length", ()), *(mine.get(k, ()) for k in HELD), strict=False)
    ]
    return [
        *(line for line in (*table(("peak memory", f"of {many} rows / of {few}", "bytes for a token more"), more), "") if more),
        *table((f"{count(logits.get('vocabulary'))} classes", "tokens a row", *HELD.values()), held),
    ]


HELD = {"logits": "logits at a time", "whole logits": "logits at every position", "bytes": "peak memory"}


class Section(NamedTuple):
    """A benchmark on the page: its title, what its numbers are ratios to, and the lines that it becomes."""

    title: str
    lines: Callable[[Found], list[str]]
    floor: str = ""
    reference: str = ""


SECTIONS = {
    "evaluation": Section("An evaluation", evaluation, "bare body, and the library's `generate`", "one pass for each metric, whole logits"),
    "generation": Section("Answers of the model", generation, "the library's `generate`, sorted", "`generate`, as rows come"),
    "training": Section(
        "An epoch of unlearning", training, "plain epoch; the worst method for what it may take", "NPO by a `Trainer` with a second model"
    ),
    "gradients": Section("Gradients of single rows", gradients, "one backward pass, for the mean alone", "one backward pass a row"),
    "memory": Section("Memory", memory, "plain fine-tuning; the worst method"),
    "scale": Section("Scale", scale, "bare log-probabilities, or a plain epoch; the worst point"),
    "pools": Section("Pools of models", pools, reference="one model after the other"),
    "startup": Section("Start-up", startup, "an interpreter with the libraries of the command line"),
}


# --- limits ---


def limits(found: Mapping[str, Found]) -> list[str]:
    """What is slow, what is missed and what nobody has tried, as far as the numbers tell; and what follows from how things are done."""
    return ["## Limits", "", *(f"- {line}" for line in (*_untried(found), *_missed(found), *_no_gain(found), *BUILT_IN))]


BUILT_IN = [
    "A model that changes its scores after the head (a soft cap, a scale) is read with the logits of a whole batch.",
    "Training holds the logits at all labels of a micro-batch, several times over: with a large vocabulary, `--micro` is what bounds them.",
    "Gradient norms hold the logits of one row at least, however long it is.",
    "The rows, their tokens and a few numbers a label are kept in memory; everything else is streamed.",
]


def _untried(found: Mapping[str, Found]) -> Iterator[str]:
    if {at(f, "machine", "device") for f in found.values()} == {"cpu"}:
        yield "No number here is from a GPU, and none says what to expect there."
    if missing := [f"`{n}`" for n in SECTIONS if n not in found]:
        yield f"Not measured yet: {', '.join(missing)}."
    points = [p for axis in (at(found, "scale", "parts", "axes") or {}).values() for p in axis]
    if most := max((p.get("parameters", 0) for p in points), default=0):
        yield f"The largest model here has {count(most)} weights, in float32; larger ones, and other types, are extrapolation."


def _missed(found: Mapping[str, Found]) -> Iterator[str]:
    for method, p in (at(found, "training", "parts") or {}).items():
        yield from _beyond(f"an epoch of `{method}`, to a plain one", p.get("to_floor"), p.get("must"))
    for method, x in (at(found, "memory", "parts", "to_plain") or {}).items():
        yield from _beyond(f"peak memory of `{method}`, to plain fine-tuning's", x, at(found, "memory", "parts", "must"))
    for command, x in (at(found, "startup", "parts", "seconds", "wall") or {}).items():
        if command.startswith("expunge"):
            yield from _beyond(f"seconds until `{command}` has answered", x, at(found, "startup", "parts", "must"))
    grown = at(found, "scale", "parts", "memory against rows") or {}
    yield from _beyond("peak memory of an evaluation of more rows, to that of few", at(grown, "times", "evaluation"), grown.get("must"))
    logits = at(found, "scale", "parts", "logits against length") or {}
    yield from _beyond("logits at a time of longer rows, to those of shorter ones", logits.get("longer over shorter"), logits.get("must"))
    for what, name in (("an evaluation", "evaluation"), ("answers of the model", "generation")):
        yield from _beyond(f"{what}, to the floor", at(found, name, "ratio_to_floor"), 1.0)


def _beyond(what: str, value: float | None, must: float | None) -> Iterator[str]:
    if value is not None and must is not None and value > must:
        yield f"**Missed**: {what}: {number(value, 2)}, and at most {number(must, 2)} is wanted."


def _no_gain(found: Mapping[str, Found]) -> Iterator[str]:
    for kind, p in (at(found, "gradients", "parts") or {}).items():
        for what in ("norms", "squares"):
            gain = p.get(f"{what}, loop over ours")
            if gain is not None and gain < GAIN:
                yield f"{what.capitalize()} of gradients of {kind} are no faster than a loop over rows ({number(gain, 2)})."
    for model, ways in (at(found, "pools", "parts", "models_per_minute") or {}).items():
        for way, x in ways.items():
            if way != "at once" and x < GAIN * ways.get("at once", 0) and "processes" in way:
                yield f"Of `{model}`, {way} make {number(x)} models a minute, and one process {number(ways['at once'])}."


# --- the picture ---

WAYS = {"reading": 0, "unlearning": 1, "evaluation": 2, "plain": 3}  # by the colour of their lines
X: dict[str, tuple[str, str, float]] = {  # axis -> label, key, what a unit is
    "rows": ("rows →", "rows", 1),
    "length": ("tokens a row →", "length", 1),
    "vocabulary": ("vocabulary, thousands →", "vocabulary", 1000),
    "model": ("weights, millions →", "parameters", 10**6),
}
Y: dict[str, tuple[str, bool, float]] = {  # key -> label, whether logarithmic, what a unit is
    "seconds": ("↑ seconds", True, 1),
    "to_floor": ("↑ times the floor", False, 1),
    "bytes": ("↑ peak memory, MiB", True, 2**20),
}
SIZE = (310.0, 220.0)
CAPTION = "Both axes are logarithmic, but for the ratios. *plain* is the plain epoch that unlearning is compared with."


def drawn(axes: Mapping[str, Sequence[Found]]) -> str:
    """Seconds, ratio to the floor and peak memory along each axis; '' where nothing was measured."""
    rows = [row for axis in X if len(axes.get(axis, ())) > 1 and (row := [c for y in Y if (c := _chart(axes[axis], axis, y))])]
    label = "Time, time over its floor, and peak memory of reading, evaluation and unlearning, against " + ", ".join(axes)
    return grid(rows, SIZE, label) if rows else ""


def _chart(points: Sequence[Found], axis: str, y: str) -> Markup | None:
    (x_label, key, unit), (y_label, log, y_unit) = X[axis], Y[y]
    xs = [_log(p.get(key), unit) for p in points]
    drawn = []
    for way, i in WAYS.items():
        ys = [_log(at(p, way, y), y_unit) if log else at(p, way, y) for p in points]
        if any(v is not None for v in ys):
            drawn.append(Line(xs, ys, style(i), way, way))
    if not drawn:
        return None
    values = [v for line in drawn for v in line.ys if v is not None]
    above = Axis.around(values, y_label, log) if log else Axis(0, max(1.2, *values) * 1.08, y_label)
    frame = Frame(*SIZE, Axis.around([x for x in xs if x is not None], x_label, True), above, left=46, right=76)
    extra = "" if log else f'<line class="guide" x1="46" x2="{SIZE[0] - 76:g}" y1="{frame.py(1):.1f}" y2="{frame.py(1):.1f}"/>'
    for line in drawn:
        spots = [(frame.px(a), frame.py(b)) for a, b in zip(line.xs, line.ys, strict=True) if a is not None and b is not None]
        extra += f'<g class="{line.css}">' + "".join(f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>' for a, b in spots) + "</g>"
    return lines(frame, drawn, f"{y_label} by {x_label}", extra=extra, most=10)


def _log(value: float | None, unit: float) -> float | None:
    return math.log10(value / unit) if value else None


# --- numbers ---


def at(found: Any, *keys: str) -> Any:
    """What lies at a path of keys; None where the path breaks off."""
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def machine(found: Found) -> str:
    """Where numbers come from, in words."""
    mine = at(found, "machine") or {}
    threads = mine.get("threads")
    where = [f"{threads} thread{'s' * (threads != 1)}" if threads else "", mine.get("processor"), mine.get("device")]
    return ", ".join(dict.fromkeys([*filter(None, where), f"torch {at(found, 'versions', 'torch') or DASH}"]))


def over(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b else None


def minus(a: float | None, b: float | None) -> float | None:
    return a - b if a is not None and b is not None else None
