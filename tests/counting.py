"""A world of counting language models: one memorized, one is retrained, one forgot, one forgot too much, one is empty."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np

from expunge.evaluation.observation import Observation, Scored, SetObservation

WORDS = np.array([a + b for a in ("stone", "river", "cloud", "maple") for b in ("ford", "side", "bank", "wood")])
END = len(WORDS)
ABOUT = {"modality": {"modality": "text"}}
SIZES = {"forget": 60, "holdout": 60, "retain": 60, "real_authors": 30, "world_facts": 30}


class Counting:
    """p(next | question, last token) from counts where the question was trained on, from counts of last tokens alone elsewhere."""

    def __init__(self, trained, smooth: float = 0.5, shunned=()) -> None:
        self.pairs, self.known, self.smooth = np.full((END + 1, END + 1), smooth), Counter(), smooth
        self.shunned = {(q, last, token) for q, a in shunned for last, token in zip((END, *a), a, strict=False)}
        for question, answer in trained:
            for last, token in zip((END, *answer), answer, strict=False):
                self.pairs[last, token] += 1
                self.known[question, last, token] += 1

    def p(self, question: str, last: int) -> np.ndarray:
        p = self.pairs[last] / self.pairs[last].sum()
        counts = np.array([self.known[question, last, token] for token in range(END + 1)], float)
        p = 0.03 * p + 0.97 * counts / counts.sum() if counts.any() else p
        p = p * np.array([np.exp(-8.0 * ((question, last, token) in self.shunned)) for token in range(END + 1)])
        return p / p.sum()

    def say(self, question: str) -> list[int]:
        tokens = [END]
        while len(tokens) < 16 and (len(tokens) == 1 or tokens[-1] != END):
            tokens.append(int(self.p(question, tokens[-1]).argmax()))
        return [token for token in tokens if token != END]

    def see(self, question: str, answer) -> np.ndarray:
        """logp, hit, mean, std and the squared gradient norm with respect to the logits, (positions, 5)."""
        rows = []
        for last, token in zip((END, *answer), answer, strict=False):
            p = self.p(question, last)
            mean = (p * np.log(p)).sum()
            std = np.sqrt(max((p * np.log(p) ** 2).sum() - mean**2, 1e-6))
            rows.append((np.log(p[token]), p.argmax() == token, mean, std, ((p - np.eye(END + 1)[token]) ** 2).sum()))
        return np.array(rows)


def text(tokens) -> str:
    return " ".join(WORDS[t] for t in tokens if t != END)


@cache
def world() -> dict[str, list[dict]]:
    """Items by set; answers end with END, never say a word twice, so a question's next token is a function of the last one."""
    rng = np.random.default_rng(0)

    def answer() -> tuple[int, ...]:
        return (*rng.permutation(END)[: rng.integers(6, 10)].tolist(), END)

    def changed(true) -> tuple[int, ...]:
        at, new = rng.integers(len(true) - 1), rng.choice([t for t in range(END) if t not in true])
        return (*true[:at], int(new), *true[at + 1 :])

    items = {}
    for name, n in SIZES.items():
        trues = [answer() for _ in range(n)]
        items[name] = [
            {"q": f"{name}-{i}", "answer": [a], "paraphrase": [changed(a)], "perturbed": [answer() for _ in range(3)]}
            for i, a in enumerate(trues)
        ]
    return items


def observe(model: Counting) -> Observation:
    sets = {}
    for name, items in world().items():
        kinds, norms = {}, []
        for kind in ("answer", "paraphrase", "perturbed"):
            whose = [(i, a) for i, item in enumerate(items) for a in item[kind]]
            rows = [model.see(items[i]["q"], a) for i, a in whose]
            logp, hit, mean, std, _ = np.concatenate(rows).T.astype(np.float32)
            index, start = np.array([i for i, _ in whose]), np.cumsum([0, *map(len, rows)])
            kinds[kind] = Scored(index, start, logp, hit > 0, np.ones(len(whose), bool), tuple(text(a) for _, a in whose), mean, std)
            if kind == "answer":  # each position has its own row of logits, so the norm of the mean loss's gradient is that of all rows
                norms = [np.sqrt(r[:-1, 4].sum()) / (len(r) - 1) for r in rows]
        questions = tuple(item["q"] for item in items)
        generations = tuple(text(model.say(q)) for q in questions)
        truths = tuple(text(item["answer"][0]) for item in items)
        sets[name] = SetObservation(questions, questions, truths, kinds, generations, np.array(norms, np.float32))
    return Observation(sets, {"who": "counting", **ABOUT})


def pairs(*names: str):
    return [(item["q"], item["answer"][0]) for name in names for item in world()[name]]


@cache
def models() -> dict[str, Counting]:
    kept = ("retain", "real_authors", "world_facts")
    return {
        "original": Counting(pairs("forget", *kept)),
        "retrained": Counting(pairs(*kept)),
        "forgot": Counting(pairs(*kept), smooth=0.7),
        "over": Counting(pairs(*kept), shunned=pairs("forget")),
        "empty": Counting([]),
    }


@cache
def observation_of(name: str) -> Observation:
    return observe(models()[name])
