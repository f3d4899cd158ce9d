"""Commands that compare methods: bench, demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.benchmarks.demos import FIRST, case_of, cases
from expunge.cli import console, options, parsing, precheck, verdicts
from expunge.cli.console import Printer
from expunge.cli.exits import usage
from expunge.cli.options import ATTACKS, BENCHMARKS, METHODS
from expunge.core.errors import UserError
from expunge.io import run_dirs

CARVE = "carve"  # a holdout set that the benchmark makes itself
CASES = cases()
ABOUT = "\n\n".join(
    [
        "Show everything on a bundled case: a small model, a few methods, the controls, one report.",
        *(f"{name}: {case.about}." for name, case in CASES.items()),
    ]
)


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command(context_settings=parsing.FREE, cls=parsing.OnCluster)(bench)
    app.command(help=ABOUT)(demo)


def bench(
    ctx: typer.Context,
    suite: Annotated[str, typer.Argument(help="benchmark: see `expunge list benchmarks`", **BENCHMARKS)],  # type: ignore[arg-type]
    methods: Annotated[str, typer.Option(help="names of methods, comma-separated", **METHODS)] = "graddiff,npo,flat",  # type: ignore[arg-type]
    seeds: Annotated[int, typer.Option(help="number of seeds for each method", min=1)] = 1,
    model: Annotated[
        str, typer.Option(help="model folder, hub id, or a built-in size: nano, micro, tiny; default: the benchmark's size")
    ] = "",
    data: options.Data = "",
    split: options.Split = "",
    holdout: Annotated[
        str, typer.Option(help="file of rows never trained on, or 'carve': the benchmark sets rows aside, where it can")
    ] = "",
    original: Annotated[str, typer.Option(help="a model trained on all rows, so that none is trained here")] = "",
    retrained: Annotated[str, typer.Option(help="a model trained without the forget set, so that none is trained here")] = "",
    prompt_format: Annotated[
        str,
        typer.Option(
            help="how a question becomes a prompt, with {prompt}; chat: the chat template, if there is one; default: as in the benchmark"
        ),
    ] = "",
    teach: Annotated[
        str,
        typer.Option(help="general sets that the models learn, too, comma-separated; without, a small new model has no utility to lose"),
    ] = "",
    limit: options.Limit = 400,
    variant: options.Variants = None,
    train_hyperparameters: Annotated[
        list[str] | None,
        typer.Option("--train", help="NAME=VALUE for training the original and the retrained model; may be repeated"),
    ] = None,
    relearn: Annotated[bool, typer.Option(help="also measure how fast forgotten rows come back under relearning")] = True,
    attack: Annotated[
        str,
        typer.Option(
            help="attacks on every model, comma-separated, e.g. quantize,reformat; hyperparameters as --quantize:bits 4",
            **ATTACKS,  # type: ignore[arg-type]
        ),
    ] = "",
    utility: Annotated[
        str, typer.Option(help="tasks of lm-evaluation-harness to ask every trained model, comma-separated, e.g. mmlu,arc_challenge")
    ] = "",
    utility_tasks: Annotated[str, typer.Option(help="a folder of tasks (YAML) besides those of lm-evaluation-harness")] = "",
    ray: Annotated[
        str,
        typer.Option(
            help="spread methods and seeds over a Ray cluster, whose machines must share the run folder and the cache. "
            "HOST:PORT: that cluster; local or local:4: workers on this machine; auto, or no value: the cluster of RAY_ADDRESS or "
            "`ray start`, or else local",
            show_default=False,
        ),
    ] = "",
    run: options.Out = Path(),
    track: options.Tracks = None,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    wide: options.Wide = False,
) -> None:
    """Run methods x seeds on a benchmark against four controls: table, Pareto plot, report. The same command continues a stopped run.

    Hyperparameters follow as [bold]--NAME VALUE[/] (for every method) or [bold]--METHOD:NAME VALUE[/].
    """
    names, attacks = parsing.split_names(methods), parsing.split_names(attack)
    with usage():
        parsing.required(out=run != Path())
        precheck.suite(suite, data)
        if not names:
            raise UserError("--methods names no method: see expunge list methods")
        hyperparameters = parsing.hyperparameters_from(ctx.args)
        training = parsing.settings(train_hyperparameters)
        precheck.bench_hyperparameters(hyperparameters, names, attacks, training)
        precheck.models(model, sizes=True)
        precheck.models(original, retrained)
        precheck.sources(holdout if holdout != CARVE else "")
        _check_folder(run)
    printer = Printer(as_json, quiet, wide)

    def sweep() -> Any:
        from expunge.workflows.sweep import Sweep

        sources = {"data": data, "split": split, "model": model, "holdout": holdout, "original": original, "retrained": retrained}
        others: dict[str, Any] = {
            "seeds": seeds,
            "limit": limit,
            "relearning": relearn,
            "attacks": attacks,
            "utility": parsing.split_names(utility),
            "utility_tasks": utility_tasks,
            "variants": parsing.settings(variant),
            "prompt_format": prompt_format,
            "teach": parsing.split_names(teach),
            **({"dtype": dtype} if dtype else {}),
        }
        return Sweep(suite, names, hyperparameters=hyperparameters, train=training, **sources, **others)

    _run(sweep, run, printer, overwrite, device, ray, tuple(track or ()))


def _check_folder(run: Path) -> None:
    """Raises: UserError for a folder that cannot be made, or that has something else than a benchmark run in it."""
    run_dirs.check_writable(run)
    if run.is_dir() and any(run.iterdir()) and not (run / "sweep.json").exists():
        raise UserError(f"{run} exists and is no benchmark run: give another folder")


def _run(sweep_of: Any, run: Path, printer: Printer, overwrite: bool, device: str, ray: str = "", track: tuple[str, ...] = ()) -> None:
    with printer.progress() as show, console.interruptible() as interrupted:
        show(0, 0, "preparing the benchmark")
        from expunge.engine.device import choose
        from expunge.report.table import render
        from expunge.workflows.benchmark import bench as run_benchmark

        with usage():
            choose(device)
            sweep = sweep_of()
            sweep.check()
        settings: dict[str, Any] = {"track": track, "ray": ray, "overwrite": overwrite, "device": device, "command": parsing.command_line()}
        result = run_benchmark(sweep, run, progress=show, interrupted=interrupted, **settings)
    printer.table(render(list(result.entries), list(result.report_data.main), printer.width))
    data = result.report_data
    verdicts.show_models({e.name: e.verdict for e in data.judged if e.verdict}, data.states, printer)
    printer.say(f"report: {run / 'report.html'}")
    printer.result(lambda: {"folder": str(run), **json.loads((run / "bench.json").read_text(encoding="utf-8"))})


def demo(
    case: Annotated[str, typer.Argument(help=f"{', '.join(CASES)}", autocompletion=lambda: list(CASES))] = FIRST,
    run: Annotated[Path, typer.Option("--out", help="run folder; default: runs/demo, runs/demo-images, ...", show_default=False)] = Path(),
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="the smallest possible run, to check the installation; its numbers mean nothing")
    ] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    wide: options.Wide = False,
) -> None:
    default = Path("runs/demo" if case == FIRST else f"runs/demo-{case}")
    folder = default if run == Path() else run
    with usage():
        case_of(case)
        _check_folder(folder)

    def sweep() -> Any:
        from expunge.workflows.demo import demo as demo_sweep

        return demo_sweep(case, quick)

    _run(sweep, folder, Printer(as_json, quiet, wide), overwrite, device)
