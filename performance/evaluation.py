"""A whole evaluation with all membership attacks, compared with its floors and with the usual way of research code.

    python -m performance.evaluation [--json FILE] [--quick] [--data FOLDER] [--model FOLDER] [--reference ROUNDS]

The floor is the sum of two necessary parts: a bare forward pass of the model's body over all sequences, one per row and sorted by length;
and greedy generation by `generate` of the library for all questions, sorted by length. Our evaluation adds gradient norms, the language
head, moments, tokenization, planning and scores. The reference reads the data once for every metric, in the given order, keeps whole
logits, takes gradients of one item at a time, and generates in batches that wait for their longest answer. The results of both are compared
item by item.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from performance import _bench as bench
from torch import Tensor
from torch.nn import functional as F

from expunge.benchmarks.suite import Specs, spec_of
from expunge.core.rows import Rows
from expunge.engine.run_state import evaluating
from expunge.evaluation.measure import Evidence
from expunge.evaluation.observation import Observation
from expunge.evaluation.observation_spec import ObservationSpec
from expunge.evaluation.observe import observe
from expunge.evaluation.profiles.text import LENGTH, TIMES
from expunge.evaluation.scoring import audit_scores
from expunge.io.models import Opened
from expunge.modalities.text import trie

Pairs = Sequence[tuple[Sequence[int], Sequence[int]]]
FLOORS = ("body", "generate")


class Workload:
    """The rows of an evaluation, prepared by the modality."""

    def __init__(self, opened: Opened, sets: Any, specs: Specs | None = None) -> None:
        from expunge.evaluation.observe import _kinds

        self.model, self.modality, self.sets, self.specs = opened.model, opened.modality, sets, specs
        self.kinds = {n: _kinds(self.modality, n, records) for n, records in sets.items()}
        self.rows = {(n, k): rows for n, kinds in self.kinds.items() for k, (rows, _) in kinds.items()}
        self.questions = {n: self.rows[n, "answer"] for n in self.kinds if "generate" in spec_of(n, specs).ask}
        self.members = {n: self.rows[n, "answer"] for n in self.kinds if spec_of(n, specs).role in ("forget", "unseen")}

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    def longest_answer(self, rows: Rows) -> int:
        """The most tokens of a generated answer for a set."""
        return min(LENGTH, TIMES * max(map(len, rows["answer"])))


def pairs_of(rows: Rows) -> list[tuple[Sequence[int], Sequence[int]]]:
    """Token ids of prompts and answers."""
    return list(zip(rows["prompt"], rows["answer"], strict=True))


def in_order(pairs: Pairs, size: int, longest_first: bool) -> Iterator[list[int]]:
    """Batches of indices, by length or in the given order."""
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1])) if longest_first else list(range(len(pairs)))
    for start in range(0, len(order), size):
        yield order[start : start + size]


# the floors


def body(work: Workload, size: int = 64) -> None:
    """Run the bare body of the model over all sequences."""
    pairs = [p for rows in work.rows.values() for p in pairs_of(rows)]
    inner: Any = work.model.base_model  # type: ignore[union-attr]
    for places in in_order(pairs, size, longest_first=True):
        ids, mask, _ = work.modality.collate([pairs[i] for i in places], work.device)
        inner(input_ids=ids, attention_mask=mask, use_cache=False)


def generate(work: Workload, size: int = 128, longest_first: bool = True) -> dict[str, list[list[int]]]:
    """Generate greedily with the library, which continues until the longest answer of a batch ends."""
    generated = {}
    ends = sorted(work.modality.ends(work.model))
    for name, rows in work.questions.items():
        generated[name] = answers = [[] for _ in rows.ids]
        prompts = [(p, ()) for p in rows["prompt"]]
        for places in in_order(prompts, size, longest_first):
            width = max(len(prompts[i][0]) for i in places)
            ids = torch.tensor(
                [[work.modality.pad] * (width - len(prompts[i][0])) + list(prompts[i][0]) for i in places], device=work.device
            )
            mask = torch.tensor([[0] * (width - len(prompts[i][0])) + [1] * len(prompts[i][0]) for i in places], device=work.device)
            model: Any = work.model
            settings = {
                "do_sample": False,
                "max_new_tokens": work.longest_answer(rows),
                "eos_token_id": ends,
                "pad_token_id": work.modality.pad,
            }
            for i, answer in zip(places, model.generate(input_ids=ids, attention_mask=mask, **settings)[:, width:].tolist(), strict=True):
                answers[i] = answer[: next((k for k, t in enumerate(answer) if t in ends), len(answer))]
    return generated


# our evaluation


def ours(work: Workload, known: bool = False, **wants: bool) -> Observation:
    """Evaluate from records to scores; with `known`, tokens and packing come from the cache."""
    if not known:
        work.modality.encoder._encoded.clear()
        trie._cache.clear()
    observation = observe(work.model, work.modality, work.sets, specs=work.specs, wants=ObservationSpec(**wants))
    audit_scores(Evidence(observation), resamples=1)
    return observation


# the way of research code


def losses(work: Workload, rows: Rows, size: int = 32) -> list[Tensor]:
    """Log-probabilities of the labels of rows from whole logits, by the cross-entropy of the evaluation code of TOFU."""
    logps = []
    for logits, labels, places, pairs in whole_logits(work, rows, size):
        logp = -F.cross_entropy(logits[:, :-1].contiguous().mT, labels[:, 1:].contiguous(), ignore_index=-100, reduction="none")
        logps += [logp[k, len(pairs[i][0]) - 1 : len(pairs[i][0]) + len(pairs[i][1]) - 1] for k, i in enumerate(places)]
    return logps


def whole_logits(work: Workload, rows: Rows, size: int) -> Iterator[tuple[Tensor, Tensor, list[int], Pairs]]:
    """Batches of logits at all positions, labels (-100 outside the answer), indices of the rows, and all pairs."""
    pairs = pairs_of(rows)
    for places in in_order(pairs, size, longest_first=False):
        ids, mask, _ = work.modality.collate([pairs[i] for i in places], work.device)
        labels = ids.clone()
        for k, i in enumerate(places):
            labels[k, : len(pairs[i][0])] = -100
            labels[k, len(pairs[i][0]) + len(pairs[i][1]) :] = -100
        yield work.model(input_ids=ids, attention_mask=mask, use_cache=False).logits, labels, places, pairs


def per_item(work: Workload, rows: Rows, read: Callable[[Tensor, Tensor], Any], size: int = 32) -> list[Any]:
    """Apply `read` to the log-softmax (labels, classes) and the labels of each item."""
    results = []
    for logits, _, places, pairs in whole_logits(work, rows, size):
        for k, i in enumerate(places):
            prompt, answer = pairs[i]
            log = logits[k, len(prompt) - 1 : len(prompt) + len(answer) - 1].float().log_softmax(-1)
            results.append(read(log, torch.tensor(answer, device=log.device)))
    return results


def gradient_norms(work: Workload, rows: Rows) -> list[float]:
    """Mean over parameters of the gradient norm, by one backward pass per item."""
    norms = []
    with torch.enable_grad():
        for prompt, answer in pairs_of(rows):
            work.model.zero_grad()
            ids, mask, _ = work.modality.collate([(prompt, answer)], work.device)
            logits = work.model(input_ids=ids, attention_mask=mask, use_cache=False).logits[0, len(prompt) - 1 : -1]
            labels, n = ids[0, len(prompt) :], max(1, len(answer) - 1)
            F.cross_entropy(logits[:n], labels[:n]).backward()
            norms.append(float(torch.stack([p.grad.norm() for p in work.model.parameters() if p.grad is not None]).mean()))
    work.model.zero_grad()
    return norms


def research_code(work: Workload) -> dict[str, Any]:
    """Probability, truth ratio, ROUGE, memorization and six attacks, each with its own pass over its rows."""

    def moments(log: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        p = log.exp()
        mean = (p * log).sum(-1)
        return log.gather(1, labels[:, None])[:, 0], mean, ((p * log.square()).sum(-1) - mean.square()).clamp_min(1e-6).sqrt()

    results: dict[str, Any] = {"target_logp": {}, "generations": {}}
    for key, rows in work.rows.items():  # probability and truth ratio
        results["target_logp"][key] = losses(work, rows)
        if key[1] == "paraphrase" or (key[1] == "answer" and key[0] in ("real_authors", "world_facts")):
            losses(work, rows)  # the truth ratio reads the right answers again
    results["generations"] = generate(work, 32, longest_first=False)
    forget = work.rows["forget", "answer"]
    results["hit"] = per_item(work, forget, lambda log, y: log.argmax(-1) == y)  # extraction strength
    per_item(work, forget, lambda log, y: log.argmax(-1) == y)  # exact memorization
    for name, rows in work.members.items():
        for _ in ("loss", "zlib", "min_k", "reference"):
            losses(work, rows)
        results[f"moments/{name}"] = per_item(work, rows, moments)  # Min-K++
        results[f"gradnorm/{name}"] = gradient_norms(work, rows)
    return results


def differences(work: Workload, observation: Observation, reference: dict[str, Any]) -> dict[str, float]:
    """The largest differences between our evaluation and the reference, item by item."""

    def distance(a: Any, b: Any) -> float:
        return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max(initial=0))

    loss, mean = 0.0, 0.0
    for (name, kind), logps in reference["target_logp"].items():
        scored = observation.sets[name].kinds[kind]
        ours_by_item = [scored.answer(k, scored.target_logp) for k in range(len(scored))]
        loss = max(loss, *(distance(a.mean(), b.double().mean().cpu()) for a, b in zip(ours_by_item, logps, strict=True)))
    for name in work.members:
        scored = observation.sets[name].kinds["answer"]
        mean = max(mean, *(distance(scored.answer(k, scored.mean), m[1].cpu()) for k, m in enumerate(reference[f"moments/{name}"])))
    hits = observation.sets["forget"].kinds["answer"]
    norms = [np.asarray(reference[f"gradnorm/{n}"]) for n in work.members]
    return {
        "mean loss of an answer": loss,
        "mean of a position": mean,
        "hits": float(sum((hits.answer(k, hits.hit) != h.cpu().numpy()).sum() for k, h in enumerate(reference["hit"]))),
        "texts": float(
            sum(
                a != b
                for n, answers in reference["generations"].items()
                for a, b in zip(observation.sets[n].generations, work.modality.decode(answers), strict=True)
            )
        ),
        "gradient norm, relative": max(
            distance(observation.sets[n].gradient_norms / r, 1)
            for n, r in zip(work.members, norms, strict=True)  # type: ignore[operator]
        ),
    }


def main() -> None:
    arguments = bench.options(__doc__, reference={"type": int, "default": 1, "help": "rounds of the research code, which is slow; 0: none"})
    suite = bench.suite(arguments)
    opened = bench.original(arguments, suite)
    limit = arguments.items or (16 if arguments.quick else None)
    work = Workload(opened, {n: records[:limit] for n, records in suite.sets.items()}, suite.specs)
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
        times = bench.interleaved(ways, arguments.rounds)
        observation, reference, reference_times = ours(work), dict[str, Any](), bench.Times()
        if arguments.reference:
            bench.log("research code")
            reference_times = bench.interleaved(
                {"ours": ways["ours"], "research code": lambda: reference.update(research_code(work))}, arguments.reference, warm=False
            )
    bench.finish(arguments, "evaluation", report(work, times, reference_times, observation, reference))


def report(
    work: Workload, times: bench.Times, reference_times: bench.Times, observation: Observation, reference: dict[str, Any]
) -> dict[str, Any]:
    """Print the table and return the numbers for the file."""
    numbers: dict[str, Any] = {"ratio_to_floor": round(times.ratio("ours", FLOORS), 3)}
    numbers["parts"] = {
        "sequences": sum(map(len, work.rows.values())),
        "generations": sum(map(len, work.questions.values())),
        "gradient norms": sum(map(len, work.members.values())),
        "how": observation.about.get("read"),
        "recited tokens": observation.about.get("recited"),
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
    if reference:
        numbers["speedup_over_reference"] = round(reference_times.ratio("research code", "ours"), 2)
        numbers["speedup_over_reference_cpu"] = round(reference_times.ratio("research code", "ours", "cpu"), 2)
        numbers["largest differences"] = differences(work, observation, reference)
        print(f"research code takes {numbers['speedup_over_reference']} times as long; largest differences:")
        print(numbers["largest differences"])
    return numbers


if __name__ == "__main__":
    main()
