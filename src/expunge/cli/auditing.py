"""Commands that examine a model: audit, attack."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from expunge import catalog
from expunge.cli import declared, options, parsing, precheck, tables, verdicts
from expunge.cli.console import Printer
from expunge.cli.exits import usage
from expunge.cli.options import ATTACKS
from expunge.core.errors import UserError

SOURCES = ("forget", "retain", "holdout")
MODELS = ("original", "retrained")
SAME_NAME = (
    "suite",
    "data",
    "split",
    "request_from",
    "prompt_format",
    "limit",
    "memory",
    "overwrite",
    "allow_overlap",
    "where",
    "map",
)  # as of the workflow


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    for command in (audit, attack):
        app.command(context_settings=parsing.FREE, cls=parsing.WithHyperparameters)(command)


def audit(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(help="model folder, hub id, run folder, or a folder of observations")],
    forget: options.Forget = "",
    retain: options.Retain = "",
    holdout: options.Holdout = "",
    original: options.Original = "",
    retrained: options.Retrained = "",
    suite: options.SuiteName = "",
    data: options.Data = "",
    split: options.Split = "",
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help="attack that is followed by the same scores, e.g. relearn, quantize, reformat; may be repeated",
            **ATTACKS,  # type: ignore[arg-type]
        ),
    ] = None,
    controls: Annotated[bool, typer.Option("--controls", help="also audit random weights and an input filter")] = False,
    attacked_set: options.AttackedSets = None,
    variant: options.Variants = None,
    request_from: options.RequestFrom = "",
    where: options.Where = None,
    map: options.Map = None,
    run: options.Out = Path(),
    prompt_format: options.Format = "",
    limit: options.Limit = 400,
    memory: options.Memory = "",
    track: options.Tracks = None,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
    allow_overlap: options.Overlap = False,
    margin: options.Margins = None,
    alpha: options.Alpha = 0.05,
    fail_on: options.FailOn = "not-removed",
    allow_pickle: options.Pickle = False,
    trust_remote_code: options.Remote = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    wide: options.Wide = False,
) -> None:
    """Audit a model that should have forgotten rows: scores with intervals, a verdict in three states, a report.

    Hyperparameters of attacks follow as [bold]--NAME VALUE[/] (for every attack that has them) or [bold]--ATTACK:NAME VALUE[/].
    """
    printer = Printer(as_json, quiet, wide)
    result = _audit(ctx, tuple(attack or ()), printer, controls)
    main = result.report_data.main
    tables.show_scores({n: result.scores[n] for n in (*main, *result.scores) if n in result.scores}, printer)
    verdicts.show(result.verdict, printer)
    printer.say(f"report: {run / 'report.html'}")
    printer.result(lambda: {"folder": str(run), **_summary(result)})
    verdicts.end(result.verdict.state, fail_on)


def _audit(ctx: typer.Context, attacks: tuple[str, ...], printer: Printer, controls: bool = False) -> Any:
    """Run the audit behind the commands `audit` and `attack`, whose options have the same names."""
    params = ctx.params
    with usage():
        hyperparameters = parsing.hyperparameters_from(ctx.args)
        limits = {"alpha": params["alpha"], "margins": verdicts.margins_from(params["margin"])} if "margin" in params else {}
        parsing.required(out=params["run"] != Path())
        precheck.names("attacks", *attacks)
        precheck.names("methods", params["request_from"])
        if attacks:
            declared.check(hyperparameters, dict.fromkeys(attacks, "attacks"))
        elif hyperparameters:
            raise UserError(f"no attack is named, so there is no use for --{next(iter(hyperparameters))}")
        if (params["data"] or params["split"]) and not params["suite"]:
            raise UserError(f"--{'data' if params['data'] else 'split'} belongs to a benchmark: name it with --suite")
        precheck.suite(params["suite"], params["data"])
        if not params["model"]:
            raise UserError("the model has no name: give a folder or a hub id")
        if not params["forget"] and not params["suite"] and not (Path(params["model"]) / "observed.json").exists():
            raise UserError("an audit needs the rows that were to be forgotten: give --forget FILE, or --suite with its --split")
        precheck.models(params["model"], *(params[n] for n in MODELS))
        precheck.sources(*(params[n] for n in SOURCES))
        precheck.audit_folder(params["run"], params["overwrite"])
    with printer.progress() as show:
        show(0, 0, f"loading {params['model']}")
        from expunge.engine import memory
        from expunge.engine.device import choose
        from expunge.evaluation.attack import chosen
        from expunge.workflows.audit import audit as audit_model
        from expunge.workflows.audit import thresholds_of

        with usage():
            choose(params["device"])
            chosen(attacks, hyperparameters)
            if params["memory"]:
                memory.parse(params["memory"])
            if limits:
                thresholds_of(**limits)
        return audit_model(
            params["model"],
            **{n: params[n] or None for n in (*SOURCES, *MODELS)},
            **{n: params[n] for n in SAME_NAME},
            attack=attacks,
            attacked_sets=tuple(params["attacked_set"] or ()),
            track=tuple(params["track"] or ()),
            attack_hyperparameters=hyperparameters,
            variants=parsing.settings(params["variant"]),
            with_controls=controls,
            out=params["run"],
            progress=show,
            command=parsing.command_line(),
            load_options=options.load_options(*(params[n] for n in ("device", "dtype", "allow_pickle", "trust_remote_code"))),
            **limits,
        )


def _summary(result: Any) -> dict[str, Any]:
    from expunge.workflows.audit_result import summary

    return summary(result)


def attack(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="attack: see `expunge list attacks`", **ATTACKS)],  # type: ignore[arg-type]
    model: Annotated[str, typer.Argument(help="model folder, hub id or run folder")],
    forget: options.Forget = "",
    retain: options.Retain = "",
    holdout: options.Holdout = "",
    original: options.Original = "",
    retrained: options.Retrained = "",
    suite: options.SuiteName = "",
    data: options.Data = "",
    split: options.Split = "",
    attacked_set: options.AttackedSets = None,
    variant: options.Variants = None,
    request_from: options.RequestFrom = "",
    where: options.Where = None,
    map: options.Map = None,
    run: options.Out = Path(),
    prompt_format: options.Format = "",
    limit: options.Limit = 400,
    memory: options.Memory = "",
    track: options.Tracks = None,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    overwrite: options.Overwrite = False,
    allow_overlap: options.Overlap = False,
    allow_pickle: options.Pickle = False,
    trust_remote_code: options.Remote = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    wide: options.Wide = False,
) -> None:
    """Attack one model and print the result. Hyperparameters of the attack follow as [bold]--NAME VALUE[/]."""
    printer = Printer(as_json, quiet, wide)
    result = _audit(ctx, (name,), printer)
    for note in result.notes:
        printer.say(note)
    own = {s.strip() for s in catalog.card(name, "attacks").fields.get("Scores", "").split(",")}
    scores = {n: r for n, r in result.scores.items() if n in own}
    missing = {n: result.skipped[n] for n in sorted(own & result.skipped.keys())}
    curves = {e.name: [{"step": p.step, "scores": p.scores} for p in e.relearn] for e in result.report_data.models if e.relearn}
    for audited, curve in curves.items():
        printer.say(f"{audited}, by steps of the attack:")
        tables.show_curve(curve, printer)
    if name in result.attacks:
        tables.show_attack(result.attacks[name], name, printer)
    else:
        tables.show_scores(scores, printer)
        for score, why in missing.items():
            printer.say(f"{score}: {why}")
    printer.say(f"report: {run / 'report.html'}")
    outcome = result.attacks.get(name) or {"scores": scores, "missing": missing}
    printer.result(lambda: {"folder": str(run), "attack": name, "curves": curves, **outcome})
