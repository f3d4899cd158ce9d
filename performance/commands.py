"""Whole commands on a small case, against a process that imports torch and the one class of `transformers` that the command needs.

    python -m performance.commands [--json FILE] [--quick]

40 rows, a model of the size nano, one thread unless told otherwise, each command in a process of its own with a warm file cache and an
empty cache of results. The floor is a process that loads model and tokenizer and does nothing. Each command may take 1.3 times the floor.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from performance import _bench as bench

from expunge.benchmarks import people
from expunge.io.data import write_jsonl

MUST = 1.3  # times the floor
FLOOR = "load alone"
LOAD = """
from transformers import AutoTokenizer, LlamaForCausalLM
LlamaForCausalLM.from_pretrained("original/model"), AutoTokenizer.from_pretrained("original/model")
"""
FORGET, RETAIN = ("--forget", "forget.jsonl"), ("--retain", "retain.jsonl")
WAYS: dict[str, list[str]] = {
    FLOOR: ["-c", LOAD],
    "expunge audit": ["audit", "original", *FORGET, *RETAIN],
    "expunge attack paraphrase": ["attack", "paraphrase", "original", *FORGET],
    "expunge unlearn npo": ["unlearn", "npo", "--model", "original", *FORGET, *RETAIN, "--epochs", "1"],
    "expunge train": ["train", "--data", "all.jsonl", "--model", "nano", "--epochs", "1"],
    "expunge report": ["report", "audited"],
}
LIGHT = ("expunge report",)  # needs no model, so it has a floor of its own


def main() -> None:
    arguments = bench.options(__doc__)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        case(folder)
        times = bench.interleaved({n: partial(once, words, folder) for n, words in WAYS.items()}, arguments.rounds)
    commands = [n for n in WAYS if n != FLOOR]
    bench.table([[n, times.seconds(n), times.seconds(n, "cpu"), times.ratio(n, FLOOR)] for n in WAYS], ("", "s", "s, cpu", "/ floor"))
    slowest = max((n for n in commands if n not in LIGHT), key=lambda n: times.ratio(n, FLOOR))
    numbers = {
        "ratio_to_floor": round(times.ratio(slowest, FLOOR), 3),
        "parts": {
            "seconds": {n: round(times.seconds(n), 3) for n in WAYS},
            "ratios": {n: round(times.ratio(n, FLOOR), 3) for n in commands},
            "must": MUST,
        },
    }
    bench.finish(arguments, "commands", numbers)


def case(folder: Path) -> None:
    """Write 40 rows of people, a model that knows them a little, and an audit of it."""
    benchmark = people.generate(seed=0, people=12, forget=2, holdout=1, neighbours=1)
    rows = {"forget": benchmark.forget, "retain": benchmark.retain[: 40 - len(benchmark.forget)], "all": benchmark.full[:40]}
    for name, records in rows.items():
        write_jsonl(folder / f"{name}.jsonl", records)
    run(["-m", "expunge", "train", "--data", "all.jsonl", "--model", "nano", "--epochs", "2", "--out", "original"], folder)
    run(["-m", "expunge", *WAYS["expunge audit"], "--out", "audited"], folder)


def once(words: list[str], folder: Path) -> None:
    """A command as a user types it, whose result and cache are thrown away."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    run(words if words[0] == "-c" else ["-m", "expunge", *words, *([] if words[0] == "report" else ["--out", "out"])], folder)


def run(words: list[str], folder: Path) -> None:
    """Run Python in a folder. Raises: CalledProcessError, but for the exit status of a bad verdict."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "EXPUNGE_CACHE": cache, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, check=False)
    if done.returncode not in (0, 3):
        raise subprocess.CalledProcessError(done.returncode, words, done.stdout, done.stderr)


if __name__ == "__main__":
    main()
