"""Commands that change a model: unlearn, train."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from expunge.cli import console, declared, options, parsing, precheck
from expunge.cli.console import Printer
from expunge.cli.exits import usage
from expunge.cli.options import METHODS
from expunge.core.errors import UserError
from expunge.io import run_dirs


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (unlearn, train):
        app.command(context_settings=parsing.FREE, cls=parsing.WithHyperparameters)(command)


def unlearn(
    ctx: typer.Context,
    method: Annotated[
        str,
        typer.Argument(help="method: see `expunge list methods`; a by-design store needs none", show_default=False, **METHODS),  # type: ignore[arg-type]
    ] = "",
    model: options.Model = "",
    forget: options.Forget = "",
    retain: options.Retain = "",
    holdout: options.Holdout = "",
    alternate_answers: Annotated[str, typer.Option(help="answers to give instead, one in each row (column 'answer')")] = "",
    where: options.Where = None,
    map: options.Map = None,
    run: options.Out = Path(),
    select: Annotated[list[str] | None, typer.Option(help="add the selector of another method; may be repeated", **METHODS)] = None,  # type: ignore[arg-type]
    update: Annotated[list[str] | None, typer.Option(help="add the update of another method; may be repeated", **METHODS)] = None,  # type: ignore[arg-type]
    prompt_format: options.Format = "",
    evaluate: Annotated[bool, typer.Option("--evaluate", help="score the model after every epoch")] = False,
    keep_best: Annotated[str, typer.Option(help="keep the weights of the epoch that is best by this score")] = "",
    retrained: options.Retrained = "",
    track: options.Tracks = None,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue a run that was stopped")] = False,
    checkpoint_every: options.Every = 30.0,
    overwrite: options.Overwrite = False,
    allow_overlap: options.Overlap = False,
    allow_pickle: options.Pickle = False,
    trust_remote_code: options.Remote = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Remove the influence of rows from a model. Hyperparameters of the method follow as [bold]--NAME VALUE[/]."""
    selects, updates, sources = tuple(select or ()), tuple(update or ()), (forget, retain, holdout, alternate_answers)
    reads, picked = (model, *sources, retrained), {"where": where or [], "map": map or []}
    with usage():
        hyperparameters: dict[str, Any] = {**parsing.hyperparameters_from(ctx.args)}
        if not method and not model:
            raise UserError("missing argument METHOD, e.g. expunge unlearn npo: see expunge list methods")
        precheck.names("methods", method, *selects, *updates)
        parsing.required(model=model, out=run != Path())
        if method:
            declared.check(hyperparameters, dict.fromkeys((method, *selects, *updates), "methods"))
        precheck.models(model, retrained)
        precheck.sources(*sources)
        run_dirs.check_resumable(run, resume, overwrite)
        if not resume:
            precheck.new_run(run, overwrite, reads, run_dirs.TO_RESUME if run_dirs.begun(run) else "")
    printer = Printer(as_json, quiet)
    with printer.progress() as show, console.interruptible() as interrupted:
        show(0, 0, f"loading {model}")
        from expunge.engine.device import choose
        from expunge.engine.hooks import Hooks
        from expunge.evaluation.prompting import way_of
        from expunge.io.conditions import opposite
        from expunge.workflows import build_plan
        from expunge.workflows.stores import method_of
        from expunge.workflows.unlearn import unlearn as unlearn_rows
        from expunge.workflows.watch import watching

        with usage():
            choose(device)
            method = method or method_of(model)
            build_plan.plan(method, hyperparameters, select=selects, update=updates)
        load_options: Any = options.load_options(device, dtype, allow_pickle, trust_remote_code)
        watch = None
        if evaluate or keep_best:
            watch = watching(forget, retain, retrained, best=keep_best, prompt_format=prompt_format, model=model, **picked, **load_options)
        result = unlearn_rows(
            method,
            model,
            forget or None,
            retain or None,
            holdout=holdout or None,
            alternate_answers=alternate_answers or None,
            **picked,
            out=run,
            prompt_format=prompt_format,
            allow_overlap=allow_overlap,
            watch=watch,
            track=tuple(track or ()),
            resume=resume,
            overwrite=overwrite,
            hooks=Hooks(progress=lambda d, t, task: show(d, t, f"forgetting: {task}"), interrupted=interrupted, every=checkpoint_every),
            load_options=load_options,
            select=selects,
            update=updates,
            **hyperparameters,
        )
    cost, kind = result.receipt["cost"], result.receipt["result"]["kind"]
    _warn(result.receipt, printer)
    printer.say(f"{method}: {cost['steps']} steps in {cost['seconds']:.1f} s; the {kind} is in {run / kind}")
    _promise(result.receipt, run, printer)
    options_of_audit = {"--forget": forget or "FILE", "--retain": retain, "--holdout": holdout}
    options_of_audit |= {"--original": model, "--retrained": retrained}
    if selected := {f"--{p.stem}": str(p) for p in sorted((run / "selected").glob("*"))}:
        printer.say(f"the rows that a selector used instead of the given ones are in {run / 'selected'}")
        options_of_audit |= selected
        if len(conditions := picked.pop("where")) == 1:  # the selected rows are a file of their own
            options_of_audit["--retain"] = options_of_audit["--retain"] or f"{forget}::{opposite(conditions[0])}"
    options_of_audit["--request-from"] = method if way_of(method) else ""
    arguments = [word for option, value in options_of_audit.items() if value for word in (option, value)]
    arguments += [word for name, values in picked.items() for value in values for word in (f"--{name}", value)]
    printer.say(f"next: expunge audit {shlex.join([str(run), *arguments, '--out', f'{run}-audit'])}")
    printer.result(lambda: {"folder": str(run), **result.receipt})


def train(
    ctx: typer.Context,
    data: Annotated[str, typer.Option(help="rows to train on")] = "",
    forget: Annotated[str, typer.Option(help="more rows to train on, for a method that must know which ones may have to go (sgtm)")] = "",
    model: Annotated[str, typer.Option(help="model folder, hub id, or a built-in size: nano, micro, tiny, resnet-nano, vit-nano")] = "tiny",
    run: options.Out = Path(),
    method: Annotated[
        str, typer.Option(help="finetune, or a method that makes a model ready to forget: by-design ones, sgtm", **METHODS)
    ] = "finetune",  # type: ignore[arg-type]
    prompt_format: options.Format = "",
    seed: Annotated[int, typer.Option(help="seed of everything that is random", min=0)] = 0,
    labels: Annotated[str, typer.Option(help="names of the classes, comma-separated, or their number; default: those of the data")] = "",
    vocabulary: Annotated[
        list[str] | None,
        typer.Option(
            help="rows whose words (or users, items ...) a built-in size knows; give the same rows to models that are compared; repeatable"
        ),
    ] = None,
    map: options.Map = None,
    track: options.Tracks = None,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    checkpoint_every: options.Every = 30.0,
    overwrite: options.Overwrite = False,
    allow_pickle: options.Pickle = False,
    trust_remote_code: options.Remote = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Train a model on rows: the original or the retrained model of a comparison. A repeated run reuses the trained model."""
    with usage():
        parsing.required(data=data, model=model, out=run != Path())
        hyperparameters: dict[str, Any] = {**parsing.hyperparameters_from(ctx.args)}
        precheck.names("methods", method)
        declared.check(hyperparameters, {method: "methods"})
        precheck.sources(data, forget, *(vocabulary or ()))
        precheck.models(model, sizes=True)
        precheck.new_run(run, overwrite, (data, forget, model))
    printer = Printer(as_json, quiet)
    with printer.progress() as show, console.interruptible() as interrupted:
        show(0, 0, f"reading {data}")
        from expunge.engine.device import choose
        from expunge.engine.hooks import Hooks
        from expunge.io.models import records
        from expunge.workflows import build_plan
        from expunge.workflows.train import train as train_model

        with usage():
            choose(device)
            build_plan.plan(method, hyperparameters)
        load_options: Any = options.load_options(device, dtype, allow_pickle, trust_remote_code)
        result = train_model(
            data,
            model,
            forget=forget or None,
            out=run,
            vocabulary=[row for source in vocabulary for row in records(source, "vocabulary")] if vocabulary else None,
            labels=int(labels) if labels.isdecimal() else parsing.split_names(labels),
            map=map,
            prompt_format=prompt_format,
            seed=seed,
            method=method,
            track=tuple(track or ()),
            overwrite=overwrite,
            hooks=Hooks(progress=lambda d, t, _: show(d, t, "training"), interrupted=interrupted, every=checkpoint_every),
            load_options=load_options,
            **hyperparameters,
        )
    kind = result.receipt["result"]["kind"]
    _warn(result.receipt, printer)
    printer.say(f"trained {model} for {result.receipt['cost']['steps']} steps; the {kind} is in {run / kind}")
    _promise(result.receipt, run, printer)
    printer.result(lambda: {"folder": str(run), **result.receipt})


def _promise(receipt: Mapping[str, Any], run: Path, printer: Printer) -> None:
    """Print what forgetting from a by-design store promises, and what the store holds."""
    if not (result := receipt["result"]).get("store"):
        return
    if guarantee := result.get("guarantee"):
        printer.say(f"guarantee {guarantee['level']}, {guarantee['meaning']}; receipt.json says what voids it")
    printer.say(f"{run / 'store'} holds the training rows: keep it as confidential as they are")


def _warn(receipt: Mapping[str, Any], printer: Printer) -> None:
    """Print the warnings of a run and the findings about its request."""
    for warning in (*receipt["request"]["findings"], *receipt["warnings"]):
        printer.say(warning, "[yellow]warning:[/] ")
