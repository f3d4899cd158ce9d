"""The command line. Thin: everything that it does, the Python API does."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

from . import console
from .core import catalog
from .core.errors import Interrupted, UserError

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False, help=__doc__)
out = Console()

Model = Annotated[str, typer.Option("--model", help="model folder, hub id, or the folder of an earlier run", show_default=False)]
Forget = Annotated[str, typer.Option(help="rows to forget: .jsonl, .json, .csv, .parquet, a datasets folder or hub id (PATH::CONFIG)")]
Retain = Annotated[str, typer.Option(help="rows to keep")]
Holdout = Annotated[str, typer.Option(help="rows like the forget set that the model never saw, for membership inference")]
Out = Annotated[Path, typer.Option("--out", help="run folder", show_default=False)]
Format = Annotated[
    str, typer.Option(help="how a question becomes a prompt, e.g. 'Question: {prompt}\\nAnswer: '; default: the chat template")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace what is in the run folder")]
Overlap = Annotated[bool, typer.Option("--allow-overlap", help="let rows to forget also stand in retain or holdout")]
Pickle = Annotated[bool, typer.Option("--allow-pickle", help="load weights stored as pickles, which can run code")]
Remote = Annotated[bool, typer.Option("--trust-remote-code", help="run code that comes with a model")]
Data = Annotated[str, typer.Option(help="where the benchmark's data are; default: its hub id")]
FREE = {"allow_extra_args": True, "ignore_unknown_options": True}


class WithKnobs(typer.core.TyperCommand):
    """Help that ends with the knobs of the method, where one is named."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:
        if "--help" in args and (method := next((a for a in args if a in catalog.names()), "")):
            out.print(self.get_help(ctx))
            console.show_knobs(method, out.print)
            ctx.exit()
        return super().parse_args(ctx, args)


def _options(pickle: bool, remote: bool) -> dict[str, bool]:
    return {"allow_pickle": pickle, "trust_remote_code": remote}


@app.command(context_settings=FREE, cls=WithKnobs)
def unlearn(
    ctx: typer.Context,
    method: Annotated[str, typer.Argument(help="name of a method: see `expunge names`")],
    model: Model = "",
    forget: Forget = "",
    retain: Retain = "",
    holdout: Holdout = "",
    substitutes: Annotated[str, typer.Option(help="answers to give instead, one a row (column 'answer')")] = "",
    run: Out = Path(),
    select: Annotated[list[str] | None, typer.Option(help="add the selector of another method")] = None,
    update: Annotated[list[str] | None, typer.Option(help="add the update of another method")] = None,
    prompt_format: Format = "",
    evaluate: Annotated[bool, typer.Option("--evaluate", help="score the model after every epoch")] = False,
    keep_best: Annotated[str, typer.Option(help="score whose best epoch is kept (with --evaluate)")] = "",
    reference: Annotated[str, typer.Option(help="a retrained model, for scores that compare with one")] = "",
    resume: Annotated[bool, typer.Option("--resume", help="go on with a run that was stopped")] = False,
    overwrite: Overwrite = False,
    allow_overlap: Overlap = False,
    allow_pickle: Pickle = False,
    trust_remote_code: Remote = False,
) -> None:
    """Remove the influence of rows from a model. Knobs of the method follow as [bold]--NAME VALUE[/]."""
    catalog.load(method)
    _required(model=model, out=run != Path())
    from .core.loop import Hooks
    from .unlearning import Watch
    from .unlearning import unlearn as forget_rows

    options = _options(allow_pickle, trust_remote_code)
    with console.progress() as show, console.interruptible() as interrupted:
        watch = None
        if evaluate or keep_best:
            watch = Watch(*_watched(forget, retain, reference, prompt_format, options), best=keep_best)
        result = forget_rows(
            method,
            model,
            forget or None,
            retain or None,
            holdout=holdout or None,
            substitutes=substitutes or None,
            out=run,
            select=tuple(select or ()),
            update=tuple(update or ()),
            prompt_format=prompt_format,
            allow_overlap=allow_overlap,
            watch=watch,
            resume=resume,
            overwrite=overwrite,
            hooks=Hooks(progress=show, interrupted=interrupted),
            load_options=options,
            **console.knobs_from(ctx.args),
        )
    cost, made = result.receipt["cost"], result.receipt["result"]
    for warning in (*result.receipt["request"]["findings"], *result.receipt["warnings"]):
        out.print(f"[yellow]warning:[/] {warning}")
    out.print(f"{method}: {cost['steps']} steps in {cost['seconds']:.1f} s; the {made['kind']} is in {run / made['kind']}")
    out.print(f"next: expunge audit {run} --forget {forget or 'FILE'} --original {model} --out {run}-audit", highlight=False)


def _watched(forget: str, retain: str, reference: str, prompt_format: str, options: dict[str, bool]) -> tuple[dict[str, Any], Any]:
    from .audit.subjects import examine, spread
    from .loading import load, records

    sets: dict[str, Any] = {n: spread(records(s, n), 100) for n, s in (("forget", forget), ("retain", retain)) if s}
    if not reference:
        return sets, None
    opened = load(reference, prompt_format, **options)
    return sets, examine(opened.model, opened.port, sets, name="retrained", role="retrained").seen


@app.command(context_settings=FREE)
def train(
    ctx: typer.Context,
    data: Annotated[str, typer.Option(help="rows to train on")] = "",
    model: Annotated[str, typer.Option(help="model folder, hub id, or a built-in size: nano, micro, tiny")] = "tiny",
    run: Out = Path(),
    prompt_format: Format = "",
    seed: int = 0,
    overwrite: Overwrite = False,
    allow_pickle: Pickle = False,
    trust_remote_code: Remote = False,
) -> None:
    """Train a model on rows: the original or the retrained model of a comparison. The same work is done once."""
    _required(data=data, out=run != Path())
    from .core.loop import Hooks
    from .training import train as teach

    with console.progress() as show, console.interruptible() as interrupted:
        hooks = Hooks(progress=lambda d, t, _: show(d, t, "training"), interrupted=interrupted)
        options = _options(allow_pickle, trust_remote_code)
        more = {"prompt_format": prompt_format, "seed": seed, "overwrite": overwrite, "hooks": hooks, "load_options": options}
        result = teach(data, model, out=run, **more, **console.knobs_from(ctx.args))  # type: ignore[arg-type]
    out.print(f"trained {model} for {result.receipt['cost']['steps']} steps; the model is in {run / 'model'}")


@app.command()
def audit(
    model: Annotated[str, typer.Argument(help="model folder, hub id, run folder, or a folder of observations")],
    forget: Forget = "",
    retain: Retain = "",
    holdout: Holdout = "",
    original: Annotated[str, typer.Option(help="the model before forgetting")] = "",
    reference: Annotated[str, typer.Option(help="a model retrained without the rows to forget")] = "",
    suite: Annotated[str, typer.Option(help="a benchmark whose sets fill what is not given")] = "",
    data: Data = "",
    split: Annotated[str, typer.Option(help="split of the benchmark")] = "",
    attack: Annotated[list[str] | None, typer.Option(help="intervention followed by the same scores, e.g. relearn")] = None,
    controls: Annotated[bool, typer.Option("--controls", help="also look at random weights and an input filter")] = False,
    run: Out = Path(),
    prompt_format: Format = "",
    limit: Annotated[int, typer.Option(help="rows of retain and holdout that are looked at; 0: all")] = 400,
    overwrite: Overwrite = False,
    allow_overlap: Overlap = False,
    allow_pickle: Pickle = False,
    trust_remote_code: Remote = False,
) -> None:
    """Look at a model that is said to have forgotten: scores with intervals, a verdict in words, a report."""
    _required(out=run != Path())
    from .audit.auditing import audit as look
    from .audit.subjects import MAIN

    with console.progress() as show:
        done = look(
            model,
            forget or None,
            retain or None,
            holdout or None,
            suite=suite,
            data=data,
            split=split,
            original=original or None,
            reference=reference or None,
            attack=tuple(attack or ()),
            with_controls=controls,
            out=run,
            prompt_format=prompt_format,
            limit=limit,
            overwrite=overwrite,
            allow_overlap=allow_overlap,
            progress=show,
            load_options=_options(allow_pickle, trust_remote_code),
        )
    console.show_scores({n: done.scores[n] for n in (*MAIN, *done.scores) if n in done.scores}, out.print)
    console.show_verdict(done.verdict, out.print)
    out.print(f"report: {run / 'report.html'}", highlight=False)


@app.command(context_settings=FREE)
def attack(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="attack: see `expunge names attacks`")],
    model: Annotated[str, typer.Argument(help="model folder, hub id or run folder")],
    forget: Forget = "",
    retain: Retain = "",
    holdout: Holdout = "",
    reference: Annotated[str, typer.Option(help="a model retrained without the rows to forget")] = "",
    suite: Annotated[str, typer.Option(help="a benchmark whose sets fill what is not given")] = "",
    data: Data = "",
    split: Annotated[str, typer.Option(help="split of the benchmark")] = "",
    run: Out = Path(),
    prompt_format: Format = "",
    overwrite: Overwrite = False,
) -> None:
    """Attack one model, and print what the attack found. Knobs of the attack follow as [bold]--NAME VALUE[/]."""
    catalog.load(name, "attacks")
    _required(out=run != Path())
    from .audit.auditing import audit as look

    with console.progress() as show:
        knobs = console.knobs_from(ctx.args)
        sources = {"forget": forget or None, "retain": retain or None, "holdout": holdout or None, "reference": reference or None}
        where: dict[str, Any] = {"suite": suite, "data": data, "split": split, "out": run, "overwrite": overwrite}
        done = look(model, **sources, **where, prompt_format=prompt_format, attack=(name,), attack_knobs=knobs, progress=show)  # type: ignore[arg-type]
    if curve := done.attacks.get(name):
        console.show_curve(curve, out.print)
    else:
        own = {s.strip() for s in catalog.card(name, "attacks").fields.get("Scores", "").split(",")}
        console.show_scores({n: r for n, r in done.scores.items() if n in own}, out.print)
        for missing in sorted(own & done.skipped.keys()):
            out.print(f"{missing}: {done.skipped[missing]}")
    out.print(f"report: {run / 'report.html'}", highlight=False)


@app.command(context_settings=FREE)
def bench(
    ctx: typer.Context,
    suite: Annotated[str, typer.Argument(help="benchmark: see `expunge names benchmarks`")],
    methods: Annotated[str, typer.Option(help="names, comma-separated")] = "graddiff,npo,flat",
    seeds: Annotated[int, typer.Option(help="how often each method forgets", min=1)] = 1,
    model: Annotated[str, typer.Option(help="model folder, hub id, or a built-in size: nano, micro, tiny")] = "tiny",
    data: Data = "",
    split: Annotated[str, typer.Option(help="split of the benchmark")] = "",
    holdout: Annotated[str, typer.Option(help="file of rows never trained on, or 'carve' where the benchmark can")] = "",
    original: Annotated[str, typer.Option(help="a model trained on everything, instead of training one")] = "",
    reference: Annotated[str, typer.Option(help="a model trained without the forget set, instead of training one")] = "",
    limit: Annotated[int, typer.Option(help="rows of retain and holdout that are looked at; 0: all")] = 400,
    train_knobs: Annotated[
        list[str] | None, typer.Option("--train", help="NAME=VALUE for training the original and retrained model")
    ] = None,
    relearn: Annotated[bool, typer.Option(help="also measure how fast forgotten rows come back")] = True,
    run: Out = Path(),
    overwrite: Overwrite = False,
) -> None:
    """Methods x seeds on a benchmark against four controls: table, Pareto plot, report. Resumes where it was stopped.

    Knobs follow as [bold]--NAME VALUE[/] (for every method) or [bold]--METHOD:NAME VALUE[/].
    """
    _required(out=run != Path())
    from .bench import Sweep

    teach = console.knobs_from([f"--{k}" for k in train_knobs or ()])
    names = tuple(m.strip() for m in methods.split(",") if m.strip())
    knobs = console.knobs_from(ctx.args)
    sweep = Sweep(suite, names, data, split, model, seeds, holdout, limit, relearn, knobs, teach, {}, original, reference)
    _sweep(sweep, run, overwrite)


def _sweep(sweep: Any, run: Path, overwrite: bool) -> None:
    from .audit.subjects import MAIN
    from .bench import bench as measure
    from .report.table import render

    with console.progress() as show:
        done = measure(sweep, run, overwrite=overwrite, progress=show, command=f"expunge {shlex.join(sys.argv[1:])}")
    out.print(render(list(done.entries), list(MAIN)))
    console.show_verdict([{"level": v.level, "text": v.text} for v in done.story.verdict], out.print)
    out.print(f"report: {run / 'report.html'}", highlight=False)


@app.command()
def demo(
    run: Annotated[Path, typer.Option("--out", help="run folder")] = Path("runs/demo"),
    overwrite: Overwrite = False,
) -> None:
    """The whole story on a bundled case: fictitious people, a small language model, three methods, four controls, one report."""
    from .bench import Sweep

    _sweep(Sweep("people", ("graddiff", "npo", "flat"), model="micro"), run, overwrite)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders: of audits, benchmarks or unlearning")],
    page: Annotated[Path, typer.Option("--out", help="where the page goes; default: report.html in the first folder")] = Path(),
) -> None:
    """One page of what is in some run folders, drawn anew."""
    from .report.collect import collect
    from .report.page import write

    out.print(f"report: {write(collect(runs), page if page != Path() else runs[0] / 'report.html')}", highlight=False)


@app.command()
def names(
    kind: Annotated[str, typer.Argument(help="methods, metrics, attacks, benchmarks or models; default: all")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False,
) -> None:
    """What there is, by name."""
    kinds = [kind] if kind else list(catalog.kinds())
    cards = {k: [catalog.card(n, k) for n in catalog.names(k)] for k in kinds}
    if as_json:
        found = {k: [{"name": c.name, "status": c.status, "summary": c.headline} for c in cs] for k, cs in cards.items()}
        print(json.dumps(found[kind] if kind else found, indent=1))
        return
    for k, cs in cards.items():
        out.print(f"[bold]{k}[/]")
        for c in cs:
            out.print(f"  {c.name:18} {c.headline}", overflow="ellipsis", no_wrap=True, highlight=False)


@app.command()
def card(name: Annotated[str, typer.Argument(help="a name of the catalogue")]) -> None:
    """What one method, metric, attack, benchmark or model is: equation, source, needs, cost, status."""
    c = catalog.card(name)
    out.print(f"[bold]{c.name}[/] ({c.kind[:-1]}, {c.folder}/{c.name}.py)\n\n{c.summary}\n", highlight=False)
    for key, text in c.fields.items():
        out.print(f"[bold]{key}[/]: {text}", highlight=False)
    for k in c.knobs:
        out.print(f"  --{k.name.replace('_', '-')} {k.default}  {k.help}", highlight=False)


@app.command()
def reproduce(
    name: Annotated[str, typer.Argument(help="a method; with --all not needed")] = "",
    everything: Annotated[bool, typer.Option("--all", help="every method that has committed numbers")] = False,
    update: Annotated[bool, typer.Option("--update", help="write the numbers instead of comparing with them")] = False,
) -> None:
    """Show a paper's effect on a CPU-size case, and compare with the committed numbers."""
    from . import reproduction

    if not name and not everything:
        raise UserError("give the name of a method, or --all")
    with console.progress() as show:
        results = [reproduction.reproduce(n, update=update, progress=show) for n in (reproduction.names() if everything else [name])]
    for r in results:
        out.print(r.told(), highlight=False)
    if not all(r.agrees for r in results):
        raise SystemExit(1)


def _required(**given: Any) -> None:
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise UserError(f"missing option{'s' if len(missing) > 1 else ''} {' and '.join(f'--{m}' for m in missing)}")


def main() -> NoReturn:
    """Entry point: what the user can mend is one sentence and exit code 2."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        app()
    except UserError as error:
        _fail(f"error: {error}", 2)
    except Interrupted:
        _fail("stopped; the same command with --resume goes on from here", 130)
    except KeyboardInterrupt:
        _fail("stopped", 130)
    raise SystemExit(0)


def _fail(sentence: str, code: int) -> NoReturn:
    print(sentence, file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
