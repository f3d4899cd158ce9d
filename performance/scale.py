"""Growth of cost with the number of rows, their length, the vocabulary and the model: time and peak memory of reading and unlearning.

    python -m performance.scale [--json FILE] [--quick] [--axes a,b]

Untrained models from a configuration read rows of random words. Along each axis one property changes and the rest stays. Reading computes
the quantities of an audit (log-probabilities, hits, and moments of the forget rows), starting from records. Its floor is the necessary
part: the bare body over the same sequences, sorted by length, and the head and a cross-entropy at the labels only, in chunks. Unlearning is
an epoch of GradDiff, and its floor is the plain loop of `performance.training` over similar batches. Peak memory is measured in a new
process for each way, above the memory of the model and the rows; an evaluation is a complete one, with answers and gradient norms. There
are two requirements: the memory of an evaluation does not grow with the rows, and the logits that a reading keeps at a time do not grow
with the length of rows. For comparison the numbers include the logits at every position of a usual batch, of a step and of a micro-batch.
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
from performance.evaluation import Workload, body, in_order, pairs_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_forward_hook

from expunge.engine.run_state import evaluating
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.observe import observe
from expunge.io.models import Opened
from expunge.modalities.text import trie
from expunge.modalities.text.modality import Text

METHOD = "graddiff"
BATCH = 4  # rows of each set in a step
ROOM = 2**21  # the most logits of the floor at a time
FEWEST = 64  # the fewest positions at a time
ROWS_MUST = 1.25  # the largest allowed ratio of memory with eight times the rows
TIMES = 8
FULL = 128  # rows that fill the batches of an evaluation
LONG = 6.0  # seconds after which a point is not timed again
LONGER = 4  # factor of the length in the check of logits
USUAL = 32  # rows in a batch of research code
FLOORS = {"reading": {"to_floor": "bare", "to_body": "body"}, "unlearning": {"to_floor": "plain"}}
CLOCKS = {"": "wall", "_cpu": "cpu"}
ONE_BY_ONE = "unlearning, --micro 1"
SPECIAL = ("<|pad|>", "<|bos|>", "<|eos|>")


@dataclass(frozen=True)
class Point:
    """A point of the measurement: rows of `length` tokens, half of them labels, and a model of the Llama family."""

    rows: int = 32
    length: int = 64
    vocabulary: int = 4096
    width: int = 128
    layers: int = 4


SMALL = Point(rows=2 * BATCH, length=16, vocabulary=512, width=64, layers=1)  # the warm-up of a process
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
    """The points of every axis; all axes share one point."""
    base = Point(rows=2 * BATCH, length=32) if quick else Point()
    return {axis: [replace(base, **p) for p in points] for axis, points in (QUICK if quick else AXES).items()}


class Case:
    """The model and the rows of a point."""

    def __init__(self, point: Point) -> None:
        self.opened = open_model(point)
        self.records = random_records(point)

    @cached_property
    def sets(self) -> dict[str, Any]:
        """Rows by set."""
        return {n: self.opened.modality.rows(n, r) for n, r in self.records.items()}

    def read(self, **wants: bool) -> Any:
        """Observe with empty caches."""
        modality: Any = self.opened.modality
        modality.encoder._encoded.clear()
        trie._cache.clear()
        return observe(self.opened.model, modality, self.records, wants=ObservationSpec(**wants))

    def ways(self) -> dict[str, bench.Way]:
        """The ways to measure, by name."""
        return {
            "reading": partial(self.read, generations=False, gradient_norms=False),
            "evaluation": self.read,
            "unlearning": self.unlearn,
            ONE_BY_ONE: partial(self.unlearn, micro_batch_size=1),
            "plain": self.plain(),
        }

    def unlearn(self, times: dict[str, float] | None = None, **overrides: Any) -> Any:
        """Run an epoch of unlearning; see `training.unlearn`."""
        return training.unlearn(METHOD, self.opened, self.sets, BATCH, times, **overrides)

    def plain(self) -> bench.Way:
        """A plain epoch over batches as in unlearning."""
        forget, retain = (pairs_of(rows) for rows in self.sets.values())
        batches = [[*forget[i : i + BATCH], *retain[i : i + BATCH]] for i in range(0, len(forget), BATCH)]
        like = training.plans(METHOD, self.opened.model, self.opened.modality, BATCH)[0].train
        return partial(training.floor, self.opened, batches, like)


def open_model(point: Point) -> Opened:
    """An untrained model, and a tokenizer with one token per word."""
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
        max_position_embeddings=2 * max(point.length, *(p["length"] for p in AXES["length"])),
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).eval()
    return Opened(model.to("cuda" if torch.cuda.is_available() else "cpu"), Text(tokenizer), "scale")


def random_records(point: Point) -> dict[str, list[dict[str, str]]]:
    """Rows of random words with exactly `point.length` tokens, including the tokens for start and end."""
    r = random.Random(0)
    question_words = point.length // 2 - 1

    def words(count: int) -> str:
        return " ".join(f"w{r.randrange(point.vocabulary - len(SPECIAL))}" for _ in range(count))

    rows = [{"prompt": words(question_words), "completion": " " + words(point.length - question_words - 2)} for _ in range(point.rows)]
    return {"forget": rows[::2], "retain": rows[1::2]}


# in each process


def memory(arguments: Namespace, point: Point, way: str) -> dict[str, int]:
    """Measure one way: peak memory above the start, and the most logits at a time, both in bytes.

    A small case runs first, so that code that is loaded at first use does not count.
    """
    Case(SMALL).ways()[way]()
    case, most = Case(point), 0
    call = case.ways()[way]

    def watch(module: nn.Module, args: Any, out: Any) -> None:
        nonlocal most
        if isinstance(out, Tensor) and out.shape[-1] == point.vocabulary:
            most = max(most, out.numel() * out.element_size())

    with register_module_forward_hook(watch):
        before = bench.reset_peak_memory()
        call()
    return {"bytes": bench.peak_memory() - before, "logits": most}


def bare(work: Workload, size: int = 64) -> None:
    """Run the body over all sequences, and the head and a cross-entropy at the labels only."""
    model: Any = work.model
    head, pairs = model.get_output_embeddings(), [p for rows in work.rows.values() for p in pairs_of(rows)]
    chunk = max(FEWEST, ROOM // len(head.weight))
    for places in in_order(pairs, size, longest_first=True):
        ids, mask, layout = work.modality.collate([pairs[i] for i in places], work.device)
        hidden = model.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state.flatten(0, 1)[layout.label_at]
        for states, labels in zip(hidden.split(chunk), layout.labels.split(chunk), strict=True):
            F.cross_entropy(head(states), labels, reduction="none")


def timed(arguments: Namespace, point: Point) -> dict[str, dict[str, float]]:
    """Seconds and ratios of reading and of an epoch, after one round on a small case."""
    timed_rounds(Case(SMALL), 1)
    times = timed_rounds(Case(point), arguments.rounds)
    return {
        way: {
            "seconds": round(times.seconds(way), 4),
            **{f"{name}{end}": round(times.ratio(way, floor, clock), 3) for name, floor in floors.items() for end, clock in CLOCKS.items()},
        }
        for way, floors in FLOORS.items()
    }


def timed_rounds(case: Case, count: int) -> bench.Times:
    """Time all ways in turns for `count` rounds, or fewer if they take longer than LONG."""
    work, times, start = Workload(case.opened, case.records), bench.Times(), time.monotonic()
    reading: dict[str, bench.Way] = {"body": lambda: body(work), "bare": lambda: bare(work), "reading": case.ways()["reading"]}

    def epoch() -> None:
        seconds: dict[str, float] = {}
        case.unlearn(seconds)
        times.add("unlearning", **seconds)

    for i in range(count):
        if i and time.monotonic() - start > LONG:
            break
        with evaluating(case.opened.model), torch.no_grad():
            bench.interleaved(reading, 1, warm=False, times=times)
        bench.interleaved({"plain": case.plain(), "whole": epoch}, 1, warm=False, times=times)
    return times


# in the main process


def measure(arguments: Namespace, point: Point) -> dict[str, Any]:
    """All numbers of one point."""
    numbers: dict[str, Any] = {**asdict(point), "parameters": parameters(point), **bench.in_new_process(timed, arguments, point)}
    for way in ("reading", "evaluation", "unlearning", "plain"):
        numbers.setdefault(way, {}).update(bench.in_new_process(memory, arguments, point, way))
    bench.log(" ".join(f"{n} {v}" for n, v in numbers.items() if not isinstance(v, dict)))
    return numbers


def parameters(point: Point) -> int:
    """Number of parameters of the model of a point; tied ones count once."""
    width, inner = point.width, point.width * 11 // 4
    return point.vocabulary * width + point.layers * (4 * width * width + 3 * width * inner + 2 * width) + width


def memory_growth(points: Sequence[Mapping[str, Any]], times: int = TIMES) -> dict[str, Any]:
    """Growth of the memory of each way between the last point and the point with `times` fewer rows.

    The result is empty if the smaller point does not fill the batches of an evaluation, because batches grow until they are full.
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


def whole_logits_bytes(point: Point, rows: int) -> int:
    """Bytes of the float32 logits at every position of rows."""
    return 4 * point.vocabulary * point.length * rows


def logits_at_a_time(arguments: Namespace, point: Point) -> dict[str, Any]:
    """Logits at a time for rows of a point and for longer rows, and the logits at every position for comparison."""
    few = replace(point, rows=2 * BATCH)  # one step is enough
    pair = [few, replace(few, length=LONGER * few.length)]
    rows = {"reading": USUAL, "unlearning": 2 * BATCH, ONE_BY_ONE: 2}  # rows in one forward pass with whole logits
    by_way = {}
    for way, count in rows.items():
        peaks = [bench.in_new_process(memory, arguments, p, way) for p in pair]
        by_way[way] = {n: [peak[n] for peak in peaks] for n in ("logits", "bytes")}
        by_way[way]["whole logits"] = [whole_logits_bytes(p, count) for p in pair]
    a, b = by_way["reading"]["logits"]
    return {"vocabulary": point.vocabulary, "length": [p.length for p in pair], **by_way, "longer over shorter": round(b / a, 3), "must": 1}


def main() -> None:
    arguments = bench.options(__doc__, (3, 1), axes={"default": "", "help": "only these axes, separated by commas"})
    chosen = {n: p for n, p in axes(arguments.quick).items() if not arguments.axes or n in arguments.axes.split(",")}
    known: dict[Point, dict[str, Any]] = {}
    for points in chosen.values():
        for point in points:
            known[point] = known.get(point) or measure(arguments, point)
    measured: dict[str, Any] = {axis: [known[p] for p in points] for axis, points in chosen.items()}
    parts: dict[str, Any] = {"axes": measured}
    if "rows" in measured:
        parts["memory against rows"] = memory_growth(measured["rows"])
    if "vocabulary" in measured:
        parts["logits against length"] = logits_at_a_time(arguments, chosen["vocabulary"][-1])
    bench.table(
        [[axis, *(p[n] for n in asdict(Point())), *table_row(p)] for axis, points in measured.items() for p in points],
        ("axis", *asdict(Point()), "reading s", "/ floor", "MB", "evaluation MB", "epoch s", "/ floor", "MB", "plain MB"),
    )
    worst = max((p[w]["to_floor"] for p in known.values() for w in ("reading", "unlearning")), default=math.nan)
    bench.finish(arguments, "scale", {"ratio_to_floor": worst, "parts": parts})


def table_row(p: Mapping[str, Any]) -> list[float]:
    """The numbers of a point for the table."""
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
