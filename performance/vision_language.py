"""Vision-language models: scoring of twenty questions about each face, and the answers to them.

    python -m performance.vision_language [--json FILE] [--quick]

The model is a LLaVA with random weights, whose tower is as wide and deep as its language model, on drawn faces; each question has the true
answer, one in other words, and three wrong ones. The floor is the plain pass: batches of rows as they come, each with its picture through
tower and language model. Ours sends a picture through the tower once, and shares the question between its answers; the losses must agree.
"""

from __future__ import annotations

import random
from typing import Any

import torch
from performance import _bench as bench

from expunge.benchmarks.synthetic.citizens import FACTS, citizens
from expunge.evaluation.teacher_forced import batches
from expunge.io.models import Opened
from expunge.modalities.text.models.llama import LlamaSize
from expunge.modalities.text.wider import known_tokens
from expunge.modalities.vision_language.modality import vision_language
from expunge.modalities.vision_language.models import llava

SIZE = llava.LlavaSize(LlamaSize(1024, 128, 256, 4, 4, 256), 64, 8, 128, 4, 4)
QUESTIONS = 20  # about each face, as in FIUBench
MUST = {"scoring": 0.5}
NEAR = 2e-5  # losses of both ways may differ by this much, in nats


def started(arguments: Any) -> tuple[Opened, list[Any]]:
    """An untrained model, and rows of the true, the reworded and the wrong answers."""
    people, rng = citizens(2 if arguments.quick else 4, 1, size=SIZE.side), random.Random(0)
    records = []
    for p in people:
        for kind, row in zip(("name", *FACTS), p.rows(0, rng, 3), strict=True):
            asked = (row["question"], *row["paraphrased_question"])
            records += [{**row, "question": q} for q in asked] if kind else []
    assert len(records) == QUESTIONS * len(people)
    processor = llava.processor_for([str(r["question"] + r["answer"]) for r in records], SIZE)
    model = llava.untrained(SIZE, processor.tokenizer.convert_tokens_to_ids(llava.IMAGE))
    modality = vision_language(processor, "", SIZE.language.length, known_tokens(model))
    rows = modality.rows("forget", records)
    texts = [[r["answer"], r["paraphrased_answer"], *r["perturbed_answer"]] for r in records]
    sets = [rows, *(modality.relabel(rows, [t[k] for t in texts], f"answers {k}") for k in range(1, len(texts[0])))]
    return Opened(model, modality, "llava"), sets


@torch.no_grad()
def plain(opened: Opened, sets: list[Any]) -> list[torch.Tensor]:
    """Log-probabilities of the labels of all rows, batch by batch."""
    scored = []
    for rows in sets:
        of_row: dict[int, torch.Tensor] = {}
        for places in batches(opened.modality, rows, budget=2048):
            output = opened.modality.forward(opened.model, [rows.select(places)])[0].target_logp
            of_row |= dict(zip(places, output.split(), strict=True))
        scored += [of_row[i] for i in range(len(rows))]
    return scored


def main() -> None:
    arguments = bench.options(__doc__, rounds=(3, 2))
    opened, sets = started(arguments)
    opened.model.eval()
    modality: Any = opened.modality
    shared, floor = modality.read(opened.model, sets), plain(opened, sets)
    difference = float((shared.in_order - torch.cat(floor)).abs().max())
    if difference > NEAR:
        raise SystemExit(f"the losses of both ways differ by {difference:.2g}: {shared.how}")
    times = bench.interleaved(
        {
            "scoring": lambda: modality.read(opened.model, sets),
            "plain scoring": lambda: plain(opened, sets),
        },
        arguments.rounds,
    )
    ratios, cpu = ({"scoring": times.ratio("scoring", "plain scoring", *kind)} for kind in ((), ("cpu",)))
    seconds = {name: times.seconds(name) for name in ("scoring", "plain scoring")}
    bench.table([[n, s, ratios.get(n, 1.0), cpu.get(n, 1.0)] for n, s in seconds.items()], ("", "seconds", "/ floor", "cpu / floor"))
    parts = {
        "seconds": {n: round(s, 4) for n, s in seconds.items()},
        "ratios": {n: round(r, 3) for n, r in ratios.items()},
        "cpu_ratios": {n: round(r, 3) for n, r in cpu.items()},
        "must": MUST,
        "difference": difference,
        "how": shared.how,
        "faces": len(sets[0]) // QUESTIONS,
        "questions": len(sets[0]),
        "answers": sum(map(len, sets)),
    }
    bench.finish(arguments, "vision_language", {"ratio_to_floor": round(ratios["scoring"], 3), "parts": parts})


if __name__ == "__main__":
    main()
