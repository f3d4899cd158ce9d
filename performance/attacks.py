"""The attacks that ask, compared with the bare `generate` calls of the library that they need.

    python -m performance.attacks [--json FILE] [--quick] [--data FOLDER] [--model FOLDER]

The suite is every attack that asks a model and trains nothing: templates, formats, paraphrases, conversations, samples, the lens, prefixes,
pruned and rounded weights. The floor is `generate` of the library for the answers that they need: greedy ones to all
questions, to every turn of every conversation and to the answers that are begun, and the samples, each in batches of 128 sorted by length.
All else (teacher-forced readings, scores, intervals) counts as ours alone. It must stay below three times the floor.
"""

from __future__ import annotations

from typing import Any

import torch
from performance import _bench as bench

from expunge.core.errors import UserError
from expunge.core.rows import Rows
from expunge.engine.run_state import evaluating
from expunge.evaluation.attack import chosen, intervene
from expunge.evaluation.attacks import multi_turn
from expunge.evaluation.generated import limit_of
from expunge.evaluation.observe import Memory
from expunge.evaluation.prompting import question_of

SUITE = ("extraction", "multi_turn", "jailbreak", "reformat", "paraphrase", "logit_lens", "quantize", "prune", "backdoor", "chameleon")
MOST = 3.0  # times the floor
SIZE = 128


def generated(opened: Any, rows: Rows, limit: int, draws: int = 0) -> list[list[int]]:
    """Answers of the library, in batches sorted by length."""
    modality, model, answers = opened.modality, opened.model, dict[int, list[list[int]]]()
    prompts = [list(p) for p in rows["prompt"]]
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    device = next(model.parameters()).device
    settings: dict[str, Any] = {"do_sample": False} if not draws else {"do_sample": True, "top_k": 0, "num_return_sequences": draws}
    for at in range(0, len(order), SIZE):
        places = order[at : at + SIZE]
        width = max(len(prompts[i]) for i in places)
        ids = torch.tensor([[modality.pad] * (width - len(prompts[i])) + prompts[i] for i in places], device=device)
        mask = torch.tensor([[0] * (width - len(prompts[i])) + [1] * len(prompts[i]) for i in places], device=device)
        ends = sorted(modality.ends(model))
        new = {
            "max_new_tokens": min(limit, modality.limit - width) if modality.limit else limit,
            "eos_token_id": ends,
            "pad_token_id": modality.pad,
        }
        out = model.generate(input_ids=ids, attention_mask=mask, **new, **settings)[:, width:].tolist()
        for k, i in enumerate(places):
            answers[i] = out[k * max(1, draws) : (k + 1) * max(1, draws)]
    return [tokens for i in range(len(prompts)) for tokens in answers[i]]


def floor(opened: Any, records: Any, attacks: Any) -> None:
    """Every `generate` call that the suite needs."""
    modality = opened.modality
    rows = modality.rows("forget", records)
    limit = limit_of(modality, rows)
    for _ in range(3):  # the answers before extraction and conversations, and once for the audit itself
        generated(opened, rows, limit)
    extraction, talk = attacks["extraction"], attacks["multi_turn"]
    generated(opened, rows, limit, max(extraction.draws))
    for share in extraction.beginnings:
        generated(opened, modality.begun(rows, [int(share * len(a)) for a in rows["answer"]]), limit)
    questions = [question_of(r) for r in records]
    for way in talk.ways or tuple(multi_turn.WAYS):
        conversations: list[list[str]] = [[] for _ in questions]
        for turn in range(talk.turns):
            for i, turns in enumerate(conversations):
                turns.append(multi_turn.WAYS[way](questions, i, turn))
            try:
                turn_rows = multi_turn.conversation_rows(modality, conversations)
            except UserError:  # too long for the model, which ends the conversations of the attack as well
                break
            texts = modality.decode(generated(opened, turn_rows, limit))
            for turns, text in zip(conversations, texts, strict=True):
                turns.append(text)


def suite(opened: Any, sets: Any, attacks: Any) -> None:
    """All attacks, with their scores."""
    memory: Memory = {}
    for name, attack in attacks.items():
        intervene(name, attack, opened.model, opened.modality, sets, memory=memory)


def main() -> None:
    arguments = bench.options(__doc__)
    benchmark = bench.suite(arguments)
    opened = bench.original(arguments, benchmark)
    limit = arguments.items or (8 if arguments.quick else 40)
    sets = {name: list(benchmark.sets[name])[:limit] for name in ("forget", "retain")}
    attacks = chosen(SUITE, {"extraction:beams": 0})  # the library searches beams one by one as well, and slower
    with evaluating(opened.model), torch.no_grad():
        ways = {"generate": lambda: floor(opened, sets["forget"], attacks), "attacks": lambda: suite(opened, sets, attacks)}
        times = bench.interleaved(ways, arguments.rounds)
    ratio = times.ratio("attacks", ("generate",))
    bench.table([[n, times.seconds(n), times.ratio(n, ("generate",))] for n in times.wall], ("", "s", "/ generate"))
    numbers = {
        "ratio_to_floor": round(ratio, 3),
        "at_most": MOST,
        "attacks": list(SUITE),
        "rows": len(sets["forget"]),
        "seconds": {n: round(times.seconds(n), 3) for n in times.wall},
    }
    bench.finish(arguments, "attacks", numbers)


if __name__ == "__main__":
    main()
