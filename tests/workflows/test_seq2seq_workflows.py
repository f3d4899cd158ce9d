"""Encoder-decoders through the whole tool: unlearning by methods of every kind, audit, attack and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import worlds
from cases import expunge
from expunge.benchmarks import people
from expunge.io.data import write_jsonl
from expunge.modalities.text.modality import Text
from expunge.modalities.text.seq2seq import EncoderDecoder
from expunge.workflows.audit import audit
from expunge.workflows.unlearn import unlearn

METHODS: dict[str, dict[str, Any]] = {
    "npo": {},
    "ga": {},
    "graddiff": {},
    "kl": {},
    "idk": {},
    "dpo": {},
    "rmu": {"layer": 1},
    "ssd": {"alpha": 1},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained T5, and the rows of a few people."""
    folder = tmp_path_factory.mktemp("seq2seq")
    data = people.generate(seed=0, people=3, forget=1, holdout=1, neighbours=1, retain_audit=4)
    model, tokenizer = worlds.t5([r["question"] + "\n" + r["answer"] for r in data.full])
    Text(tokenizer, architecture=EncoderDecoder((0,))).save(model, folder / "model")
    for name in ("forget", "retain", "holdout"):
        write_jsonl(folder / f"{name}.jsonl", getattr(data, name)[:6])
    return folder


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(AutoModelForSeq2SeqLM.from_pretrained(path).state_dict())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_method_unlearns_and_the_library_loads_what_it_leaves(method: str, folder: Path, tmp_path: Path) -> None:
    trains = {} if method == "ssd" else {"lr": 1e-3, "steps": 2, "epochs": 0}
    unlearn(method, folder / "model", folder / "forget.jsonl", folder / "retain.jsonl", out=tmp_path / "run", **trains, **METHODS[method])
    before, after = weights(folder / "model"), weights(tmp_path / "run" / "model")
    assert {n for n in before if not torch.equal(before[n], after[n])}
    receipt = json.loads((tmp_path / "run" / "receipt.json").read_text())
    assert receipt["modality"]["architecture"] == "encoder-decoder"


def test_an_audit_reports_the_probabilities_of_the_library(folder: Path, tmp_path: Path) -> None:
    audit(folder / "model", folder / "forget.jsonl", retain=folder / "retain.jsonl", out=tmp_path / "audit")
    model: Any = AutoModelForSeq2SeqLM.from_pretrained(folder / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    probabilities = []
    for record in map(json.loads, (folder / "forget.jsonl").read_text().splitlines()):
        source, labels = (torch.tensor([tokenizer(record[c])["input_ids"]]) for c in ("question", "answer"))
        with torch.no_grad():
            probabilities.append(float((-model(input_ids=source, labels=labels).loss).exp()))
    scores = json.loads((tmp_path / "audit" / "audit.json").read_text())["scores"]
    assert scores["forget_probability"]["value"] == pytest.approx(sum(probabilities) / len(probabilities), rel=1e-4)


@pytest.mark.slow
def test_the_command_line_unlearns_audits_and_refuses(folder: Path, tmp_path: Path) -> None:
    sets = ("--forget", folder / "forget.jsonl", "--retain", folder / "retain.jsonl")
    expunge(
        "unlearn", "npo", "--model", folder / "model", *sets, "--out", tmp_path / "run", "--steps", 2, "--epochs", 0, "--lora", 2
    ).fine()
    expunge("audit", tmp_path / "run", *sets, "--out", tmp_path / "audit").fine()
    for method in ("lunar", "stamp", "eru"):
        refused = expunge("unlearn", method, "--model", folder / "model", *sets, "--out", tmp_path / method)
        assert "no encoder-decoder" in refused.error
    refused = expunge("unlearn", "rmu", "--layer", 0, "--model", folder / "model", *sets, "--out", tmp_path / "rmu", "--steps", 1)
    assert "'block:0' is a module of the encoder" in refused.error
