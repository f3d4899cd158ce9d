"""How cost grows with the number of rows, their length, the vocabulary and the model: time and peak memory of reading and of unlearning.

    python -m performance.scale [--json FILE] [--quick] [--axes a,b]

Untrained models, made from a configuration, see rows of random words; along an axis one thing changes and the rest stays. Reading is what
an audit looks at in its rows (log-probabilities, hits, and moments of the forget rows), from records on. Its floor is what nobody can do
without: the bare body over the same sequences, sorted by length, and the head and a cross-entropy at the labels alone, in chunks.
Unlearning is an epoch of GradDiff, its floor the plain loop of `performance.training` over batches like those. Peak memory is that of a
fresh process for each way, above what it held when the model and the rows were there; an evaluation is a whole one, with answers and
gradient norms. Two things are musts: memory of an evaluation does not grow with the rows, and the logits that a reading holds at a time do
not grow with their length. Beside these stand the logits at every position: of a usual batch, of a step, of a micro-batch.
"""

from __future__ import annotations

import math
import random
import time
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from performance import _bench as bench
from performance import training
from performance.evaluation import Work, body, in_order, pairs_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook

from expunge.engine.run_state import evaluating
from expunge.evaluation.observe import ObservationSpec, observe
from expunge.io.models import Opened
from expunge.modalities.text import trie
from expunge.modalities.text.modality import Text

METHOD = "graddiff"
BATCH = 4  # rows of each set a step
ROOM = 2**21  # logits of the floor at a time
FEWEST = 64  # and positions at least
ROWS_MUST = 1.25  # memory of an evaluation of eight times the rows, to that of one part of them
TIMES = 8
FULL = 128  # rows that fill the batches of an evaluation: so many are answered at a time
LONG = 6.0  # seconds after which a point is not timed again
LONGER = 4  # times the length, where logits must not grow with it
USUAL = 32  # rows whose logits research code keeps at a time
FLOORS = {"reading": {"to_floor": "bare", "to_body": "body"}, "unlearning": {"to_floor": "plain"}}
CLOCKS = {"": "wall", "_cpu": "cpu"}
ONE_BY_ONE = "unlearning, --micro 1"
SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>")


@dataclass(frozen=True)
class Point:
    """What is measured: rows of so many tokens, half of them labels, and a model of the Llama family."""

    rows: int = 32
    length: int = 64
    vocabulary: int = 4096
    width: int = 128
    layers: int = 4


SMALL = Point(rows=2 * BATCH, length=16, vocabulary=512, width=64, layers=1)  # what a process does before it is measured
AXES: dict[str, Sequence[dict[str, int]]] = {
    "rows": [{"rows": n} for n in (32, 64, 128, 256, 512, 1024)],
    "length": [{"length": n} for n in (32, 64, 128, 256, 512)],
    "vocabulary": [{"vocabulary": n} for n in (1024, 4096, 32768, 128256)],
    "model": [{"width": w, "layers": n} for w, n in ((64, 2), (128, 4), (256, 6), (384, 8))],
}
QUICK: dict[str, Sequence[dict[str, int]]] = {
    "rows": [{"rows": n} for n in (8, 16, 128)],
    "length": [{"length": n} for n in (32, 128)],
    "vocabulary": [{"vocabulary": n} for n in (4096, 128256)],
    "model": [{"width": w, "layers": n} for w, n in ((128, 4), (256, 4))],
}


def axes(quick: bool) -> dict[str, list[Point]]:
    """The points of every axis; all go through the same one."""
    base = Point(rows=2 * BATCH, length=32) if quick else Point()
    return {axis: [replace(base, **p) for p in points] for axis, points in (QUICK if quick else AXES).items()}


class Case:
    """A model and rows of a point."""

    def __init__(self, point: Point) -> None:
        self.opened = opened(point)
        self.records = records(point)

    @cached_property
    def sets(self) -> dict[str, Any]:
        return {n: self.opened.modality.rows(n, r) for n, r in self.records.items()}

    def read(self, **wants: bool) -> Any:
        """Observe, with nothing known of the rows from before."""
        modality: Any = self.opened.modality
        modality.encoder._known.clear()
        trie._known.clear()
        return observe(self.opened.model, modality, self.records, wants=ObservationSpec(**wants))

    def ways(self) -> dict[str, bench.Way]:
        """What memory is measured of, by name."""
        return {
            "reading": partial(self.read, generations=False, gradient_norms=False),
            "evaluation": self.read,
            "unlearning": self.unlearn,
            ONE_BY_ONE: partial(self.unlearn, micro_batch_size=1),
            "plain": self.plain(),
        }

    def unlearn(self, times: dict[str, float] | None = None, **more: Any) -> Any:
        return training.unlearn(METHOD, self.opened, self.sets, BATCH, times, **more)

    def plain(self) -> bench.Way:
        """A plain epoch over batches like those of unlearning."""
        forget, retain = (pairs_of(rows) for rows in self.sets.values())
        batches = [[*forget[i : i + BATCH], *retain[i : i + BATCH]] for i in range(0, len(forget), BATCH)]
        like = training.plans(METHOD, self.opened.model, self.opened.modality, BATCH)[0].train
        return partial(training.floor, self.opened, batches, like)


def opened(point: Point) -> Opened:
    """An untrained model, and a tokenizer for which every word is a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = [*SPECIAL, *(f"w{i}" for i in range(point.vocabulary - len(SPECIAL)))]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=SPECIAL[0]))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(single=f"{SPECIAL[1]} $A", special_tokens=[(SPECIAL[1], 1)])
    pad, bos, eos = SPECIAL
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=pad, bos_token=bos, eos_token=eos, clean_up_tokenization_spaces=False
    )
    config = LlamaConfig(
        vocab_size=point.vocabulary,
        hidden_size=point.width,
        intermediate_size=point.width * 11 // 4,
        num_hidden_layers=point.layers,
        num_attention_heads=point.width // 32,
        num_key_value_heads=point.width // 32,
        max_position_embeddings=2 * max(p["length"] for p in AXES["length"]),
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    return Opened(model.to("cuda" if torch.cuda.is_available() else "cpu"), Text(tokenizer), "scale")


def records(point: Point) -> dict[str, list[dict[str, str]]]:
    """Random words, each row of exactly so many tokens with its beginning and its end."""
    r = random.Random(0)
    asked = point.length // 2 - 1

    def some(many: int) -> str:
        return " ".join(f"w{r.randrange(point.vocabulary - len(SPECIAL))}" for _ in range(many))

    rows = [{"prompt": some(asked), "completion": " " + some(point.length - asked - 2)} for _ in range(point.rows)]
    return {"forget": rows[::2], "retain": rows[1::2]}


# what a process does


def memory(given: Namespace, point: Point, way: str) -> dict[str, int]:
    """Bytes at the peak of one way, above those before it, and bytes of the most logits at a time.

    What is used for the first time, such as code, would count, so a small case goes first.
    """
    Case(SMALL).ways()[way]()
    case, most = Case(point), 0
    call = case.ways()[way]

    def watch(module: nn.Module, args: Any, out: Any) -> None:
        nonlocal most
        if isinstance(out, Tensor) and out.shape[-1] == point.vocabulary:
            most = max(most, out.numel() * out.element_size())

    with register_module_forward_hook(watch):
        before = bench.used()
        call()
    return {"bytes": bench.peak() - before, "logits": most}


def bare(work: Work, size: int = 64) -> None:
    """The body over all sequences, and their log-probabilities from the head at the labels alone."""
    model: Any = work.model
    head, pairs = model.get_output_embeddings(), [p for rows in work.rows.values() for p in pairs_of(rows)]
    chunk = max(FEWEST, ROOM // len(head.weight))
    for places in in_order(pairs, size, longest_first=True):
        ids, mask, layout = work.modality.collate([pairs[i] for i in places], work.device)
        hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.flatten(0, 1)[layout.label_at]
        for some, labels in zip(hidden.split(chunk), layout.labels.split(chunk), strict=True):
            F.cross_entropy(head(some), labels, reduction="none")


def timed(given: Namespace, point: Point) -> dict[str, dict[str, float]]:
    """Seconds and ratios of reading and of an epoch, after one round on a small case."""
    rounds(Case(SMALL), 1)
    times = rounds(Case(point), given.rounds)
    return {
        way: {
            "seconds": round(times.seconds(way), 4),
            **{f"{name}{end}": round(times.ratio(way, floor, clock), 3) for name, floor in floors.items() for end, clock in CLOCKS.items()},
        }
        for way, floors in FLOORS.items()
    }


def rounds(case: Case, many: int) -> bench.Times:
    """All ways by turns, so many times, or until that takes long."""
    work, times, begun = Work(case.opened, case.records), bench.Times(), time.monotonic()
    reading: dict[str, bench.Way] = {"body": lambda: body(work), "bare": lambda: bare(work), "reading": case.ways()["reading"]}

    def epoch() -> None:
        seconds: dict[str, float] = {}
        case.unlearn(seconds)
        times.add("unlearning", **seconds)

    for i in range(many):
        if i and time.monotonic() - begun > LONG:
            break
        with evaluating(case.opened.model), torch.no_grad():
            bench.interleaved(reading, 1, warm=False, times=times)
        bench.interleaved({"plain": case.plain(), "whole": epoch}, 1, warm=False, times=times)
    return times


# what is made of it


def measured(given: Namespace, point: Point) -> dict[str, Any]:
    """Everything about one point."""
    found: dict[str, Any] = {**asdict(point), "parameters": parameters(point), **bench.apart(timed, given, point)}
    for way in ("reading", "evaluation", "unlearning", "plain"):
        found.setdefault(way, {}).update(bench.apart(memory, given, point, way))
    bench.answer_texts(" ".join(f"{n} {v}" for n, v in found.items() if not isinstance(v, dict)))
    return found


def parameters(point: Point) -> int:
    """Weights of the model of a point, tied ones once."""
    width, inner = point.width, point.width * 11 // 4
    return point.vocabulary * width + point.layers * (4 * width * width + 3 * width * inner + 2 * width) + width


def grown(points: Sequence[Mapping[str, Any]], times: int = TIMES) -> dict[str, Any]:
    """How much more memory each way takes for so many times the rows: of the last point, and of the one that has so many fewer.

    Nothing where that one does not fill the batches of an evaluation, which grow until they are full.
    """
    most = points[-1]
    least = next((p for p in points if p["rows"] * times == most["rows"]), None)
    if least is None or least["rows"] < FULL:
        return {}
    ways = ("reading", "evaluation", "unlearning")
    tokens = most["rows"] * most["length"] - least["rows"] * least["length"]
    return {
        "rows": [least["rows"], most["rows"]],
        "times": {w: round(most[w]["bytes"] / least[w]["bytes"], 3) for w in ways},
        "bytes a token": {w: round((most[w]["bytes"] - least[w]["bytes"]) / tokens) for w in ways},
        "must": ROWS_MUST,
    }


def whole(point: Point, rows: int) -> int:
    """Bytes of the logits of so many rows at every position, in float32."""
    return 4 * point.vocabulary * point.length * rows


def bounded(given: Namespace, point: Point) -> dict[str, Any]:
    """Logits at a time of rows like those of a point, and of longer ones, beside what logits at every position take."""
    few = replace(point, rows=2 * BATCH)  # a step is all that matters
    pair = [few, replace(few, length=LONGER * few.length)]
    rows = {"reading": USUAL, "unlearning": 2 * BATCH, ONE_BY_ONE: 2}  # in one forward with whole logits
    found = {}
    for way, many in rows.items():
        apart = [bench.apart(memory, given, p, way) for p in pair]
        found[way] = {n: [a[n] for a in apart] for n in ("logits", "bytes")} | {"whole logits": [whole(p, many) for p in pair]}
    a, b = found["reading"]["logits"]
    return {"vocabulary": point.vocabulary, "length": [p.length for p in pair], **found, "longer over shorter": round(b / a, 3), "must": 1}


def main() -> None:
    given = bench.options(__doc__, (3, 1), axes={"default": "", "help": "only these axes, a comma between them"})
    chosen = {n: p for n, p in axes(given.quick).items() if not given.axes or n in given.axes.split(",")}
    known: dict[Point, dict[str, Any]] = {}
    for points in chosen.values():
        for point in points:
            known[point] = known.get(point) or measured(given, point)
    found: dict[str, Any] = {axis: [known[p] for p in points] for axis, points in chosen.items()}
    parts: dict[str, Any] = {"axes": found}
    if "rows" in found:
        parts["memory against rows"] = grown(found["rows"])
    if "vocabulary" in found:
        parts["logits against length"] = bounded(given, chosen["vocabulary"][-1])
    bench.table(
        [[axis, *(p[n] for n in asdict(Point())), *numbers(p)] for axis, points in found.items() for p in points],
        ("axis", *asdict(Point()), "reading s", "/ floor", "MB", "evaluation MB", "epoch s", "/ floor", "MB", "plain MB"),
    )
    worst = max((p[w]["to_floor"] for p in known.values() for w in ("reading", "unlearning")), default=math.nan)
    bench.finish(given, "scale", {"ratio_to_floor": worst, "parts": parts})


def numbers(p: Mapping[str, Any]) -> list[float]:
    size = {w: p[w]["bytes"] / 2**20 for w in ("reading", "evaluation", "unlearning", "plain")}
    r, u = p["reading"], p["unlearning"]
    return [
        r["seconds"],
        r["to_floor"],
        size["reading"],
        size["evaluation"],
        u["seconds"],
        u["to_floor"],
        size["unlearning"],
        size["plain"],
    ]


if __name__ == "__main__":
    main()
