"""The command line. Thin: everything that it does, the Python API does."""

from __future__ import annotations

import os
import shlex
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer

from expunge import catalog
from expunge.cli import console
from expunge.cli.console import out, say
from expunge.core.errors import UserError

ABOUT = "Remove the influence of chosen training data from a trained model, and give evidence that it is gone."
app = typer.Typer(
    cls=console.Commands, no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False, help=ABOUT
)

Model = Annotated[str, typer.Option("--model", help="model folder, hub id, or the folder of an earlier run", show_default=False)]
Forget = Annotated[
    str,
    typer.Option(
        help="rows to forget: .jsonl, .json, .csv, .parquet, .npz, a datasets folder or hub id (PATH::CONFIG); of these, rows that fit: "
        "PATH::label=3, PATH::label!=3, PATH::rows=0-99"
    ),
]
Retain = Annotated[str, typer.Option(help="rows to keep")]
Holdout = Annotated[str, typer.Option(help="rows like the forget set that the model never saw; of classifiers, a test set")]
Out = Annotated[Path, typer.Option("--out", help="run folder", show_default=False)]
Format = Annotated[
    str, typer.Option(help="how a question becomes a prompt, e.g. 'Question: {prompt}\\nAnswer: '; default: the chat template")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace what is in the run folder")]
RequestFrom = Annotated[
    str, typer.Option(help="a method whose models forget on request alone, e.g. in_context: ask the audited model its way")
]
Overlap = Annotated[bool, typer.Option("--allow-overlap", help="let rows to forget also stand in retain or holdout")]
Pickle = Annotated[bool, typer.Option("--allow-pickle", help="load weights stored as pickles, which can run code")]
Remote = Annotated[bool, typer.Option("--trust-remote-code", help="run code that comes with a model")]
Every = Annotated[float, typer.Option("--checkpoint-every", help="seconds between checkpoints; 0: one after each step", min=0)]
Limit = Annotated[int, typer.Option(help="rows of retain and holdout that are looked at; 0: all", min=0)]
Data = Annotated[str, typer.Option(help="where the benchmark's data are; default: its hub id")]
FREE = {"allow_extra_args": True, "ignore_unknown_options": True}


def _options(pickle: bool, remote: bool) -> dict[str, bool]:
    return {"allow_pickle": pickle, "trust_remote_code": remote}


@app.command(context_settings=FREE, cls=console.WithHyperparameters)
def unlearn(
    ctx: typer.Context,
    method: Annotated[str, typer.Argument(help="name of a method: see `expunge list`")],
    model: Model = "",
    forget: Forget = "",
    retain: Retain = "",
    holdout: Holdout = "",
    alternate_answers: Annotated[str, typer.Option(help="answers to give instead, one a row (column 'answer')")] = "",
    run: Out = Path(),
    select: Annotated[list[str] | None, typer.Option(help="add the selector of another method")] = None,
    update: Annotated[list[str] | None, typer.Option(help="add the update of another method")] = None,
    prompt_format: Format = "",
    evaluate: Annotated[bool, typer.Option("--evaluate", help="score the model after every epoch")] = False,
    keep_best: Annotated[str, typer.Option(help="score whose best epoch is kept (with --evaluate)")] = "",
    retrained: Annotated[str, typer.Option(help="a retrained model, for scores that compare with one")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="go on with a run that was stopped")] = False,
    checkpoint_every: Every = 30.0,
    overwrite: Overwrite = False,
    allow_overlap: Overlap = False,
    allow_pickle: Pickle = False,
    trust_remote_code: Remote = False,
) -> None:
    """Remove the influence of rows from a model. Hyperparameters of the method follow as [bold]--NAME VALUE[/]."""
    catalog.load(method)
    hyperparameters: dict[str, Any] = {**console.hyperparameters_from(ctx.args)}
    _required(model=model, out=run != Path())
    from expunge.engine.loop import Hooks
    from expunge.evaluation.prompting import way_of
    from expunge.workflows import build_plan
    from expunge.workflows.unlearn import check_folder, watching
    from expunge.workflows.unlearn import unlearn as forget_rows

    options = _options(allow_pickle, trust_remote_code)
    selects, updates = tuple(select or ()), tuple(update or ())
    build_plan.plan(method, hyperparameters, select=selects, update=updates)  # what is wrong is said before anything is read
    check_folder(run, resume, overwrite, (model, forget, retain, holdout, alternate_answers, retrained))
    with console.progress() as show, console.interruptible() as interrupted:
        watch = None
        if evaluate or keep_best:
            watch = watching(forget, retain, retrained, best=keep_best, prompt_format=prompt_format, model=model, **options)
        result = forget_rows(
            method,
            model,
            forget or None,
            retain or None,
            holdout=holdout or None,
            alternate_answers=alternate_answers or None,
            out=run,
            prompt_format=prompt_format,
            allow_overlap=allow_overlap,
            watch=watch,
            resume=resume,
            overwrite=overwrite,
            hooks=Hooks(progress=lambda d, t, what: show(d, t, f"forgetting: {what}"), interrupted=interrupted, every=checkpoint_every),
            load_options=options,
            select=selects,
            update=updates,
            **hyperparameters,
        )
    cost, made = result.receipt["cost"], result.receipt["result"]
    _warn(result.receipt)
    say(f"{method}: {cost['steps']} steps in {cost['seconds']:.1f} s; the {made['kind']} is in {run / made['kind']}")
    given = {"--forget": forget or "FILE", "--retain": retain, "--holdout": holdout, "--original": model, "--retrained": retrained}
    if picked := {f"--{p.stem}": str(p) for p in sorted((run / "selected").glob("*"))}:
        say(f"what a selector chose in the place of the rows given is in {run / 'selected'}")
        given |= picked
    given["--request-from"] = method if way_of(method) else ""
    words = [w for option, value in given.items() if value for w in (option, value)]
    say(f"next: expunge audit {shlex.join([str(run), *words, '--out', f'{run}-audit'])}")


@app.command(context_settings=FREE, cls=console.WithHyperparameters)
def train(
    ctx: typer.Context,
    data: Annotated[str, typer.Option(help="rows to train on")] = "",
    model: Annotated[str, typer.Option(help="model folder, hub id, or a built-in size: nano, micro, tiny, resnet-nano, vit-nano")] = "tiny",
    run: Out = Path(),
    prompt_format: Format = "",
    seed: Annotated[int, typer.Option(help="seed of everything that is random", min=0)] = 0,
    labels: Annotated[str, typer.Option(help="names of the classes, comma-separated, or how many; default: those of the data")] = "",
    vocabulary: Annotated[
        str, typer.Option(help="rows that the tokenizer of a built-in size is made for: the same for models that are to be compared")
    ] = "",
    checkpoint_every: Every = 30.0,
    overwrite: Overwrite = False,
    allow_pickle: Pickle = False,
    trust_remote_code: Remote = False,
) -> None:
    """Train a model on rows: the original or the retrained model of a comparison. The same work is done once."""
    _required(data=data, out=run != Path())
    from expunge.engine.loop import Hooks
    from expunge.io.models import records
    from expunge.workflows.train import texts_of
    from expunge.workflows.train import train as teach

    hyperparameters: dict[str, Any] = {**console.hyperparameters_from(ctx.args)}
    with console.progress() as show, console.interruptible() as interrupted:
        result = teach(
            data,
            model,
            out=run,
            texts=texts_of(records(vocabulary, "vocabulary")) if vocabulary else (),
            labels=int(labels) if labels.isdecimal() else tuple(n.strip() for n in labels.split(",") if n.strip()),
            prompt_format=prompt_format,
            seed=seed,
            overwrite=overwrite,
            hooks=Hooks(progress=lambda d, t, _: show(d, t, "training"), interrupted=interrupted, every=checkpoint_every),
            load_options=_options(allow_pickle, trust_remote_code),
            **hyperparameters,
        )
    made = result.receipt["result"]["kind"]
    _warn(result.receipt)
    say(f"trained {model} for {result.receipt['cost']['steps']} steps; the {made} is in {run / made}")


@app.command(context_settings=FREE, cls=console.WithHyperparameters)
def audit(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="model folder, hub id, run folder, or a folder of observations")],
    forget: Forget = "",
    retain: Retain = "",
    holdout: Holdout = "",
    original: Annotated[str, typer.Option(help="the model before forgetting")] = "",
    retrained: Annotated[str, typer.Option(help="a model retrained without the rows to forget")] = "",
    suite: Annotated[str, typer.Option(help="a benchmark whose sets fill what is not given")] = "",
    data: Data = "",
    split: Annotated[str, typer.Option(help="split of the benchmark")] = "",
    attack: Annotated[
        list[str] | None, typer.Option(help="intervention followed by the same scores, e.g. relearn, quantize, reformat; may be repeated")
    ] = None,
    controls: Annotated[bool, typer.Option("--controls", help="also look at random weights and an input filter")] = False,
    request_from: RequestFrom = "",
    run: Out = Path(),
    prompt_format: Format = "",
    limit: Limit = 400,
    overwrite: Overwrite = False,
    allow_overlap: Overlap = False,
    allow_pickle: Pickle = False,
    trust_remote_code: Remote = False,
) -> None:
    """Look at a model that is said to have forgotten: scores with intervals, a verdict in words, a report.

    Hyperparameters of attacks follow as [bold]--NAME VALUE[/] (for every attack that has them) or [bold]--ATTACK:NAME VALUE[/].
    """
    hyperparameters = console.hyperparameters_from(ctx.args)
    _required(out=run != Path())
    done = _look(ctx, tuple(attack or ()), hyperparameters, controls)
    console.show_scores({n: done.scores[n] for n in (*done.report_data.main, *done.scores) if n in done.scores}, out.print)
    console.show_verdict(done.verdict, say)
    say(f"report: {run / 'report.html'}")


def _look(ctx: typer.Context, attacks: tuple[str, ...], hyperparameters: dict[str, str], controls: bool = False) -> Any:
    """The audit that a command asks for: what `audit` and `attack` are given by the same names."""
    from expunge.workflows.audit import audit as look

    given = ctx.params
    named = {n: given[n] for n in ("suite", "data", "split", "request_from", "prompt_format", "limit", "overwrite", "allow_overlap")}
    with console.progress() as show:
        return look(
            given["model"],
            **{n: given[n] or None for n in ("forget", "retain", "holdout", "original", "retrained")},
            **named,
            attack=attacks,
            attack_hyperparameters=hyperparameters,
            with_controls=controls,
            out=given["run"],
            progress=show,
            command=_typed(),
            load_options=_options(given["allow_pickle"], given["trust_remote_code"]),
        )


@app.command(context_settings=FREE, cls=console.WithHyperparameters)
def attack(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="attack: see `expunge list attacks`")],
    model: Annotated[str, typer.Argument(help="model folder, hub id or run folder")],
    forget: Forget = "",
    retain: Retain = "",
    holdout: Holdout = "",
    original: Annotated[str, typer.Option(help="the model before forgetting, for the steps until its scores are back")] = "",
    retrained: Annotated[str, typer.Option(help="a model retrained without the rows to forget")] = "",
    suite: Annotated[str, typer.Option(help="a benchmark whose sets fill what is not given")] = "",
    data: Data = "",
    split: Annotated[str, typer.Option(help="split of the benchmark")] = "",
    request_from: RequestFrom = "",
    run: Out = Path(),
    prompt_format: Format = "",
    limit: Limit = 400,
    overwrite: Overwrite = False,
    allow_overlap: Overlap = False,
    allow_pickle: Pickle = False,
    trust_remote_code: Remote = False,
) -> None:
    """Attack one model, and print what the attack found. Hyperparameters of the attack follow as [bold]--NAME VALUE[/]."""
    catalog.load(name, "attacks")
    hyperparameters = console.hyperparameters_from(ctx.args)
    _required(out=run != Path())
    done = _look(ctx, (name,), hyperparameters)
    for entry in done.report_data.models:
        if entry.relearn:
            say(f"{entry.name}, by steps of the attack:")
            console.show_curve([{"step": p.step, "scores": p.scores} for p in entry.relearn], out.print)
    if name in done.attacks:
        console.show_attack(done.attacks[name], name, out.print, say)
    else:
        own = {s.strip() for s in catalog.card(name, "attacks").fields.get("Scores", "").split(",")}
        console.show_scores({n: r for n, r in done.scores.items() if n in own}, out.print)
        for missing in sorted(own & done.skipped.keys()):
            say(f"{missing}: {done.skipped[missing]}")
    say(f"report: {run / 'report.html'}")


@app.command(context_settings=FREE, cls=console.OnCluster)
def bench(
    ctx: typer.Context,
    suite: Annotated[str, typer.Argument(help="benchmark: see `expunge list benchmarks`")],
    methods: Annotated[str, typer.Option(help="names, comma-separated")] = "graddiff,npo,flat",
    seeds: Annotated[int, typer.Option(help="how often each method forgets", min=1)] = 1,
    model: Annotated[
        str, typer.Option(help="model folder, hub id, or a built-in size: nano, micro, tiny; default: the benchmark's own")
    ] = "",
    data: Data = "",
    split: Annotated[str, typer.Option(help="split of the benchmark")] = "",
    holdout: Annotated[str, typer.Option(help="file of rows never trained on, or 'carve' where the benchmark can")] = "",
    original: Annotated[str, typer.Option(help="a model trained on everything, instead of training one")] = "",
    retrained: Annotated[str, typer.Option(help="a model trained without the forget set, instead of training one")] = "",
    limit: Limit = 400,
    train_hyperparameters: Annotated[
        list[str] | None, typer.Option("--train", help="NAME=VALUE for training the original and retrained model")
    ] = None,
    relearn: Annotated[bool, typer.Option(help="also measure how fast forgotten rows come back")] = True,
    attack: Annotated[
        str, typer.Option(help="attacks on every model, comma-separated, e.g. quantize,reformat; hyperparameters as --quantize:bits 4")
    ] = "",
    ray: Annotated[
        str,
        typer.Option(
            help="spread methods and seeds over a Ray cluster, whose machines must share the run folder and the cache: HOST:PORT; local "
            "or local:4, workers of this machine; nothing, or auto: the cluster of RAY_ADDRESS or of `ray start`, else local",
            show_default=False,
        ),
    ] = "",
    run: Out = Path(),
    overwrite: Overwrite = False,
) -> None:
    """Methods x seeds on a benchmark against four controls: table, Pareto plot, report. Resumes where it was stopped.

    Hyperparameters follow as [bold]--NAME VALUE[/] (for every method) or [bold]--METHOD:NAME VALUE[/].
    """
    _required(out=run != Path())
    from expunge.workflows.sweep import Sweep

    teach = console.hyperparameters_from([f"--{k}" for k in train_hyperparameters or ()])
    hyperparameters = console.hyperparameters_from(ctx.args)
    chosen = (_listed(methods), data, split, model, seeds, holdout, limit, relearn, hyperparameters, teach, {}, original, retrained)
    sweep = Sweep(suite, *chosen, attacks=_listed(attack))
    _sweep(sweep, run, overwrite, ray)


def _listed(names: str) -> tuple[str, ...]:
    """`a, b` as two names."""
    return tuple(n.strip() for n in names.split(",") if n.strip())


def _sweep(sweep: Any, run: Path, overwrite: bool, ray: str = "") -> None:
    from expunge.report.table import render
    from expunge.workflows.benchmark import bench as measure

    with console.progress() as show, console.interruptible() as interrupted:
        done = measure(sweep, run, ray=ray, overwrite=overwrite, progress=show, interrupted=interrupted, command=_typed())
    out.print(render(list(done.entries), list(done.report_data.main), out.width))
    console.show_verdict([{"level": v.level, "text": v.text} for v in done.report_data.verdict], say)
    say(f"report: {run / 'report.html'}")


@app.command()
def demo(
    case: Annotated[Literal["people", "images"], typer.Argument(help="fictitious people, or handwritten digits")] = "people",
    run: Annotated[Path, typer.Option("--out", help="run folder; default: runs/demo, runs/demo-images")] = Path(),
    overwrite: Overwrite = False,
) -> None:
    """The whole story on a bundled case: a small model, a few methods, the controls, one report.

    people: a language model that answers questions about fictitious people. images: a classifier of real handwritten digits.
    """
    from expunge.workflows.sweep import Sweep

    sweeps = {
        "people": Sweep("people", ("graddiff", "npo", "flat"), model="micro"),
        "images": Sweep("digits", ("neggrad_plus", "salun", "ssd"), model="resnet-nano", limit=0),
    }
    default = Path("runs/demo" if case == "people" else f"runs/demo-{case}")
    _sweep(sweeps[case], default if run == Path() else run, overwrite)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders: of audits, benchmarks or unlearning")],
    page: Annotated[Path, typer.Option("--out", help="where the page goes; default: report.html in the first folder")] = Path(),
) -> None:
    """One page of what is in some run folders, drawn anew."""
    from expunge.report.collect import collect
    from expunge.report.page import write

    say(f"report: {write(collect(runs), page if page != Path() else runs[0] / 'report.html')}")


@app.command("list")
def list_names(
    kind: Annotated[str, typer.Argument(help="methods, metrics, attacks, benchmarks or models; default: all")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """What there is, by name."""
    console.show_names(kind, as_json)


@app.command("show")
def show_card(name: Annotated[str, typer.Argument(help="a name of the catalogue")]) -> None:
    """What one method, metric, attack, benchmark or model is: equation, source, needs, cost, status."""
    console.show_cards(name)


def _warn(receipt: Mapping[str, Any]) -> None:
    """Say what went wrong in a run, or may have."""
    for warning in (*receipt["request"]["findings"], *receipt["warnings"]):
        say(warning, "[yellow]warning:[/] ")


def _typed() -> str:
    return f"expunge {shlex.join(sys.argv[1:])}"


def _required(**given: Any) -> None:
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise UserError(f"missing option{'s' if len(missing) > 1 else ''} {' and '.join(f'--{m}' for m in missing)}")


def main() -> NoReturn:
    """Entry point."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore", FutureWarning)  # of the libraries, to each other
    app()
    raise SystemExit(0)


if __name__ == "__main__":
    main()
