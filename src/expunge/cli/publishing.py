"""The commands that hand results on: merge an adapter into its base, publish a run on the hub, list what it was made of."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli import options
from expunge.cli.console import Printer


def add(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(merge)
    app.command()(push)
    app.command()(bill)


def merge(
    adapter: Annotated[str, typer.Argument(help="folder or hub id of an adapter, or the folder of a run that made one")],
    folder: Annotated[Path, typer.Option("--out", help="folder for the whole model", show_default=False)],
    overwrite: options.Overwrite = False,
    device: options.Device = "auto",
    dtype: options.Dtype = None,
    allow_pickle: options.Pickle = False,
    trust_remote_code: options.Remote = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Work an adapter into the weights of its base, and write the whole model."""
    from expunge.workflows.merge import merge as merge_adapter

    printer = Printer(as_json, quiet)
    load_options = options.load_options(device, dtype, allow_pickle, trust_remote_code)
    _, sentences = merge_adapter(adapter, folder, overwrite=overwrite, load_options=load_options)
    for sentence in sentences:
        printer.say(sentence, "[yellow]warning:[/] ")
    printer.say(f"the model is in {folder}")
    printer.result(lambda: {"folder": str(folder), "warnings": [*sentences]})


def push(
    run: Annotated[str, typer.Argument(help="folder of a run that made a model or an adapter")],
    repo: Annotated[str, typer.Argument(help="repository of the hub, as owner/name")],
    base: Annotated[str, typer.Option(help="hub id of the model that an adapter belongs to")] = "",
    public: Annotated[bool, typer.Option("--public", help="make a new repository public")] = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Publish a model or an adapter with its card and receipt on the hub. What quotes rows is refused."""
    from expunge.workflows.push import push_to_hub

    printer, address = Printer(as_json, quiet), push_to_hub(run, repo, base=base, private=not public)
    printer.say(f"published: {address}")
    printer.result(lambda: {"address": str(address)})


def bill(
    run: Annotated[str, typer.Argument(help="folder of a run that made a model or an adapter")],
    out: Annotated[Path, typer.Option("--out", help="file for the bill")] = Path("bom.json"),
    audit: Annotated[str, typer.Option(help="folder of its audit, whose scores and gaps are taken in")] = "",
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Write a bill of materials (CycloneDX ML-BOM): files, base model, data, libraries, settings, scores. It quotes no row."""
    from expunge.workflows.materials import bill_of_materials

    printer, file = Printer(as_json, quiet), bill_of_materials(run, out, audit=audit or None)
    printer.say(f"the bill of materials is in {file}")
    printer.result(lambda: {"file": str(file)})
