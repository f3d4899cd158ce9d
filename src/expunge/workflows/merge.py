"""Work an adapter into the weights of its base: the workflow behind `expunge merge`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.engine import stored
from expunge.engine.adapters import is_adapted, merged
from expunge.io import run_dirs
from expunge.io.models import load


def merge(
    model: str | Path, out: str | Path, *, overwrite: bool = False, load_options: Mapping[str, Any] | None = None
) -> tuple[Path, tuple[str, ...]]:
    """Write a whole model in place of an adapter and its base, right where the adapter changes one of two tied matrices, too.

    Args:
        model: a folder or hub id of an adapter, or the folder of a run that made one.
        out: a new folder.
        overwrite: replace the run in `out`.
        load_options: of `load`.

    Returns:
        The folder, and sentences about what was converted.

    Raises:
        UserError: when the model has no adapter, or the folder is not free.
    """
    folder = Path(out)
    run_dirs.check_free(folder, overwrite, (model,))
    opened = load(model, **(load_options or {}))
    if not is_adapted(opened.model) and not stored.notes(opened.model):
        raise UserError(f"{model} is no adapter, so there is nothing to merge")
    whole = merged(opened.model)
    rounding = stored.round_as_stored(whole)
    run_dirs.empty(folder)
    opened.modality.save(whole, folder)
    return folder, (*stored.notes(opened.model), *([rounding] if rounding else []))
