"""A whole evaluation with all membership attacks, against its floors and against the way that most research code does it.

    python -m performance.evaluation [--json FILE] [--quick] [--data FOLDER] [--model FOLDER] [--reference ROUNDS]

The floor is the sum of two things that nobody can leave out: a bare forward of the model's body over all sequences, each in a row of its
own, sorted by length, and the library's own greedy `generate` over all questions, sorted by length. Gradient norms, the language head,
moments, tokenising, planning and scores are ours on top of it. The reference reads the data once for every metric, in the order in which it
comes, keeps whole logits, takes gradients of one item at a time and generates in batches that wait for their longest answer. What both say
is compared item by item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from performance import _bench as bench
from torch import Tensor
from torch.nn import functional as F

from expunge.core.rows import Rows
from expunge.engine.run_state import evaluating
from expunge.evaluation.measure import Evidence
from expunge.evaluation.observation import Observation
from expunge.evaluation.observe import MEMBERS, SAID, TIMES, WRITTEN, ObservationSpec, observe
from expunge.evaluation.verdict import audit_scores
from expunge.io.models import Opened
from expunge.modalities.text import trie

Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]
FLOORS = ("body", "generate")


class Work:
    """The rows of an evaluation, as the modality makes them."""

    def __init__(self, opened: Opened, sets: Any) -> None:
        from expunge.evaluation.observe import _kinds

        self.model, self.modality, self.sets = opened.model, opened.modality, sets
        self.kinds = {n: _kinds(self.modality, n, records) for n, records in sets.items()}
        self.rows = {(n, k): rows for n, kinds in self.kinds.items() for k, (rows, _) in kinds.items()}
        self.asked = {n: self.rows[n, "answer"] for n in WRITTEN if n in self.kinds}
        self.members = {n: self.rows[n, "answer"] for n in MEMBERS if n in self.kinds}

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def room(self, rows: Rows) -> int:
        """The longest answer that a set is given, in tokens."""
        return min(SAID, TIMES * max(map(len, rows["answer"])))


def pairs_of(rows: Rows) -> list[tuple[Sequence[int], Sequence[int]]]:
    return list(zip(rows["prompt"], rows["answer"], strict=True))


def in_order(pairs: Pairs, size: int, longest_first: bool) -> Iterator[list[int]]:
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1])) if longest_first else list(range(len(pairs)))
    for at in range(0, len(order), size):
        yield order[at : at + size]


# the floors


def body(work: Work, size: int = 64) -> None:
    """The bare body over all sequences."""
    pairs = [p for rows in work.rows.values() for p in pairs_of(rows)]
    inner: Any = work.model.base_model  # type: ignore[union-attr]
    for places in in_order(pairs, size, longest_first=True):
        ids, mask, _ = work.modality.collate([pairs[i] for i in places], work.device)
        inner(input_ids=ids, attention_mask=mask, use_cache=False)


def generate(work: Work, size: int = 128, longest_first: bool = True) -> dict[str, list[list[int]]]:
    """The library's greedy generation, which goes on until the longest answer of a batch ends."""
    said = {}
    ends = sorted(work.modality.ends(work.model))
    for name, rows in work.asked.items():
        said[name] = out = [[] for _ in rows.ids]
        prompts = [(p, ()) for p in rows["prompt"]]
        for places in in_order(prompts, size, longest_first):
            width = max(len(prompts[i][0]) for i in places)
            ids = torch.tensor(
                [[work.modality.pad] * (width - len(prompts[i][0])) + list(prompts[i][0]) for i in places], device=work.device
            )
            mask = torch.tensor([[0] * (width - len(prompts[i][0])) + [1] * len(prompts[i][0]) for i in places], device=work.device)
            model: Any = work.model
            given = {"do_sample": False, "max_new_tokens": work.room(rows), "eos_token_id": ends, "pad_token_id": work.modality.pad}
            for i, answer in zip(places, model.generate(input_ids=ids, attention_mask=mask, **given)[:, width:].tolist(), strict=True):
                out[i] = answer[: next((k for k, t in enumerate(answer) if t in ends), len(answer))]
    return said


# ours


def ours(work: Work, known: bool = False, **wants: bool) -> Observation:
    """From records to scores. known: tokens and packing are those of an evaluation before."""
    if not known:
        work.modality.encoder._known.clear()
        trie._known.clear()
    seen = observe(work.model, work.modality, work.sets, wants=ObservationSpec(**wants))
    audit_scores(Evidence(seen), resamples=1)
    return seen


# the way of research code


def losses(work: Work, rows: Rows, size: int = 32) -> list[Tensor]:
    """Log-probabilities of the labels of rows, from whole logits, as they come, by the cross-entropy of TOFU's own evaluation."""
    found = []
    for logits, labels, places, pairs in whole(work, rows, size):
        logp = -F.cross_entropy(logits[:, :-1].contiguous().mT, labels[:, 1:].contiguous(), ignore_index=-100, reduction="none")
        found += [logp[k, len(pairs[i][0]) - 1 : len(pairs[i][0]) + len(pairs[i][1]) - 1] for k, i in enumerate(places)]
    return found


def whole(work: Work, rows: Rows, size: int) -> Iterator[tuple[Tensor, Tensor, list[int], Pairs]]:
    pairs = pairs_of(rows)
    for places in in_order(pairs, size, longest_first=False):
        ids, mask, _ = work.modality.collate([pairs[i] for i in places], work.device)
        labels = ids.clone()
        for k, i in enumerate(places):
            labels[k, : len(pairs[i][0])] = -100
            labels[k, len(pairs[i][0]) + len(pairs[i][1]) :] = -100
        yield work.model(input_ids=ids, attention_mask=mask, use_cache=False).logits, labels, places, pairs


def per_item(work: Work, rows: Rows, read: Callable[[Tensor, Tensor], Any], size: int = 32) -> list[Any]:
    """Something read from the log-softmax (labels, classes) and the labels of each item."""
    found = []
    for logits, _, places, pairs in whole(work, rows, size):
        for k, i in enumerate(places):
            prompt, answer = pairs[i]
            log = logits[k, len(prompt) - 1 : len(prompt) + len(answer) - 1].float().log_softmax(-1)
            found.append(read(log, torch.tensor(answer, device=log.device)))
    return found


def gradient_norms(work: Work, rows: Rows) -> list[float]:
    """One item, one backward pass."""
    found = []
    with torch.enable_grad():
        for prompt, answer in pairs_of(rows):
            work.model.zero_grad()
            ids, mask, _ = work.modality.collate([(prompt, answer)], work.device)
            logits = work.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0, len(prompt) - 1 : -1]
            labels, n = ids[0, len(prompt) :], max(1, len(answer) - 1)
            F.cross_entropy(logits[:n], labels[:n]).backward()
            found.append(float(torch.stack([p.grad.norm() for p in work.model.parameters() if p.grad is not None]).mean()))
    work.model.zero_grad()
    return found


def research(work: Work) -> dict[str, Any]:
    """Probability, truth ratio, ROUGE, memorization and six attacks, each with its own pass over what it needs."""

    def moments(log: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p = log.exp()
        mean = (p * log).sum(-1)
        return log.gather(1, labels[:, None])[:, 0], mean, ((p * log.square()).sum(-1) - mean.square()).clamp_min(1e-6).sqrt()

    found: dict[str, Any] = {"target_logp": {}, "said": {}}
    for key, rows in work.rows.items():  # probability and truth ratio
        found["target_logp"][key] = losses(work, rows)
        if key[1] == "paraphrase" or (key[1] == "answer" and key[0] in ("real_authors", "world_facts")):
            losses(work, rows)  # the truth ratio asks about right answers again
    found["said"] = generate(work, 32, longest_first=False)
    forget = work.rows["forget", "answer"]
    found["hit"] = per_item(work, forget, lambda log, y: log.argmax(-1) == y)  # extraction strength
    per_item(work, forget, lambda log, y: log.argmax(-1) == y)  # exact memorization
    for name, rows in work.members.items():
        for _ in ("loss", "zlib", "min_k", "reference"):
            losses(work, rows)
        found[f"moments/{name}"] = per_item(work, rows, moments)  # Min-K++
        found[f"gradnorm/{name}"] = gradient_norms(work, rows)
    return found


def differences(work: Work, seen: Observation, other: dict[str, Any]) -> dict[str, float]:
    """The largest differences between the two, item by item."""

    def apart(a: Any, b: Any) -> float:
        return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max(initial=0))

    loss, mean = 0.0, 0.0
    for (name, kind), found in other["target_logp"].items():
        scored = seen.sets[name].kinds[kind]
        mine = [scored.answer(k, scored.target_logp) for k in range(len(scored))]
        loss = max(loss, *(apart(a.mean(), b.double().mean().cpu()) for a, b in zip(mine, found, strict=True)))
    for name in work.members:
        scored = seen.sets[name].kinds["answer"]
        mean = max(mean, *(apart(scored.answer(k, scored.mean), m[1].cpu()) for k, m in enumerate(other[f"moments/{name}"])))
    hits = seen.sets["forget"].kinds["answer"]
    norms = [np.asarray(other[f"gradnorm/{n}"]) for n in work.members]
    return {
        "mean loss of an answer": loss,
        "mean of a position": mean,
        "hits": float(sum((hits.answer(k, hits.hit) != h.cpu().numpy()).sum() for k, h in enumerate(other["hit"]))),
        "texts": float(
            sum(
                a != b for n, out in other["said"].items() for a, b in zip(seen.sets[n].generations, work.modality.decode(out), strict=True)
            )
        ),
        "gradient norm, relative": max(
            apart(seen.sets[n].gradient_norms / r, 1)
            for n, r in zip(work.members, norms, strict=True)  # type: ignore[operator]
        ),
    }


def main() -> None:
    given = bench.options(__doc__, reference={"type": int, "default": 1, "help": "rounds of research code, which takes long; 0: none"})
    made = bench.suite(given)
    opened = bench.original(given, made)
    limit = given.items or (16 if given.quick else None)
    work = Work(opened, {n: records[:limit] for n, records in made.sets.items()})
    ways = {
        "body": lambda: body(work),
        "generate": lambda: generate(work),
        "ours": lambda: ours(work),
        "ours, drafts off": lambda: ours(work, drafts=False),
        "ours, tokens known": lambda: ours(work, known=True),
        "reading": lambda: ours(work, known=True, generations=False, gradient_norms=False),
        "reading and gradients": lambda: ours(work, known=True, generations=False),
    }
    with evaluating(work.model), torch.no_grad():
        times = bench.interleaved(ways, given.rounds)
        seen, other, slow = ours(work), dict[str, Any](), bench.Times()
        if given.reference:
            bench.answer_texts("research code")
            slow = bench.interleaved(
                {"ours": ways["ours"], "research code": lambda: other.update(research(work))}, given.reference, warm=False
            )
    bench.finish(given, "evaluation", told(work, times, slow, seen, other))


def told(work: Work, times: bench.Times, slow: bench.Times, seen: Observation, other: dict[str, Any]) -> dict[str, Any]:
    """The table, and what is written."""
    found: dict[str, Any] = {"ratio_to_floor": round(times.ratio("ours", FLOORS), 3)}
    found["parts"] = {
        "sequences": sum(map(len, work.rows.values())),
        "generations": sum(map(len, work.asked.values())),
        "gradient norms": sum(map(len, work.members.values())),
        "how": seen.about.get("read"),
        "recited tokens": seen.about.get("recited"),
        "seconds": {n: round(times.seconds(n), 3) for n in times.wall},
        "ratio_to_floor": {
            clock: {n: round(times.ratio(n, FLOORS, clock), 3) for n in ("ours", "ours, drafts off")} for clock in ("wall", "cpu")
        },
        "reading to body": {clock: round(times.ratio("reading", "body", clock), 3) for clock in ("wall", "cpu")},
    }
    bench.table(
        [[n, times.seconds(n), times.ratio(n, FLOORS), times.ratio(n, FLOORS, "cpu")] for n in times.wall],
        ("", "s", "/ floors", "/ floors, cpu"),
    )
    if other:
        found["speedup_over_reference"] = round(slow.ratio("research code", "ours"), 2)
        found["speedup_over_reference_cpu"] = round(slow.ratio("research code", "ours", "cpu"), 2)
        found["largest differences"] = differences(work, seen, other)
        print(f"research code takes {found['speedup_over_reference']} times as long; largest differences:", found["largest differences"])
    return found


if __name__ == "__main__":
    main()
