"""A short run of unlearning: an epoch of 40 rows on a small model, from files to files.

    python -m performance.short_runs [--json FILE] [--quick]

The floor is a plain script with `transformers` (and `peft`) alone, which cannot be resumed and leaves no receipt: it loads model and
tokenizer, reads and encodes the rows, computes the reference log-probabilities of NPO, inserts the adapter, trains an epoch, and writes
the result. Ours is `expunge.unlearn`, which also checks the rows for overlaps, hashes model and rows, writes a checkpoint before the
first step, measures the loss of the rows before and after, and writes a log, a card and a receipt. All libraries are loaded before.
`epoch` is the floor without files: the reference log-probabilities and the epoch. A run may take 1.3 times the floor.
"""

from __future__ import annotations

import copy
import json
import tempfile
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from performance import _bench as bench
from performance.training import labeled
from torch import Tensor, nn
from torch.nn import functional as F

import expunge
from expunge.benchmarks import people
from expunge.io.data import write_jsonl
from expunge.io.models import Opened, load
from expunge.workflows.train import train

MUST = 1.3  # times the floor
ROWS, BATCH, LORA = 40, 8, 8
SETS = ("forget", "retain")


def case(folder: Path) -> None:
    """Write the rows, and a model that knows them a little."""
    benchmark = people.generate(seed=0, people=40, forget=8, holdout=1, neighbours=1)
    for name in SETS:
        write_jsonl(folder / f"{name}.jsonl", getattr(benchmark, name)[:ROWS])
    train(benchmark.full, "nano", epochs=2, out=folder / "original")


def records_of(folder: Path, name: str) -> list[Any]:
    """The records of a set."""
    return [json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def plain(folder: Path, lora: int) -> None:
    """From files to files, with the libraries alone."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    source = folder / "original" / "model"
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source)
    sets = []
    for name in SETS:
        records = records_of(folder, name)
        prompts = [f"Question: {r['question']}\nAnswer:" for r in records]
        answers = tokenizer([f" {r['answer']}{tokenizer.eos_token}" for r in records], add_special_tokens=False)["input_ids"]
        sets.append(list(zip(tokenizer(prompts)["input_ids"], answers, strict=True)))
    model = epoch(model, sets, lora)
    with tempfile.TemporaryDirectory() as out:
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)


def epoch(model: Any, sets: Any, lora: int) -> Any:
    """Reference log-probabilities, and an epoch of NPO with a loss on retained rows. sets: prompts and answers of both sets."""
    if lora:
        import peft

        model = peft.get_peft_model(model, peft.LoraConfig(r=lora, lora_alpha=2 * lora, target_modules="all-linear", task_type="CAUSAL_LM"))
    forget, retain = sets
    with torch.no_grad():
        reference = torch.cat([nll(model.eval(), forget[i : i + 32]) for i in range(0, len(forget), 32)])
    optimizer = torch.optim.AdamW([p for p in model.train().parameters() if p.requires_grad], lr=1e-5)
    for i in range(0, len(forget), BATCH):
        gap = reference[i : i + BATCH] - nll(model, forget[i : i + BATCH])
        loss = -(2 / 0.1) * F.logsigmoid(-0.1 * gap).mean() + nll(model, retain[i : i + BATCH]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def nll(model: nn.Module, pairs: Any) -> Tensor:
    """The negative log-likelihood of each answer, in nats, (rows,)."""
    width = max(len(p) + len(a) for p, a in pairs)
    ids, mask = torch.zeros(len(pairs), width, dtype=torch.long), torch.zeros(len(pairs), width, dtype=torch.long)
    for i, (p, a) in enumerate(pairs):
        ids[i, : len(p) + len(a)], mask[i, : len(p) + len(a)] = torch.tensor([*p, *a]), 1
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
    return F.cross_entropy(logits.transpose(1, 2), labeled(pairs, ids)[:, 1:], ignore_index=-100, reduction="none").sum(1)


def ours(folder: Path, lora: int) -> None:
    """The same by `expunge.unlearn`."""
    sources = (folder / f"{name}.jsonl" for name in SETS)
    options: dict[str, Any] = {"epochs": 1, "batch_size": BATCH, **({"lora": lora} if lora else {})}
    expunge.unlearn("npo", folder / "original", *sources, out=folder / "out", overwrite=True, **options)


def main() -> None:
    arguments = bench.options(__doc__, rounds=(20, 5))
    with tempfile.TemporaryDirectory() as name, mock.patch.dict("os.environ", EXPUNGE_CACHE=name):
        folder = Path(name)
        case(folder)
        opened: Opened = load(folder / "original", device="cpu")
        rows = [opened.modality.rows(n, records_of(folder, n)) for n in SETS]
        pairs = [list(zip(r["prompt"], r["answer"], strict=True)) for r in rows]
        ways: dict[str, Any] = {}
        for kind, lora in (("all weights", 0), ("LoRA", LORA)):
            ways[f"epoch, {kind}"] = lambda lora=lora: epoch(copy.deepcopy(opened.model), pairs, lora)
            ways[f"plain, {kind}"] = partial(plain, folder, lora)
            ways[f"ours, {kind}"] = partial(ours, folder, lora)
        times = bench.interleaved(ways, arguments.rounds)
    kinds = ("all weights", "LoRA")
    ratios = {k: {c: round(times.ratio(f"ours, {k}", f"plain, {k}", c), 3) for c in ("wall", "cpu")} for k in kinds}
    bench.table(
        [[n, times.seconds(n), times.seconds(n, "cpu"), times.ratio(n, n.replace("ours", "plain"), "cpu")] for n in ways],
        ("", "s", "s, cpu", "/ floor, cpu"),
    )
    numbers = {
        "ratio_to_floor": max(r["cpu"] for r in ratios.values()),
        "parts": {"seconds": {n: round(times.seconds(n, "cpu"), 4) for n in ways}, "ratios": ratios, "rows": ROWS, "must": MUST},
    }
    bench.finish(arguments, "short_runs", numbers)


if __name__ == "__main__":
    main()
