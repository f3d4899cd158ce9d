"""How often the verdict is right: `python -m studies.calibrate_verdict [--world people|class3|mislabeled30] [--out results/verdict]`.

Small models of known state are made (never trained, trained, retrained with other seeds, trained further, unlearned and relearned, rounded,
with adapters, behind a guard), and the default audit judges each, beside one original and one retrained model; without the latter; and
with a few rows alone, which cannot suffice to tell that something is gone. The result holds every verdict, the tables of known against
judged states, and how far retrained models differ from each other.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from expunge.benchmarks import digits, people
from expunge.core.modality import Modality
from expunge.core.plan import Plan, Train
from expunge.engine import loop, receipt
from expunge.engine.weights import put
from expunge.evaluation.attacks.quantize import quantized
from expunge.evaluation.audited_models import filtered
from expunge.io.models import Opened
from expunge.methods.terms import NLL
from expunge.modalities.image.modality import Image
from expunge.modalities.image.models import vision
from expunge.modalities.text.modality import Text
from expunge.modalities.text.models import llama
from expunge.workflows.audit import audit
from expunge.workflows.audit_result import Audit
from expunge.workflows.unlearn import unlearn

SEEDS = 5
WORLDS = ("people", "class3", "mislabeled30")
FEW = 8  # rows to forget in the audit of a few
Records = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Bench:
    """A world in which models of known state can be made."""

    shell: nn.Module
    modality: Modality
    full: Records
    forget: Records
    retain: Records
    audited_retain: Records
    holdout: Records
    train: Train
    gentle: Train
    unlearning: Mapping[str, Any]

    def trained(self, rows: Records, seed: int, start: nn.Module | None = None, train: Train | None = None) -> nn.Module:
        """A model trained on rows; from fresh weights of the seed, or from another model's."""
        model = copy.deepcopy(start if start is not None else self.shell)
        if start is None and seed:
            put(model, self.modality.fresh(model, seed))
        plan = Plan(NLL("retain"), train=train or self.train)
        return loop.run((plan,), model, self.modality, {"retain": self.modality.rows("retain", rows)}, seed=seed).model.eval()


def world(name: str) -> Bench:
    """People, about whom 405 rows are to be forgotten; digits, of which a class is (about 130 images); or digits with wrong labels.

    Three in ten images have a wrong label (389), and those are to be forgotten. Random images with right labels would show nothing: a model
    that never saw them names as many of them right.
    """
    if name == "people":
        benchmark = people.generate(0, people=90, forget=45, holdout=45, retain_audit=200)
        shell, tokenizer = llama.build("nano", [r["question"] + "\n" + r["answer"] for r in benchmark.full], seed=0)
        train = Train(epochs=40, lr=5e-3, batch_size=16, anchor="retain", max_grad_norm=1.0, warmup=1)
        gentle = Train(epochs=2, lr=1e-4, batch_size=16, anchor="retain")
        sets = (benchmark.full, benchmark.forget, benchmark.retain, benchmark.retain_audit, benchmark.holdout)
        return Bench(shell, Text(tokenizer), *sets, train, gentle, {"method": "graddiff", "lr": 5e-3, "epochs": 6})
    wrong = name == "mislabeled30"
    suite = digits.load(split="random30" if wrong else name)
    modality = Image(tuple(map(str, range(10))))
    size = "resnet-nano" if wrong else "vit-nano"  # only the former learns wrong labels by heart
    shell = vision.build(size, (1, 8, 8), modality.labels, seed=0)
    train = Train(epochs=60 if wrong else 15, lr=4e-3, batch_size=32, anchor="retain", warmup=1, weight_decay=0.0)
    gentle = Train(epochs=1, lr=1e-5, batch_size=32, anchor="retain")
    retain, forget = suite.train["retain"], suite.train["forget"]
    if wrong:
        forget = mislabeled(forget)
    rows = ([*retain, *forget], forget, retain, retain[:300], suite.sets["holdout"])
    return Bench(shell, modality, *rows, train, gentle, {"method": "neggrad", "lr": 1e-3, "epochs": 5})


def mislabeled(rows: Records) -> list[dict[str, Any]]:
    """Rows of digits, each with a wrong label."""
    random = np.random.default_rng(0)
    return [{**row, "label": int((row["label"] + random.integers(1, 10)) % 10)} for row in rows]


def models(bench: Bench, original: nn.Module, retrained: nn.Module) -> Iterator[tuple[str, str, Opened]]:
    """Name, known state and model."""

    def opened(model: nn.Module, modality: Modality | None = None) -> Opened:
        return Opened(model, modality or bench.modality, "")

    for seed in range(1, 1 + SEEDS):
        yield f"retrained, seed {seed}", "removed", opened(bench.trained(bench.retain, seed))
        yield f"trained, seed {seed}", "not removed", opened(bench.trained(bench.full, seed))
    for seed in range(3):
        untrained = copy.deepcopy(bench.shell)
        put(untrained, bench.modality.fresh(untrained, 10 + seed))
        yield f"never trained, seed {seed}", "removed", opened(untrained.eval())
    for bits in (8, 4):
        yield f"original in {bits} bits", "not removed", opened(quantized(copy.deepcopy(original), bits, 0 if bits == 8 else 64))
        yield f"retrained in {bits} bits", "removed", opened(quantized(copy.deepcopy(retrained), bits, 0 if bits == 8 else 64))
    for seed in range(2):
        yield f"original trained further, seed {seed}", "not removed", opened(bench.trained(bench.retain, seed, original, bench.gentle))
        yield f"retrained trained further, seed {seed}", "removed", opened(bench.trained(bench.retain, seed, retrained, bench.gentle))
    options = dict(bench.unlearning)
    method = options.pop("method")
    for seed in range(2):
        start = opened(copy.deepcopy(original))
        forgot = unlearn(method, start, bench.forget, bench.retain, seed=seed, **options).model
        again = bench.trained(bench.forget, seed, forgot, Train(epochs=20, lr=bench.train.lr, batch_size=16, anchor="retain"))
        yield f"unlearned and relearned, seed {seed}", "not removed", opened(again)
    for name, state, base in (("original", "not removed", original), ("retrained", "removed", retrained)):
        adapted = unlearn("finetune", opened(copy.deepcopy(base)), bench.forget, bench.retain, lora=2, lr=1e-4, epochs=1).model
        yield f"{name} with an adapter", state, opened(adapted)
    if isinstance(bench.modality, Text):
        rows = bench.modality.rows("forget", bench.forget)
        yield "original behind a filter", "not removed", opened(original, filtered(opened(original), rows))


def run(name: str) -> dict[str, Any]:
    """Judge every model of a world."""
    bench = world(name)
    original, retrained = bench.trained(bench.full, 0), bench.trained(bench.retain, 0)
    beside = {"original": Opened(original, bench.modality, ""), "retrained": Opened(retrained, bench.modality, "")}
    rows = (bench.forget, bench.audited_retain, bench.holdout)
    verdicts, spread = [], dict[str, list[float]]()
    for label, known, model in models(bench, original, retrained):
        audited = audit(model, *rows, limit=0, **beside)  # type: ignore[arg-type]
        alone = audit(model, *rows, limit=0, original=beside["original"])
        print(
            f"{name}: {label}: known {known}, judged {audited.verdict.state}, without a retrained model {alone.verdict.state}", flush=True
        )
        few = audit(model, bench.forget[:FEW], *rows[1:], limit=0, **beside)  # type: ignore[arg-type]
        judged = {"judged": audited.verdict.state, "without_retrained": alone.verdict.state, "of_few_rows": few.verdict.state}
        verdicts.append({"model": label, "known": known, **judged} | why(audited))
        if label.startswith("retrained, seed"):
            for check in audited.verdict.checks:
                if check.against == "retrained" and check.effect is not None:
                    spread.setdefault(check.name, []).append(round(check.effect, 4))
    tables = {column: table(verdicts, column) for column in ("judged", "without_retrained", "of_few_rows")}
    return {
        "command": f"python -m studies.calibrate_verdict --world {name}",
        "verdicts": verdicts,
        "table": tables,
        "retrained_differ_by": spread,
        "versions": receipt.versions(),
        "machine": receipt.machine(),
    }


def why(audited: Audit) -> dict[str, str]:
    """The reason of a verdict."""
    return {"why": audited.verdict.gone[:300]}


def table(verdicts: Sequence[Mapping[str, Any]], column: str) -> dict[str, dict[str, int]]:
    """How many models of each known state got which verdict."""
    states = ("removed", "not removed", "cannot tell")
    return {
        known: {state: sum(v["known"] == known and v[column] == state for v in verdicts) for state in states}
        for known in ("removed", "not removed")
    }


def main() -> None:
    """Run the worlds and write a file for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", choices=WORLDS, action="append")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "results" / "verdict")
    arguments = parser.parse_args()
    for name in arguments.world or WORLDS:
        receipt.write(arguments.out / f"{name}.json", run(name))


if __name__ == "__main__":
    main()
