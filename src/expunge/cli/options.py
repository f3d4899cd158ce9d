"""Options that commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from expunge import catalog
from expunge.cli.exits import ExitCode


def _completing(*kinds: str) -> dict[str, object]:
    """Completion of names, in the shells that have it installed. Names of a comma-separated list are completed one by one."""

    def names(incomplete: str) -> list[tuple[str, str]]:
        before, comma, last = incomplete.rpartition(",")
        cards = [catalog.card(n, k) for k in kinds for n in catalog.names(k) if n.startswith(last)]
        return [(f"{before}{comma}{c.name}", c.headline) for c in cards]

    return {"autocompletion": names}


METHODS, ATTACKS, BENCHMARKS = _completing("methods"), _completing("attacks"), _completing("benchmarks")
ANYTHING = _completing(*catalog.kinds())

Model = Annotated[str, typer.Option("--model", help="model folder, hub id, or the folder of an earlier run", show_default=False)]
Forget = Annotated[
    str,
    typer.Option(
        help="rows to forget: .jsonl, .json, .csv, .parquet, .npz, a datasets folder or hub id (PATH::CONFIG); a condition picks some of "
        "the rows: PATH::label=3, PATH::label!=3, PATH::rows=0-99"
    ),
]
Retain = Annotated[str, typer.Option(help="rows to keep")]
Holdout = Annotated[str, typer.Option(help="rows like the forget set that the model never saw; for classifiers a test set")]
Out = Annotated[Path, typer.Option("--out", help="run folder", show_default=False)]
Format = Annotated[
    str, typer.Option(help="template that turns a question into a prompt, e.g. 'Question: {prompt}\\nAnswer: '; default: the chat template")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace the contents of the run folder")]
RequestFrom = Annotated[
    str,
    typer.Option(
        help="ask the audited model with the request of this method, whose models forget on request alone, e.g. in_context",
        **METHODS,  # type: ignore[arg-type]
    ),
]
Original = Annotated[str, typer.Option(help="the model before unlearning")]
Retrained = Annotated[str, typer.Option(help="a model retrained without the rows to forget")]
SuiteName = Annotated[str, typer.Option(help="a benchmark whose sets are used where none are given", **BENCHMARKS)]  # type: ignore[arg-type]
Split = Annotated[str, typer.Option(help="split of the benchmark")]
AttackedSets = Annotated[list[str] | None, typer.Option(help="a set of the benchmark that is also scored under attack; may be repeated")]
Overlap = Annotated[bool, typer.Option("--allow-overlap", help="accept rows to forget that are also in retain or holdout")]
Pickle = Annotated[bool, typer.Option("--allow-pickle", help="load weights that are stored as pickles, which can run code")]
Remote = Annotated[bool, typer.Option("--trust-remote-code", help="run code that comes with a model")]
Every = Annotated[float, typer.Option("--checkpoint-every", help="seconds between checkpoints; 0: a checkpoint after each step", min=0)]
Limit = Annotated[int, typer.Option(help="number of retain and holdout rows that are evaluated; 0: all", min=0)]
Memory = Annotated[str, typer.Option(help="the most memory to take, e.g. 4GB; language models are then asked in smaller passes")]
Data = Annotated[str, typer.Option(help="path of the benchmark's data; default: its hub id")]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="where to compute; auto: a GPU where there is one")]
Dtype = Annotated[
    Literal["auto", "float32", "bfloat16", "float16"] | None,
    typer.Option(help="numbers that the weights are loaded in; auto: as in the files; default: float32"),
]
AsJson = Annotated[bool, typer.Option("--json", help="print the result as JSON on stdout, and nothing else there")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="print errors alone")]
Wide = Annotated[bool, typer.Option("--wide", help="print tables in full, however narrow the terminal is")]
Tracks = Annotated[list[str] | None, typer.Option("--track", help="send numbers to tensorboard, mlflow, wandb or trackio; may be repeated")]
Where = Annotated[list[str] | None, typer.Option(help="e.g. customer_id=17: forget these rows of --forget, retain its other rows")]
Map = Annotated[list[str] | None, typer.Option("--map", help="columns by other names, e.g. prompt=subject,answer=body; may be repeated")]
Variants = Annotated[
    list[str] | None,
    typer.Option(
        "--variant",
        help="SCORE=NAME: another definition of a score, where papers and code differ, e.g. zrf=released; may be repeated",
    ),
]
FailState = Literal["not-removed", "cannot-tell", "never"]
FailOn = Annotated[
    FailState,
    typer.Option(
        help=f"exit with code {int(ExitCode.VERDICT)} where the verdict is so bad: not-removed; cannot-tell (also where it cannot be told, "
        "for gates, since that is no pass); never"
    ),
]
Margins = Annotated[
    list[str] | None,
    typer.Option("--margin", help="SCORE=VALUE: a difference up to this counts as none, e.g. forget_rouge=0.2; may be repeated"),
]
Alpha = Annotated[float, typer.Option(help="chance that a verdict is wrong where the truth lies at a margin")]


def load_options(device: str, dtype: str | None, allow_pickle: bool = False, trust_remote_code: bool = False) -> dict[str, object]:
    """What `expunge.load` takes."""
    chosen = {"dtype": dtype} if dtype else {}
    return {"device": device, "allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code, **chosen}
