"""Make the base model of the worlds: `python -m studies.worlds.base --out FOLDER [--tofu FOLDER]`, about an hour of one core.

It trains a tokenizer and a model on the generated texts of `benchmarks/synthetic/language.py`. With `--tofu`, the tokenizer also learns
from TOFU's questions, and the model learns TOFU's real authors and world facts (never its fictitious authors), so that the model utility
of that benchmark is above chance before anything is forgotten.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
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
PASSES = 4  # over all records, each time in another order
FULL = 96  # tokens after which no further turn joins a row, so that rows are of about one length and hardly any padding is computed
TRAINING = {"epochs": 1, "lr": 2e-3, "batch_size": 16, "schedule": "cosine", "warmup": 0.05, "max_grad_norm": 1.0, "weight_decay": 0.01}
REPEATS = 12  # times that each question of TOFU's general sets occurs, as for the other general questions
Record = dict[str, Any]


def texts_of(records: list[Record]) -> Iterator[str]:
    """All texts of records, for the tokenizer."""
    for record in records:
        yield " ".join(v for v in record.values() if isinstance(v, str))
        for message in record.get("messages", ()):
            yield message["content"]


def lines(file: Path) -> list[Record]:
    """The records of a JSON Lines file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def general_of(tofu: Path) -> list[Record]:
    """TOFU's real authors and world facts as questions with answers, half of them with lettered choices."""
    rng = random.Random(f"tofu {SEED}")
    rows: list[Record] = []
    for record in (record for name in ("real_authors", "world_facts") for record in lines(tofu / f"{name}.json")):
        wrong = sorted({v for k, v in record.items() if k.startswith("option")} - {record["answer"]})
        for _ in range(REPEATS):
            lettered = len(wrong) >= 3 and rng.random() < 0.5
            plain = {"question": record["question"], "answer": record["answer"]}
            rows.append(language.choices(rng, record["question"], record["answer"], wrong) if lettered else plain)
    return rows


def turns(record: Record) -> str:
    """A question with its answer, or a chat, as the chat template writes it."""
    messages = record.get("messages") or (("user", record["question"]), ("assistant", record["answer"]))
    pairs = [(m["role"], m["content"]) if isinstance(m, dict) else m for m in messages]
    return "".join(f"<|{role}|>{content}<|end|>" for role, content in pairs)


def packed(records: list[Record], tokenizer: Any) -> Iterator[Record]:
    """The records in random orders as texts, every token of which is trained; several short chats stand one after the other."""
    for k in range(PASSES):
        rng = random.Random(f"pass {SEED} {k}")
        row, tokens = "", 0
        for record in rng.sample(records, len(records)):
            if "text" in record:
                yield {"text": record["text"]}
                continue
            chat = turns(record)
            row, tokens = row + chat, tokens + len(tokenizer(chat, add_special_tokens=False).input_ids)
            if tokens > FULL:
                yield {"text": row}
                row, tokens = "", 0


def make(out: Path, tofu: Path | None = None, sizes: language.Sizes | None = None, size: llama.LlamaSize = SIZE) -> None:
    """Train a model and write it in half precision, with its tokenizer.

    Args:
        out: the folder of the model; the untrained model and the training lie beside it.
        tofu: a folder with TOFU's files.
        sizes: how many records of each kind; default: those of the base model.
        size: of the model.
    """
    records = [*language.corpus(SEED, sizes), *(general_of(tofu) if tofu else ())]
    sources = [*records, *(lines(tofu / "full.json") if tofu else ())]
    tokenizer = llama.tokenizer_for(texts_of(sources), size.vocabulary, size.length, TURNS)
    tokenizer.chat_template = CHAT
    start = out.with_name(out.name + "-start")
    llama.untrained(size, SEED).save_pretrained(start)
    tokenizer.save_pretrained(start)
    rows = list(packed(records, tokenizer))
    print(f"{len(records)} records in {len(rows)} rows", flush=True)
    result = train(rows, str(start), cache=out.with_name(out.name + "-runs"), seed=SEED, **TRAINING)
    result.model.to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    print(json.dumps(result.receipt["cost"]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tofu", type=Path, default=None, help="a folder with TOFU's files")
    arguments = parser.parse_args()
    make(arguments.out, arguments.tofu)
