"""The commands that hand results on: merge an adapter into its base, publish a run on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from expunge.cli.console import say
from expunge.cli.options import Dtype, Overwrite, Pickle, Remote


def merge(
    adapter: Annotated[str, typer.Argument(help="folder or hub id of an adapter, or the folder of a run that made one")],
    folder: Annotated[Path, typer.Option("--out", help="folder for the whole model", show_default=False)],
    overwrite: Overwrite = False,
    dtype: Dtype = "",
    allow_pickle: Pickle = False,
    trust_remote_code: Remote = False,
) -> None:
    """Work an adapter into the weights of its base, and write the whole model."""
    from expunge.workflows.merge import merge as merge_adapter

    options = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code, "dtype": dtype}
    _, sentences = merge_adapter(adapter, folder, overwrite=overwrite, load_options=options)
    for sentence in sentences:
        say(sentence, "[yellow]warning:[/] ")
    say(f"the model is in {folder}")


def push(
    run: Annotated[str, typer.Argument(help="folder of a run that made a model or an adapter")],
    repo: Annotated[str, typer.Argument(help="repository of the hub, as owner/name")],
    base: Annotated[str, typer.Option(help="hub id of the model that an adapter belongs to")] = "",
    public: Annotated[bool, typer.Option("--public", help="make a new repository public")] = False,
) -> None:
    """Publish a model or an adapter with its card and receipt on the hub. What quotes rows is refused."""
    from expunge.workflows.push import push_to_hub

    say(f"published: {push_to_hub(run, repo, base=base, private=not public)}")
