"""Every language benchmark goes through `expunge bench` at the size of its mini, and its own scores are in what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cases import expunge

OWN = {
    "blur": {"blur_forget_forget", "blur_forget_combine", "blur_retain_retain", "mmlu_choice_accuracy", "mmlu_keywords_choice_accuracy"},
    "dusk": {"dusk_verbatim", "dusk_unique_forget", "dusk_shared"},
    "muse": {"muse_verbatim", "muse_knowledge_forget", "muse_knowledge_retain"},
    "restor": {"restor_accuracy", "restor_corrupted", "restor_perplexity_forget"},
    "rwku": {"rwku_fb", "rwku_qa", "rwku_aa", "rwku_general"},
    "wmdp": {"wmdp_bio", "wmdp_mmlu"},
}
QUICK = ("--methods", "graddiff", "--no-relearn", "--limit", 8, "--train", "epochs=1", "--epochs", 1)
LONG = {"rwku": "micro"}  # few-shot prompts of general questions are too long for the smallest model


@pytest.mark.slow
@pytest.mark.parametrize("name", OWN)
def test_the_mini_goes_through_the_command(name: str, tmp_path: Path) -> None:
    done = expunge("bench", name, *QUICK, "--model", LONG.get(name, "nano"), "--out", tmp_path / "run").fine()
    entries = json.loads((tmp_path / "run" / "bench.json").read_text())["entries"]
    (method,) = [e for e in entries if e["method"] == "graddiff"]
    values = {n for n, score in method["scores"].items() if score.get("value") is not None}
    assert values >= OWN[name], done.out
