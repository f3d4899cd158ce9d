"""The command line: a thin layer over the Python API, which does the work."""

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
from expunge.cli import console, verdicts
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
    typer.Option(help="ask the audited model with the request of this method, whose models forget on request alone, e.g. in_context"),
]
Retrained = Annotated[str, typer.Option(help="a model retrained without the rows to forget")]
SuiteName = Annotated[str, typer.Option(help="a benchmark whose sets are used where none are given")]
Split = Annotated[str, typer.Option(help="split of the benchmark")]
AttackedSets = Annotated[list[str] | None, typer.Option(help="a set of the benchmark that is also scored under attack; may be repeated")]
Overlap = Annotated[bool, typer.Option("--allow-overlap", help="accept rows to forget that are also in retain or holdout")]
Pickle = Annotated[bool, typer.Option("--allow-pickle", help="load weights that are stored as pickles, which can run code")]
Remote = Annotated[bool, typer.Option("--trust-remote-code", help="run code that comes with a model")]
Every = Annotated[float, typer.Option("--checkpoint-every", help="seconds between checkpoints; 0: a checkpoint after each step", min=0)]
Limit = Annotated[int, typer.Option(help="number of retain and holdout rows that are evaluated; 0: all", min=0)]
Data = Annotated[str, typer.Option(help="path of the benchmark's data; default: its hub id")]
FREE = {"allow_extra_args": True, "ignore_unknown_options": True}


def _options(pickle: bool, remote: bool) -> dict[str, bool]:
    return {"allow_pickle": pickle, "trust_remote_code": remote}


@app.command(context_settings=FREE, cls=console.WithHyperparameters)
def unlearn(
    ctx: typer.Context,
    method: Annotated[
        str, typer.Argument(help="method: see `expunge list methods`; a by-design store needs none", show_default=False)
    ] = "",
    model: Model = "",
    forget: Forget = "",
    retain: Retain = "",
    holdout: Holdout = "",
    alternate_answers: Annotated[str, typer.Option(help="answers to give instead, one in each row (column 'answer')")] = "",
    run: Out = Path(),
    select: Annotated[list[str] | None, typer.Option(help="add the selector of another method; may be repeated")] = None,
    update: Annotated[list[str] | None, typer.Option(help="add the update of another method; may be repeated")] = None,
    prompt_format: Format = "",
    evaluate: Annotated[bool, typer.Option("--evaluate", help="score the model after every epoch")] = False,
    keep_best: Annotated[str, typer.Option(help="keep the weights of the epoch that is best by this score")] = "",
    retrained: Annotated[str, typer.Option(help="a retrained model, for scores that compare with it")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="continue a run that was stopped")] = False,
    checkpoint_every: Every = 30.0,
    overwrite: Overwrite = False,
    allow_overlap: Overlap = False,
    allow_pickle: Pickle = False,
    trust_remote_code: Remote = False,
) -> None:
    """Remove the influence of rows from a model. Hyperparameters of the method follow as [bold]--NAME VALUE[/]."""
    hyperparameters: dict[str, Any] = {**console.hyperparameters_from(ctx.args)}
    if not method and not model:
        raise UserError("missing argument METHOD, e.g. expunge unlearn npo: see expunge list methods")
    if method:
        catalog.load(method)
    _required(model=model, out=run != Path())
    method = method or _store_method(model)
    from expunge.engine.loop import Hooks
    from expunge.evaluation.prompting import way_of
    from expunge.workflows import build_plan
    from expunge.workflows.unlearn import check_folder
    from expunge.workflows.unlearn import unlearn as unlearn_rows
    from expunge.workflows.watch import watching

    options = _options(allow_pickle, trust_remote_code)
    selects, updates = tuple(select or ()), tuple(update or ())
    build_plan.plan(method, hyperparameters, select=selects, update=updates)  # reports wrong hyperparameters before it reads anything
    check_folder(run, resume, overwrite, (model, forget, retain, holdout, alternate_answers, retrained))
    with console.progress() as show, console.interruptible() as interrupted:
        watch = None
        if evaluate or keep_best:
            watch = watching(forget, retain, retrained, best=keep_best, prompt_format=prompt_format, model=model, **options)
        result = unlearn_rows(
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
            hooks=Hooks(progress=lambda d, t, task: show(d, t, f"forgetting: {task}"), interrupted=interrupted, every=checkpoint_every),
            load_options=options,
            select=selects,
            update=updates,
            **hyperparameters,
        )
    cost, kind = result.receipt["cost"], result.receipt["result"]["kind"]
    _warn(result.receipt)
    say(f"{method}: {cost['steps']} steps in {cost['seconds']:.1f} s; the {kind} is in {run / kind}")
    options_of_audit = {"--forget": forget or "FILE", "--retain": retain, "--holdout": holdout}
    options_of_audit |= {"--original": model, "--retrained": retrained}
    if selected := {f"--{p.stem}": str(p) for p in sorted((run / "selected").glob("*"))}:
        say(f"the rows that a selector used instead of the given ones are in {run / 'selected'}")
        options_of_audit |= selected
    options_of_audit["--request-from"] = method if way_of(method) else ""
    arguments = [word for option, value in options_of_audit.items() if value for word in (option, value)]
    say(f"next: expunge audit {shlex.join([str(run), *arguments, '--out', f'{run}-audit'])}")


@app.command(context_settings=FREE, cls=console.WithHyperparameters)
def train(
    ctx: typer.Context,
    data: Annotated[str, typer.Option(help="rows to train on")] = "",
    model: Annotated[str, typer.Option(help="model folder, hub id, or a built-in size: nano, micro, tiny, resnet-nano, vit-nano")] = "tiny",
    run: Out = Path(),
    method: Annotated[str, typer.Option(help="finetune, or a by-design method, whose result can forget rows later")] = "finetune",
    prompt_format: Format = "",
    seed: Annotated[int, typer.Option(help="seed of everything that is random", min=0)] = 0,
    labels: Annotated[str, typer.Option(help="names of the classes, comma-separated, or their number; default: those of the data")] = "",
    vocabulary: Annotated[
        str, typer.Option(help="rows that the tokenizer of a built-in size is made for; give the same rows to models that are compared")
    ] = "",
    checkpoint_every: Every = 30.0,
    overwrite: Overwrite = False,
    allow_pickle: Pickle = False,
    trust_remote_code: Remote = False,
) -> None:
    """Train a model on rows: the original or the retrained model of a comparison. A repeated run reuses the trained model."""
    _required(data=data, out=run != Path())
    from expunge.engine.loop import Hooks
    from expunge.io.models import records
    from expunge.workflows.train import texts_of
    from expunge.workflows.train import train as train_model

    hyperparameters: dict[str, Any] = {**console.hyperparameters_from(ctx.args)}
    with console.progress() as show, console.interruptible() as interrupted:
        result = train_model(
            data,
            model,
            out=run,
            texts=texts_of(records(vocabulary, "vocabulary")) if vocabulary else (),
            labels=int(labels) if labels.isdecimal() else tuple(n.strip() for n in labels.split(",") if n.strip()),
            prompt_format=prompt_format,
            seed=seed,
            method=method,
            overwrite=overwrite,
            hooks=Hooks(progress=lambda d, t, _: show(d, t, "training"), interrupted=interrupted, every=checkpoint_every),
            load_options=_options(allow_pickle, trust_remote_code),
            **hyperparameters,
        )
    kind = result.receipt["result"]["kind"]
    _warn(result.receipt)
    say(f"trained {model} for {result.receipt['cost']['steps']} steps; the {kind} is in {run / kind}")


@app.command(context_settings=FREE, cls=console.WithHyperparameters)
def audit(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="model folder, hub id, run folder, or a folder of observations")],
    forget: Forget = "",
    retain: Retain = "",
    holdout: Holdout = "",
    original: Annotated[str, typer.Option(help="the model before unlearning")] = "",
    retrained: Retrained = "",
    suite: SuiteName = "",
    data: Data = "",
    split: Split = "",
    attack: Annotated[
        list[str] | None, typer.Option(help="attack that is followed by the same scores, e.g. relearn, quantize, reformat; may be repeated")
    ] = None,
    controls: Annotated[bool, typer.Option("--controls", help="also audit random weights and an input filter")] = False,
    attacked_set: AttackedSets = None,
    request_from: RequestFrom = "",
    run: Out = Path(),
    prompt_format: Format = "",
    limit: Limit = 400,
    overwrite: Overwrite = False,
    allow_overlap: Overlap = False,
    margin: verdicts.Margins = None,
    alpha: verdicts.Alpha = 0.05,
    fail_on: verdicts.FailOnOption = "not-removed",
    as_json: verdicts.AsJson = False,
    allow_pickle: Pickle = False,
    trust_remote_code: Remote = False,
) -> None:
    """Audit a model that should have forgotten rows: scores with intervals, a verdict in three states, a report.

    Hyperparameters of attacks follow as [bold]--NAME VALUE[/] (for every attack that has them) or [bold]--ATTACK:NAME VALUE[/].
    """
    hyperparameters = console.hyperparameters_from(ctx.args)
    _required(out=run != Path())
    result = _audit(ctx, tuple(attack or ()), hyperparameters, controls, alpha=alpha, margins=verdicts.margins_from(margin))
    if as_json:
        from expunge.workflows.audit_result import summary

        verdicts.show_json(summary(result))
    else:
        console.show_scores({n: result.scores[n] for n in (*result.report_data.main, *result.scores) if n in result.scores}, out.print)
        verdicts.show(result.verdict)
        say(f"report: {run / 'report.html'}")
    verdicts.end(result.verdict.state, fail_on)


app.command("verdict")(verdicts.judge_again)


def _audit(ctx: typer.Context, attacks: tuple[str, ...], hyperparameters: dict[str, str], controls: bool = False, **limits: Any) -> Any:
    """Run the audit behind the commands `audit` and `attack`, whose options have the same names."""
    from expunge.workflows.audit import audit as audit_model

    params = ctx.params
    same_name = ("suite", "data", "split", "request_from", "prompt_format", "limit", "overwrite", "allow_overlap")
    with console.progress() as show:
        return audit_model(
            params["model"],
            **{n: params[n] or None for n in ("forget", "retain", "holdout", "original", "retrained")},
            **{n: params[n] for n in same_name},
            attack=attacks,
            attacked_sets=tuple(params["attacked_set"] or ()),
            attack_hyperparameters=hyperparameters,
            with_controls=controls,
            out=params["run"],
            progress=show,
            command=_command_line(),
            load_options=_options(params["allow_pickle"], params["trust_remote_code"]),
            **limits,
        )


@app.command(context_settings=FREE, cls=console.WithHyperparameters)
def attack(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="attack: see `expunge list attacks`")],
    model: Annotated[str, typer.Argument(help="model folder, hub id or run folder")],
    forget: Forget = "",
    retain: Retain = "",
    holdout: Holdout = "",
    original: Annotated[str, typer.Option(help="the model before unlearning, to count the steps until its scores are back")] = "",
    retrained: Retrained = "",
    suite: SuiteName = "",
    data: Data = "",
    split: Split = "",
    attacked_set: AttackedSets = None,
    request_from: RequestFrom = "",
    run: Out = Path(),
    prompt_format: Format = "",
    limit: Limit = 400,
    overwrite: Overwrite = False,
    allow_overlap: Overlap = False,
    allow_pickle: Pickle = False,
    trust_remote_code: Remote = False,
) -> None:
    """Attack one model and print the result. Hyperparameters of the attack follow as [bold]--NAME VALUE[/]."""
    catalog.load(name, "attacks")
    hyperparameters = console.hyperparameters_from(ctx.args)
    _required(out=run != Path())
    result = _audit(ctx, (name,), hyperparameters)
    for entry in result.report_data.models:
        if entry.relearn:
            say(f"{entry.name}, by steps of the attack:")
            console.show_curve([{"step": p.step, "scores": p.scores} for p in entry.relearn], out.print)
    if name in result.attacks:
        console.show_attack(result.attacks[name], name, out.print, say)
    else:
        own = {s.strip() for s in catalog.card(name, "attacks").fields.get("Scores", "").split(",")}
        console.show_scores({n: r for n, r in result.scores.items() if n in own}, out.print)
        for score in sorted(own & result.skipped.keys()):
            say(f"{score}: {result.skipped[score]}")
    say(f"report: {run / 'report.html'}")


@app.command(context_settings=FREE, cls=console.OnCluster)
def bench(
    ctx: typer.Context,
    suite: Annotated[str, typer.Argument(help="benchmark: see `expunge list benchmarks`")],
    methods: Annotated[str, typer.Option(help="names of methods, comma-separated")] = "graddiff,npo,flat",
    seeds: Annotated[int, typer.Option(help="number of seeds for each method", min=1)] = 1,
    model: Annotated[
        str, typer.Option(help="model folder, hub id, or a built-in size: nano, micro, tiny; default: the benchmark's size")
    ] = "",
    data: Data = "",
    split: Split = "",
    holdout: Annotated[
        str, typer.Option(help="file of rows never trained on, or 'carve': the benchmark sets rows aside, where it can")
    ] = "",
    original: Annotated[str, typer.Option(help="a model trained on all rows, so that none is trained here")] = "",
    retrained: Annotated[str, typer.Option(help="a model trained without the forget set, so that none is trained here")] = "",
    limit: Limit = 400,
    train_hyperparameters: Annotated[
        list[str] | None,
        typer.Option("--train", help="NAME=VALUE for training the original and the retrained model; may be repeated"),
    ] = None,
    relearn: Annotated[bool, typer.Option(help="also measure how fast forgotten rows come back under relearning")] = True,
    attack: Annotated[
        str, typer.Option(help="attacks on every model, comma-separated, e.g. quantize,reformat; hyperparameters as --quantize:bits 4")
    ] = "",
    ray: Annotated[
        str,
        typer.Option(
            help="spread methods and seeds over a Ray cluster, whose machines must share the run folder and the cache. "
            "HOST:PORT: that cluster; local or local:4: workers on this machine; auto, or no value: the cluster of RAY_ADDRESS or "
            "`ray start`, or else local",
            show_default=False,
        ),
    ] = "",
    run: Out = Path(),
    overwrite: Overwrite = False,
) -> None:
    """Run methods x seeds on a benchmark against four controls: table, Pareto plot, report. The same command continues a stopped run.

    Hyperparameters follow as [bold]--NAME VALUE[/] (for every method) or [bold]--METHOD:NAME VALUE[/].
    """
    _required(out=run != Path())
    from expunge.workflows.sweep import Sweep

    sources = {"data": data, "split": split, "model": model, "holdout": holdout, "original": original, "retrained": retrained}
    hyperparameters = console.hyperparameters_from(ctx.args)
    training = console.hyperparameters_from([f"--{setting}" for setting in train_hyperparameters or ()])
    options: dict[str, Any] = {**sources, "seeds": seeds, "limit": limit, "relearning": relearn, "attacks": _split_names(attack)}
    sweep = Sweep(suite, _split_names(methods), hyperparameters=hyperparameters, train=training, **options)
    _run_sweep(sweep, run, overwrite, ray)


def _split_names(names: str) -> tuple[str, ...]:
    """Split `a, b` into two names."""
    return tuple(n.strip() for n in names.split(",") if n.strip())


def _run_sweep(sweep: Any, run: Path, overwrite: bool, ray: str = "") -> None:
    from expunge.report.table import render
    from expunge.workflows.benchmark import bench as run_benchmark

    with console.progress() as show, console.interruptible() as interrupted:
        result = run_benchmark(sweep, run, ray=ray, overwrite=overwrite, progress=show, interrupted=interrupted, command=_command_line())
    out.print(render(list(result.entries), list(result.report_data.main), out.width))
    data = result.report_data
    verdicts.show_models({e.name: e.verdict for e in data.judged if e.verdict}, data.states)
    say(f"report: {run / 'report.html'}")


@app.command()
def demo(
    case: Annotated[Literal["people", "images"], typer.Argument(help="fictitious people, or handwritten digits")] = "people",
    run: Annotated[Path, typer.Option("--out", help="run folder; default: runs/demo, runs/demo-images")] = Path(),
    overwrite: Overwrite = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="the smallest possible run, to check the installation; its numbers mean nothing")
    ] = False,
) -> None:
    """Show everything on a bundled case: a small model, a few methods, the controls, one report.

    people: a language model that answers questions about fictitious people. images: a classifier of real handwritten digits.
    """
    from expunge.workflows.demo import demo as demo_sweep

    default = Path("runs/demo" if case == "people" else f"runs/demo-{case}")
    _run_sweep(demo_sweep(case, quick), default if run == Path() else run, overwrite)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders of audits, benchmarks or unlearning")],
    page: Annotated[Path, typer.Option("--out", help="file of the page; default: report.html in the first folder")] = Path(),
) -> None:
    """Draw one page from one or more run folders."""
    from expunge.report.collect import collect
    from expunge.report.page import write

    say(f"report: {write(collect(runs), page if page != Path() else runs[0] / 'report.html')}")


@app.command("list")
def list_names(
    kind: Annotated[str, typer.Argument(help="methods, metrics, attacks, benchmarks or models; default: all")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON, for programs")] = False,
) -> None:
    """List methods, metrics, attacks, benchmarks and models by name."""
    console.show_names(kind, as_json)


@app.command("show")
def show_card(name: Annotated[str, typer.Argument(help="a name that `expunge list` shows")]) -> None:
    """Show what a method, metric, attack, benchmark or model is: equation, source, needs, cost, status."""
    console.show_cards(name)


def _store_method(model: str) -> str:
    """The method that made the by-design store in a folder.

    Raises:
        UserError: where the folder holds no store.
    """
    from expunge.io.models import receipt_of

    receipt = receipt_of(model)
    if not receipt.get("result", {}).get("store"):
        raise UserError(f"{model} is not a by-design store, so name a method: expunge unlearn METHOD --model {model}")
    return str(receipt["method"])


def _warn(receipt: Mapping[str, Any]) -> None:
    """Print the warnings of a run and the findings about its request."""
    for warning in (*receipt["request"]["findings"], *receipt["warnings"]):
        say(warning, "[yellow]warning:[/] ")


def _command_line() -> str:
    """The command as it was typed."""
    return f"expunge {shlex.join(sys.argv[1:])}"


def _required(**options: Any) -> None:
    """Raises: UserError that names the options without a value."""
    missing = [name for name, value in options.items() if not value]
    if missing:
        raise UserError(f"missing option{'s' if len(missing) > 1 else ''} {' and '.join(f'--{m}' for m in missing)}")


def main() -> NoReturn:
    """Run the command line and exit."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore", FutureWarning)  # from one library to another
    app()
    raise SystemExit(0)


if __name__ == "__main__":
    main()
