"""The page on time and memory, `docs/performance.md`, and its picture, generated from the result files of the benchmarks in `performance/`.

The docstring of a benchmark describes its measurement, its floor and its reference. A missing number appears as a dash, and a benchmark
without results has no table. This module measures nothing.
"""

from __future__ import annotations

import ast
import json
import math
import re
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
GAIN = 1.1  # the smallest speedup that counts as faster

Record = Mapping[str, Any]  # the results of one benchmark


def pages(root: Path) -> dict[str, str]:
    """The page, and its picture if there are numbers to draw, by path relative to `docs/`; `root` is the checkout."""
    records = {p.stem: json.loads(p.read_text()) for p in sorted((root / RESULTS).glob("*.json"))}
    picture = draw(at(records, "scale", "parts", "axes") or {})
    return {"performance.md": page(records, root / "performance", bool(picture)), **({PICTURE: picture} if picture else {})}


def page(records: Mapping[str, Record], sources: Path, picture: bool) -> str:
    """Write the page.

    Args:
        records: results by name of the benchmark.
        sources: the folder of the benchmarks.
        picture: whether there is a picture.
    """
    page_lines = [HEAD, "# Performance", "", INTRODUCTION, "", *overview(records), "", *limits(records), ""]
    for name, section in SECTIONS.items():
        page_lines += [f"## {section.title}", "", *description(sources / f"{name}.py")]
        if record := records.get(name):
            tables = section.lines(record)
            page_lines += [*tables, ""] if tables else []
            page_lines += [f"![Time and memory along four axes]({PICTURE})", "", CAPTION, ""] if name == "scale" and picture else []
            page_lines += [f"Measured on {machine(record)}, and written to [{name}.json](../{RESULTS}/{name}.json):", ""]
        else:
            page_lines += ["Not measured yet:", ""]
        command = at(record, "command") or f"python -m performance.{name}"
        page_lines += ["```sh", f"{command} --json {RESULTS}/{name}.json", "```", ""]
    return "\n".join(page_lines)


INTRODUCTION = """\
Time, memory and limits. Every number comes from a file in `results/performance/`, which contains the command, the versions and the
machine. Seconds depend on that machine; ratios to a **floor** depend on it less. A floor is the necessary work, measured in turns in the
same run: 1 is as fast as the floor, and less is faster. A **reference** is the usual way of research code to do the same."""


def overview(records: Mapping[str, Record]) -> list[str]:
    """A table with one line per benchmark."""
    rows = []
    for name, record in ((n, records[n]) for n in SECTIONS if n in records):
        section = SECTIONS[name]
        speedup = at(record, "speedup_over_reference")
        slower = DASH if speedup is None else f"{number(speedup, 2)} times as long"
        anchor = re.sub(r"[^\w -]", "", section.title.lower()).replace(" ", "-")
        ratio = number(at(record, "ratio_to_floor"), 2)
        rows.append([f"[{section.title}](#{anchor})", section.floor or DASH, ratio, section.reference or DASH, slower])
    return table(("benchmark", "floor", "ours / floor", "reference", "time of the reference"), rows)


def description(source: Path) -> list[str]:
    """The docstring of a benchmark without its command."""
    doc = (ast.get_docstring(ast.parse(source.read_text())) or "") if source.exists() else ""
    paragraphs = [" ".join(p.split()) for p in doc.split("\n\n") if not p.startswith("    ")]
    return [line for p in paragraphs for line in (prose(p), "")]


# --- sections ---


def evaluation(record: Record) -> list[str]:
    """Where the time of an evaluation goes, and the largest differences from the reference."""
    s, parts = at(record, "parts", "seconds") or {}, at(record, "parts") or {}
    steps = (  # the time of each step is the difference between two ways
        ("reading of given answers, and scores", "reading", None),
        ("gradient norms", "reading and gradients", "reading"),
        ("generated answers", "ours, tokens known", "reading and gradients"),
        ("tokens and packing", "ours", "ours, tokens known"),
    )
    spent = [(step, minus(s.get(way), s.get(before) if before else 0.0)) for step, way, before in steps]
    rows = [[step, duration(x), share(over(x, s.get("ours")))] for step, x in [*spent, ("total", s.get("ours"))]]
    rows += [[f"floor: {n}", duration(s.get(n)), share(over(s.get(n), s.get("ours")))] for n in ("body", "generate")]
    kinds = {"sequences": "sequences", "generations": "answers", "gradient norms": "gradient norms"}
    counts = ", ".join(f"{count(parts.get(k))} {n}" for k, n in kinds.items())
    without_drafts, reading = at(parts, "ratio_to_floor", "wall", "ours, drafts off"), at(parts, "reading to body", "wall")
    differences = "; ".join(f"{n} {number(v)}" for n, v in (record.get("largest differences") or {}).items())
    return [
        *table((f"step ({counts})", "time", "share"), rows),
        "",
        f"Reading takes {number(reading, 2)} of the time of the bare body, because answers to one question share its computation. If",
        "a model recites, the reading already shows most of its answers; without this help the ratio to the",
        f"floor is {number(without_drafts, 2)}.",
        *(["", f"Largest differences from the reference, item by item: {differences}."] if differences else []),
    ]


def generation(record: Record) -> list[str]:
    """Time of each way to generate answers."""
    s, parts = at(record, "parts", "seconds") or {}, at(record, "parts") or {}
    rows = [
        [n, duration(x), number(at(parts, "ratio_to_floor", "wall", n), 2), number(at(parts, "answers that differ", n))]
        for n, x in s.items()
    ]
    return table((f"way ({count(parts.get('answers'))} answers)", "time", "/ floor", "different answers"), rows)


def training(record: Record) -> list[str]:
    """Time of an epoch by method."""
    keys = ("to_floor", "to_lean", "whole_to_floor")
    rows = [
        [m, duration(p.get("seconds")), *(number(p.get(k), 2) for k in keys), number(p.get("must"), 2)]
        for m, p in (record.get("parts") or {}).items()
    ]
    return table(("method", "an epoch", "/ plain epoch", "/ lean epoch", "whole run / plain epoch", "limit"), rows)


def rollouts(record: Record) -> list[str]:
    """Time of the steps by way."""
    s, parts = at(record, "parts", "seconds") or {}, at(record, "parts") or {}
    rows = [[n, duration(x), number(over(x, s.get("floor")), 2)] for n, x in s.items()]
    work = f"{count(parts.get('steps'))} steps, {count(parts.get('answers'))} answers, {count(parts.get('tokens'))} tokens"
    return table((f"way ({work})", "time", f"/ floor (limit {number(parts.get('must'), 1)})"), rows)


def gradients(record: Record) -> list[str]:
    """Time of each quantity of gradients."""
    rows = [
        [kind, n, duration(x), number(over(x, at(p, "seconds", "mean gradient")), 2)]
        for kind, p in (record.get("parts") or {}).items()
        for n, x in (p.get("seconds") or {}).items()
    ]
    return table(("rows", "quantity", "time", "/ mean gradient"), rows)


def memory(record: Record) -> list[str]:
    """Peak memory by way."""
    sizes, must = at(record, "parts", "bytes") or {}, at(record, "parts", "must")
    evaluations = ("evaluation", "bare", "said", "bounded")
    rows = [[n, size(x), number(over(x, sizes.get("plain")), 2)] for n, x in sizes.items() if not n.startswith(evaluations)]
    four, bound = at(record, "parts", "four times the rows"), at(record, "parts", "bound")
    bare, most = at(record, "parts", "peak to bare"), at(record, "parts", "must to bare")
    of_passes = f"It is said beforehand to take {size(sizes.get('said'))}; bounded to {size(bound)}, it takes {size(sizes.get('bounded'))}."
    return [
        *table(("way", "peak above the start", f"/ plain (limit {number(must, 1)})"), rows),
        "",
        f"An evaluation takes {size(sizes.get('evaluation x1'))}, and with four times the rows {number(four, 2)} times as much.",
        *([f"That is {number(bare, 2)} times the bare passes over its rows (limit {number(most, 1)})."] if bare else []),
        *([of_passes] if bound else []),
    ]


def startup(record: Record) -> list[str]:
    """Time of each process."""
    walls = at(record, "parts", "seconds", "wall") or {}
    rows = [[f"`{n}`" if "expunge" in n else n, duration(x)] for n, x in walls.items()]
    return table(("process", f"time (limit for a command: {duration(at(record, 'parts', 'must'))})"), rows)


def commands(record: Record) -> list[str]:
    """Time of each command on a small case."""
    ratios = at(record, "parts", "ratios") or {}
    rows = [
        [f"`{n}`" if "expunge" in n else n, duration(x), number(ratios.get(n), 2)]
        for n, x in (at(record, "parts", "seconds") or {}).items()
    ]
    return table(("process", "time", "/ floor"), rows)


def sweeps(record: Record) -> list[str]:
    """Time of a sweep by kind of work, with and without what its jobs share, and the gain of a second worker."""
    kinds = {"training": "training", "evaluation": "passes over models", "scores": "scores and verdicts", "rest": "overhead"}
    seconds, ratios, cluster = (at(record, "parts", k) or {} for k in ("seconds", "ratios", "cluster"))
    named = {"sharing": "the sweep", "alone": "jobs that share nothing"}
    rows = [[name, *(duration(at(seconds, n, k)) for k in kinds), number(ratios.get(n), 2)] for n, name in named.items()]
    lines_ = table((f"way ({count(at(record, 'parts', 'jobs'))} jobs)", *kinds.values(), "/ floor"), rows)
    if cluster:
        one, two = (duration(at(cluster, "seconds", n)) for n in ("1", "2"))
        lines_ += ["", f"On a cluster one worker takes {one} and two take {two}: {number(cluster.get('speedup'), 2)} times as fast."]
    return lines_


def short_runs(record: Record) -> list[str]:
    """Time of a short run, by way."""
    ratios = at(record, "parts", "ratios") or {}
    rows = []
    for name, x in (at(record, "parts", "seconds") or {}).items():
        way, _, kind = name.partition(", ")
        rows.append([name, duration(x), number(at(ratios, kind, "cpu"), 2) if way == "ours" else DASH])
    return table((f"way ({count(at(record, 'parts', 'rows'))} rows)", "processor time", "/ floor"), rows)


def gpu(record: Record) -> list[str]:
    """Time and memory of each way on a GPU."""
    ratios, sizes = at(record, "parts", "ratios") or {}, at(record, "parts", "bytes") or {}
    rows = [[n, duration(x), number(ratios.get(n), 2), size(sizes.get(n))] for n, x in (at(record, "parts", "seconds") or {}).items()]
    about = ", ".join(f"{count(at(record, 'parts', n))} {words}" for n, words in GPU_SIZES.items())
    return table((f"work ({about})", "time", "/ floor", "peak memory above the model"), rows)


GPU_SIZES = {"parameters": "weights", "rows": "rows", "tokens a row": "tokens each"}


def large(record: Record) -> list[str]:
    """Time and memory of reading long documents, of a model of a billion weights, and of a step."""
    rows = [
        [
            f"{name}: {count(case.get('parameters'))} weights, {count(case.get('rows'))} rows of {count(case.get('length'))} tokens",
            *(text for way in LARGE_WAYS for text in (duration(at(case, way, "seconds")), size(at(case, way, "bytes")))),
            number(at(case, "reading", "to_floor"), 2),
            size(case.get("logits of a row")),
        ]
        for name, case in (at(record, "parts") or {}).items()
    ]
    return table(("case", "reading", "memory", "a step", "memory", "reading / floor", "all logits of one row"), rows)


LARGE_WAYS = ("reading", "unlearning, --micro 1")


def pools(record: Record) -> list[str]:
    """Models per minute by way."""
    rows = [
        [size_, way, number(x), number(over(x, ways.get("one by one")), 2)]
        for size_, ways in (at(record, "parts", "models_per_minute") or {}).items()
        for way, x in ways.items()
    ]
    return table(("model", "way", "models a minute", "/ one by one"), rows)


def scale(record: Record) -> list[str]:
    """Growth of memory with rows, and of logits with length."""
    grown, logits = at(record, "parts", "memory against rows") or {}, at(record, "parts", "logits against length") or {}
    few, many = grown.get("rows") or (DASH, DASH)
    growth = [[w, number(x, 2), number(at(grown, "bytes a token", w))] for w, x in (grown.get("times") or {}).items()]
    logit_rows = [
        [way, count(length), *(size(x) for x in sizes)]
        for way, by_length in logits.items()
        if isinstance(by_length, Mapping)
        for length, *sizes in zip(logits.get("length", ()), *(by_length.get(k, ()) for k in LOGITS), strict=False)
    ]
    return [
        *(line for line in (*table(("peak memory", f"of {many} rows / of {few}", "bytes per further token"), growth), "") if growth),
        *table((f"{count(logits.get('vocabulary'))} classes", "tokens per row", *LOGITS.values()), logit_rows),
    ]


LOGITS = {"logits": "logits at a time", "whole logits": "logits at every position", "bytes": "peak memory"}


class Section(NamedTuple):
    """The section of a benchmark: its title, the function for its lines, and names of its floor and its reference."""

    title: str
    lines: Callable[[Record], list[str]]
    floor: str = ""
    reference: str = ""


def ranking(record: Record) -> list[str]:
    """Time of an epoch and of a ranking of all users."""
    ratios = at(record, "parts", "ratios") or {}
    rows = [[n, duration(x), number(ratios.get(n), 2)] for n, x in (at(record, "parts", "seconds") or {}).items()]
    sizes = ", ".join(f"{count(at(record, 'parts', n))} {n}" for n in ("users", "items", "interactions"))
    peaks = at(record, "parts", "bytes") or {}
    grown = number(at(record, "parts", "all users over a tenth"), 2)
    memory = f"A ranking of a tenth of the users takes {size(peaks.get('a tenth'))}, and of all {grown} times as much."
    return [*table((f"work ({sizes})", "time", "/ floor"), rows), *(["", memory] if peaks else [])]


def lina(record: Record) -> list[str]:
    """Time of a layer of linear and of softmax attention by tokens, exponents, memory and operations."""
    parts = at(record, "parts") or {}
    ways = list(parts.get("exponents") or {})
    rows = [
        [count(r.get("tokens")), *(duration(at(r, "seconds", way)) for way in ways), number(r.get("to_floor"), 2)]
        for r in parts.get("sizes") or ()
    ]
    grown = ", ".join(f"{way} {number(x, 2)}" for way, x in (parts.get("exponents") or {}).items())
    peaks = ", ".join(f"{way} {size(x)}" for way, x in (parts.get("bytes") or {}).items())
    shape = at(parts, "published") or {}
    saved = (
        f"{share(shape.get('saved'))} fewer operations at width {count(shape.get('width'))} and {count(shape.get('grid'))} tokens a side"
    )
    return [
        *table(("tokens", *ways, "linear / softmax"), rows),
        "",
        f"Time of the attention alone grows as tokens to the power: {grown}. Peak memory of a training pass at the largest size: {peaks}.",
        f"Linear attention takes {saved}.",
    ]


def diffusion(record: Record) -> list[str]:
    """Time of drawing pictures and of training steps."""
    ratios, parts = at(record, "parts", "ratios") or {}, at(record, "parts") or {}
    drawn = f"{count(parts.get('pictures'))} pictures in {count(parts.get('sampling steps'))} steps"
    trained = f"{count(parts.get('training steps'))} training steps of {count(parts.get('batch_size'))} rows"
    rows = [[n, duration(x), number(ratios.get(n), 2)] for n, x in (parts.get("seconds") or {}).items()]
    return table((f"work ({drawn}; {trained})", "time", "/ floor"), rows)


def vision_language(record: Record) -> list[str]:
    """Time of scoring answers about pictures."""
    ratios = at(record, "parts", "ratios") or {}
    rows = [[n, duration(x), number(ratios.get(n), 2)] for n, x in (at(record, "parts", "seconds") or {}).items()]
    sizes = ", ".join(f"{count(at(record, 'parts', n))} {n}" for n in ("faces", "questions", "answers"))
    return table((f"work ({sizes})", "time", "/ floor"), rows)


def attacks(record: Record) -> list[str]:
    """Time of the attacks and of the calls that they need."""
    title = f"work ({count(record.get('rows'))} rows, {count(len(record.get('attacks') or ()))} attacks)"
    return table((title, "time"), [[n, duration(x)] for n, x in (record.get("seconds") or {}).items()])


def esd_step(record: Record) -> list[str]:
    """Time of a step that samples before it learns."""
    ratios = at(record, "parts", "ratios") or {}
    rows = [[n, duration(x), number(ratios.get(n), 2)] for n, x in (at(record, "parts", "seconds") or {}).items()]
    return table(
        (
            f"work ({count(at(record, 'parts', 'forward passes'))} forward passes in {count(at(record, 'parts', 'steps'))} steps)",
            "time",
            "/ floor",
        ),
        rows,
    )


SECTIONS = {
    "evaluation": Section(
        "An evaluation", evaluation, "bare body, and `generate` of the library", "one pass for each metric, whole logits"
    ),
    "attacks": Section("Attacks that ask", attacks, "`generate` of the library for the answers that they need"),
    "generation": Section("Answers of the model", generation, "`generate` of the library, sorted", "`generate`, in the given order"),
    "training": Section(
        "An epoch of unlearning",
        training,
        "plain epoch; the method that is worst relative to its limit",
        "NPO by a `Trainer` with a second model",
    ),
    "rollouts": Section("A step of reinforcement", rollouts, "bare `generate`, and a plain training step on its answers"),
    "gradients": Section("Gradients of single rows", gradients, "one backward pass, for the mean only", "one backward pass per row"),
    "memory": Section("Memory", memory, "plain fine-tuning; the worst method"),
    "scale": Section("Scale", scale, "bare log-probabilities, or a plain epoch; the worst point"),
    "large": Section("Long documents, and a billion weights on a CPU", large, "the bare body, and the head at the labels; the worst case"),
    "gpu": Section("A billion weights on a GPU", gpu, "bare body and `generate`, or a plain epoch; the worse of the two"),
    "pools": Section("Ensembles", pools, reference="one model after the other"),
    "ranking": Section("Recommenders", ranking, "plain loop; bare products and top 20; the worse of the two"),
    "lina": Section("Linear attention", lina, "fused softmax attention, at most tokens", "softmax attention with all weights"),
    "diffusion": Section("Diffusion models", diffusion, "the pipeline of `diffusers`; a plain loop; the worse of the two"),
    "esd_step": Section("A step that samples before it learns", esd_step, "the model calls alone"),
    "vision_language": Section("Questions about pictures", vision_language, "a plain pass, each row with its picture"),
    "startup": Section("Start-up", startup, "an interpreter with the libraries of the command line"),
    "short_runs": Section("Short runs", short_runs, "a plain script, from files to files; the worse of the two"),
    "sweeps": Section("Sweeps", sweeps, "trainings, passes and scores of the same sweep", "jobs that share nothing"),
    "commands": Section("Whole commands on 40 rows", commands, "a process that loads model and tokenizer alone; the worst command"),
}


# --- limits ---


def limits(records: Mapping[str, Record]) -> list[str]:
    """List missing measurements, missed limits, ways without gain, and limits of the design."""
    return ["## Limits", "", *(f"- {line}" for line in (*_untried(records), *_missed(records), *_no_gain(records), *BUILT_IN))]


BUILT_IN = [
    "If a model changes its logits after the head (a soft cap, a scale), reading keeps the logits of a whole batch.",
    "Training runs the head on some labels at a time where all their logits would take more than 512 MiB, if only losses are read, the "
    "head is a plain one and one process trains; else it keeps several copies of the logits, which `--micro-batch-size` bounds.",
    "Gradient norms keep at least the logits of one row, also of a long one.",
    "Memory holds the rows, their tokens and a few numbers per label; everything else is streamed.",
    "`--memory` bounds the passes by estimates from the widths of layers, which a peak may exceed; training by attacks is not bounded.",
]


def _untried(records: Mapping[str, Record]) -> Iterator[str]:
    if {at(f, "machine", "device") for f in records.values()} == {"cpu"}:
        yield "No number here is from a GPU, and none predicts the performance of a GPU."
    if missing := [f"`{n}`" for n in SECTIONS if n not in records]:
        yield f"Not measured yet: {', '.join(missing)}."
    points = [p for axis in (at(records, "scale", "parts", "axes") or {}).values() for p in axis]
    largest = max([*points, *(at(records, "large", "parts") or {}).values()], key=lambda p: p.get("parameters", 0), default={})
    if most := largest.get("parameters", 0):
        yield f"The largest model here has {count(most)} weights, in {largest.get('precision', 'float32')}; larger models are untested."


def _missed(records: Mapping[str, Record]) -> Iterator[str]:
    for method, p in (at(records, "training", "parts") or {}).items():
        yield from _beyond(f"an epoch of `{method}`, relative to a plain one", p.get("to_floor"), p.get("must"))
    for method, x in (at(records, "memory", "parts", "to_plain") or {}).items():
        yield from _beyond(f"peak memory of `{method}`, relative to plain fine-tuning", x, at(records, "memory", "parts", "must"))
    for command, x in (at(records, "startup", "parts", "seconds", "wall") or {}).items():
        if command.startswith("expunge"):
            yield from _beyond(f"seconds of `{command}`", x, at(records, "startup", "parts", "must"))
    for command, x in (at(records, "commands", "parts", "ratios") or {}).items():
        yield from _beyond(f"time of `{command}` on 40 rows, relative to loading alone", x, at(records, "commands", "parts", "must"))
    for kind, ratio in (at(records, "short_runs", "parts", "ratios") or {}).items():
        yield from _beyond(
            f"a short run on {kind}, relative to a plain script", ratio.get("cpu"), at(records, "short_runs", "parts", "must")
        )
    swept = at(records, "sweeps", "parts") or {}
    yield from _beyond("a sweep, relative to its trainings and evaluations", at(swept, "ratios", "sharing"), swept.get("must"))
    faster, least = (at(swept, "cluster", n) for n in ("speedup", "must"))
    if faster and least and faster < least:
        yield f"**Missed**: two workers of a cluster are {number(faster, 2)} times as fast as one; the limit is {number(least, 2)}."
    grown = at(records, "scale", "parts", "memory against rows") or {}
    yield from _beyond(
        "peak memory of an evaluation of many rows, relative to few rows", at(grown, "times", "evaluation"), grown.get("must")
    )
    logits = at(records, "scale", "parts", "logits against length") or {}
    yield from _beyond("logits at a time of longer rows, relative to shorter ones", logits.get("longer over shorter"), logits.get("must"))
    ranked = at(records, "ranking", "parts") or {}
    limits_of = ranked.get("must") or {}
    for label, name in (("an epoch of LightGCN", "epoch"), ("a ranking of the catalog", "ranking")):
        yield from _beyond(f"{label}, relative to the floor", at(ranked, "ratios", name), limits_of.get(name))
    yield from _beyond(
        "memory of a ranking of all users, relative to a tenth", ranked.get("all users over a tenth"), limits_of.get("memory")
    )
    erasing = at(records, "esd_step", "parts") or {}
    yield from _beyond("a step of `esd`, relative to its model calls", at(erasing, "ratios", "step"), erasing.get("must"))
    pictures = at(records, "diffusion", "parts") or {}
    for label, name in (("pictures of a diffusion model", "drawing"), ("a training step of a diffusion model", "step")):
        yield from _beyond(f"{label}, relative to the floor", at(pictures, "ratios", name), at(pictures, "must", name))
    shown = at(records, "vision_language", "parts") or {}
    yield from _beyond(
        "scoring of questions about pictures, relative to a plain pass", at(shown, "ratios", "scoring"), at(shown, "must", "scoring")
    )
    for label, name in (("an evaluation", "evaluation"), ("answers of the model", "generation")):
        yield from _beyond(f"{label}, relative to the floor", at(records, name, "ratio_to_floor"), 1.0)


def _beyond(label: str, value: float | None, must: float | None) -> Iterator[str]:
    if value is not None and must is not None and value > must:
        yield f"**Missed**: {label}: {number(value, 2)}; the limit is {number(must, 2)}."


def _no_gain(records: Mapping[str, Record]) -> Iterator[str]:
    for kind, p in (at(records, "gradients", "parts") or {}).items():
        for quantity in ("norms", "squares"):
            gain = p.get(f"{quantity}, loop over ours")
            if gain is not None and gain < GAIN:
                yield f"{quantity.capitalize()} of gradients of {kind} are no faster than a loop over rows ({number(gain, 2)})."
    for model, ways in (at(records, "pools", "parts", "models_per_minute") or {}).items():
        for way, x in ways.items():
            if way != "at once" and x < GAIN * ways.get("at once", 0) and "processes" in way:
                yield f"For `{model}`, {way} train {number(x)} models a minute, and one process {number(ways['at once'])}."


# --- the picture ---

WAYS = {"reading": 0, "unlearning": 1, "evaluation": 2, "plain": 3}  # index of the color of each line
X: dict[str, tuple[str, str, float]] = {  # axis -> label, key, size of a unit
    "rows": ("rows →", "rows", 1),
    "length": ("tokens per row →", "length", 1),
    "vocabulary": ("vocabulary, thousands →", "vocabulary", 1000),
    "model": ("weights, millions →", "parameters", 10**6),
}
Y: dict[str, tuple[str, bool, float]] = {  # key -> label, whether logarithmic, size of a unit
    "seconds": ("↑ seconds", True, 1),
    "to_floor": ("↑ times the floor", False, 1),
    "bytes": ("↑ peak memory, MiB", True, 2**20),
}
SIZE = (310.0, 220.0)
CAPTION = "Both axes are logarithmic, except for ratios. *plain* is the plain epoch, the floor of unlearning."


def draw(axes: Mapping[str, Sequence[Record]]) -> str:
    """Draw seconds, ratio to the floor and peak memory along each axis as SVG; '' without measurements."""
    rows = [row for axis in X if len(axes.get(axis, ())) > 1 and (row := [c for y in Y if (c := _chart(axes[axis], axis, y))])]
    label = "Time, time over its floor, and peak memory of reading, evaluation and unlearning, against " + ", ".join(axes)
    return grid(rows, SIZE, label) if rows else ""


def _chart(points: Sequence[Record], axis: str, y: str) -> Markup | None:
    (x_label, key, unit), (y_label, log, y_unit) = X[axis], Y[y]
    xs = [_log(p.get(key), unit) for p in points]
    curves = []
    for way, i in WAYS.items():
        ys = [_log(at(p, way, y), y_unit) if log else at(p, way, y) for p in points]
        if any(v is not None for v in ys):
            curves.append(Line(xs, ys, style(i), way, way))
    if not curves:
        return None
    values = [v for line in curves for v in line.ys if v is not None]
    above = Axis.around(values, y_label, log) if log else Axis(0, max(1.2, *values) * 1.08, y_label)
    frame = Frame(*SIZE, Axis.around([x for x in xs if x is not None], x_label, True), above, left=46, right=76)
    extra = "" if log else f'<line class="guide" x1="46" x2="{SIZE[0] - 76:g}" y1="{frame.py(1):.1f}" y2="{frame.py(1):.1f}"/>'
    for line in curves:
        spots = [(frame.px(a), frame.py(b)) for a, b in zip(line.xs, line.ys, strict=True) if a is not None and b is not None]
        extra += f'<g class="{line.css}">' + "".join(f'<circle class="dot" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>' for a, b in spots) + "</g>"
    return lines(frame, curves, f"{y_label} by {x_label}", extra=extra, most=10)


def _log(value: float | None, unit: float) -> float | None:
    return math.log10(value / unit) if value else None


# --- numbers ---


def at(record: Any, *keys: str) -> Any:
    """The value at a path of keys; None if a key is missing."""
    for key in keys:
        record = record.get(key) if isinstance(record, Mapping) else None
    return record


def machine(record: Record) -> str:
    """The machine of a record, in words."""
    about = at(record, "machine") or {}
    threads = about.get("threads")
    parts = [f"{threads} thread{'s' * (threads != 1)}" if threads else "", about.get("processor"), about.get("device")]
    return ", ".join(dict.fromkeys([*filter(None, parts), f"torch {at(record, 'versions', 'torch') or DASH}"]))


def over(a: float | None, b: float | None) -> float | None:
    """The ratio, or None if a number is missing or the divisor is zero."""
    return a / b if a is not None and b else None


def minus(a: float | None, b: float | None) -> float | None:
    """The difference, or None if a number is missing."""
    return a - b if a is not None and b is not None else None
