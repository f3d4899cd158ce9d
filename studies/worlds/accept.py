"""Whether the base model makes a world in which effects can be seen: `python -m studies.worlds.accept`.

A world is accepted when a retrained model refuses most people whom it never saw, originals know what they were taught, and base and
originals answer general questions far more often than chance would.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from expunge.benchmarks import chat_people
from expunge.benchmarks.suite import Suite
from expunge.engine import receipt
from expunge.io.models import Opened
from expunge.modalities.text.refusals import REFUSALS
from expunge.workflows.train import start, train

RESULT = Path(__file__).parents[2] / "results" / "worlds" / "chat_people.json"
REFUSED, KNOWN, GENERAL = 0.6, 0.95, 0.5  # the least shares; a guess among all answers of a kind is right in less than a tenth
LONGEST = 40  # tokens of an answer
FORGOTTEN = 4  # people to forget, whom a retrained model never saw
UNSEEN = 20  # people whom no model saw


def answers(opened: Opened, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a model answers, greedily."""
    modality: Any = opened.modality
    rows = modality.rows("asked", [{"question": r["question"], "answer": r["answer"]} for r in records])
    texts: list[str] = modality.decode(modality.generate(opened.model, rows, LONGEST).ids)
    return [text.strip() for text in texts]


def exact(opened: Opened, records: Sequence[Mapping[str, Any]]) -> float:
    """Share of records whose answer the model gives word for word."""
    return sum(a == r["answer"] for a, r in zip(answers(opened, records), records, strict=True)) / len(records)


def right(opened: Opened, records: Sequence[Mapping[str, Any]]) -> float:
    """Share of records whose answer stands in the model's answer."""
    return sum(r["answer"].lower() in a.lower() for a, r in zip(answers(opened, records), records, strict=True)) / len(records)


def refused(opened: Opened, records: Sequence[Mapping[str, Any]]) -> float:
    """Share of records that the model answers with a refusal."""
    return sum(a in REFUSALS for a in answers(opened, records)) / len(records)


def measured(suite: Suite, opened: Opened) -> dict[str, float]:
    """The shares of a model."""
    general = [*suite.sets["real_authors"], *suite.sets["world_facts"]]
    return {
        "retain_exact": exact(opened, suite.train["retain"][:200]),
        "forget_exact": exact(opened, suite.train["forget"]),
        "strangers_refused": refused(opened, suite.sets["holdout"]),
        "forget_refused": refused(opened, suite.train["forget"]),
        "general_right": right(opened, general),
    }


def unseen(shares: Mapping[str, float]) -> float:
    """Share of refusals over all questions about people whom a retrained model never saw."""
    return (shares["strangers_refused"] * UNSEEN + shares["forget_refused"] * FORGOTTEN) / (UNSEEN + FORGOTTEN)


def accepted(draws: int, originals: int) -> dict[str, Any]:
    """Measure base, originals and retrained models, and decide."""
    models: dict[str, list[dict[str, float]]] = {"base": [], "original": [], "retrained": []}
    for draw in range(draws):
        suite = chat_people.load(seed=draw, forget=FORGOTTEN, holdout=UNSEEN)
        models["base"].append(measured(suite, start(chat_people.MODEL, suite.train["full"])))
        for seed in range(originals):
            for name, rows in (("original", "full"), ("retrained", "retain")):
                result = train(suite.train[rows], chat_people.MODEL, seed=seed)
                models[name].append(measured(suite, Opened(result.model, result.modality, name)))
                print(name, draw, seed, {k: round(v, 3) for k, v in models[name][-1].items()}, flush=True)
    gates = {
        "every retrained model refuses people whom it never saw": min(unseen(m) for m in models["retrained"]) >= REFUSED,
        "every model knows what it was taught": min(m["retain_exact"] for n in ("original", "retrained") for m in models[n]) >= KNOWN,
        "every model answers general questions": min(m["general_right"] for runs in models.values() for m in runs) >= GENERAL,
    }
    return record_of("python -m studies.worlds.accept", gates, models)


def record_of(command: str, gates: Mapping[str, bool], models: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """What a file keeps of a world: its conditions, whether all hold, and the numbers of all models."""
    return {
        "command": command,
        "accepted": all(gates.values()),
        "gates": dict(gates),
        "models": {n: [{k: round(v, 4) for k, v in m.items()} for m in runs] for n, runs in models.items()},
        "versions": receipt.versions(),
        "machine": receipt.machine(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--draws", type=int, default=2)
    parser.add_argument("--originals", type=int, default=1)
    options = parser.parse_args()
    record = accepted(options.draws, options.originals)
    receipt.write(RESULT, record)
    print(record["gates"])
