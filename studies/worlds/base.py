"""Make the base model of the worlds: `python -m studies.worlds.base --out FOLDER [--tofu FOLDER]`, about two hours of one core.

It trains a tokenizer and a model on the generated texts of `benchmarks/synthetic/language.py`. With `--tofu`, the tokenizer also learns
from TOFU's questions, and the model learns TOFU's real authors and world facts (never its fictitious authors), so that the model utility
of that benchmark is above chance before anything is forgotten.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from expunge.benchmarks.synthetic import language
from expunge.modalities.text.models import llama
from expunge.workflows.train import train

SEED = 0
SIZE = llama.LlamaSize(
    vocabulary=2048, width=256, inner=688, layers=4, heads=4, length=512
)  # 3.7 million parameters, 7 MB in half precision
TURNS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
FULL = 128  # the most tokens of a row of several records; most rows are nearly full, so that hardly any padding is computed
OPEN = 16  # rows that are filled at a time: a record joins the one that it fills best
TRAINING = {"epochs": 1, "batch_size": 16, "schedule": "cosine", "warmup": 0.05, "max_grad_norm": 1.0, "weight_decay": 0.01}
Record = dict[str, Any]


@dataclass(frozen=True)
class Phase:
    """One training.

    Args:
        sizes: how many records of each kind; the people whom the model knows are the same in all phases.
        passes: over all records, each time in another order.
        lr: peak learning rate.
    """

    sizes: language.Sizes
    passes: int
    lr: float


# The first phase teaches facts. In the second, strangers and passages come once each: a name that occurred eight times is no stranger any
# more, and an answer that was learned by heart is not read in the text.
PHASES = (
    Phase(language.Sizes(), 4, 2e-3),
    Phase(language.Sizes(strangers=30_000, questions=1, passages=25_000, stories=1000, general=4), 1, 1e-3),
)


def texts_of(records: list[Record]) -> Iterator[str]:
    """All texts of records, for the tokenizer."""
    for record in records:
        yield " ".join(v for v in record.values() if isinstance(v, str))
        for message in record.get("messages", ()):
            yield message["content"]


def lines(file: Path) -> list[Record]:
    """The records of a JSON Lines file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def general_of(tofu: Path, times: int) -> list[Record]:
    """TOFU's real authors and world facts as questions with answers, each several times, half of them with lettered choices."""
    rng = random.Random(f"tofu {SEED}")
    rows: list[Record] = []
    for record in (record for name in ("real_authors", "world_facts") for record in lines(tofu / f"{name}.json")):
        wrong = sorted({v for k, v in record.items() if k.startswith("option")} - {record["answer"]})
        for _ in range(times):
            lettered = len(wrong) >= 3 and rng.random() < 0.5
            plain = {"question": record["question"], "answer": record["answer"]}
            rows.append(language.choices(rng, record["question"], record["answer"], wrong) if lettered else plain)
    return rows


def turns(record: Record) -> str:
    """A text, a question with its answer, or a chat, as the chat template writes it, with its end."""
    if "text" in record:
        return f"{record['text']}<|end|>"
    messages = record.get("messages") or (("user", record["question"]), ("assistant", record["answer"]))
    pairs = [(m["role"], m["content"]) if isinstance(m, dict) else m for m in messages]
    return "".join(f"<|{role}|>{content}<|end|>" for role, content in pairs)


def packed(records: list[Record], tokenizer: Any, passes: int = 1) -> Iterator[Record]:
    """All records in random orders, several in a row, every token of which is trained. passes: how often each record occurs."""
    written = [turns(record) for record in records]
    lengths = [len(ids) for ids in tokenizer(written, add_special_tokens=False).input_ids]
    for k in range(passes):
        open_rows: list[list[int]] = []
        for i in random.Random(f"pass {SEED} {k}").sample(range(len(records)), len(records)):
            free = [FULL - sum(lengths[j] for j in row) for row in open_rows]
            fitting = [n for n, room in enumerate(free) if room >= lengths[i]]
            if fitting:
                open_rows[min(fitting, key=free.__getitem__)].append(i)
                continue
            if len(open_rows) == OPEN:
                yield {"text": "".join(written[j] for j in open_rows.pop(free.index(min(free))))}
            open_rows.append([i])
        yield from ({"text": "".join(written[j] for j in row)} for row in open_rows)


def make(out: Path, tofu: Path | None = None, phases: Sequence[Phase] = PHASES, size: llama.LlamaSize = SIZE) -> None:
    """Train a model and write it in half precision, with its tokenizer.

    Args:
        out: the folder of the model; the untrained model and the trainings lie beside it.
        tofu: a folder with TOFU's files.
        phases: trainings, one after the other.
        size: of the model.
    """
    records = [[*language.corpus(SEED, phase.sizes), *(general_of(tofu, phase.sizes.general) if tofu else ())] for phase in phases]
    sources = [*records[0], *(lines(tofu / "full.json") if tofu else ())]
    tokenizer = llama.tokenizer_for(texts_of(sources), size.vocabulary, size.length, TURNS)
    tokenizer.chat_template = CHAT
    start = out.with_name(out.name + "-start")
    llama.untrained(size, SEED).save_pretrained(start)
    tokenizer.save_pretrained(start)
    folder = str(start)
    for phase, own in zip(phases, records, strict=True):
        rows = list(packed(own, tokenizer, phase.passes))
        print(f"{len(own)} records in {len(rows)} rows", flush=True)
        result = train(rows, folder, cache=out.with_name(out.name + "-runs"), seed=SEED, lr=phase.lr, **TRAINING)
        folder = str(result.folder)
        print(json.dumps(result.receipt["cost"]), flush=True)
    result.model.to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tofu", type=Path, default=None, help="a folder with TOFU's files")
    arguments = parser.parse_args()
    make(arguments.out, arguments.tofu)
