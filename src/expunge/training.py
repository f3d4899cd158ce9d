"""Plain supervised training, for the original and the retrained model of a benchmark; kept on disk by content, so it is done once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import folders, resolve
from .core import receipt
from .core.catalog import load as load_module
from .core.loop import Hooks
from .core.parts import Rows
from .core.request import digest
from .loading import Opened, Source, cache_home, load, records
from .unlearning import Result, unlearn

Records = Sequence[Mapping[str, Any]]


def texts_of(rows: Records) -> list[str]:
    """Everything that is said in some records, for a tokenizer to be trained on."""
    return [" ".join(str(v) for v in r.values() if isinstance(v, str)) for r in rows]


def start(model: str, texts: Sequence[str], prompt_format: str = "", seed: int = 0, **options: Any) -> Opened:
    """An untrained model of a built-in size with a tokenizer for the texts, or the model of a folder or hub id."""
    llama = load_module("llama", "models")
    if model not in llama.SIZES:
        return load(model, prompt_format, **options)
    from .modalities.text import Text

    made, tokenizer = llama.build(model, [*texts, prompt_format], seed)
    return Opened(made, Text(tokenizer, prompt_format, llama.SIZES[model].length), model)


def train(
    data: Source,
    model: str,
    *,
    out: str | Path | None = None,
    texts: Sequence[str] = (),
    prompt_format: str = "",
    seed: int = 0,
    overwrite: bool = False,
    cache: Path | None = None,
    hooks: Hooks | None = None,
    load_options: Mapping[str, Any] | None = None,
    **knobs: Any,
) -> Result:
    """Train a model on all rows of some data.

    model: a folder or hub id, or a built-in size (nano, micro, tiny), which gets a tokenizer trained on `texts` (default: the data) and,
    where `knobs` do not say otherwise, that size's settings. out: where to copy the result. The same work is done once.
    Errors: UserError.
    """
    if out:
        folders.check_free(Path(out), overwrite, (data, model))
    found = records(data, "training")
    llama = load_module("llama", "models")
    knobs = {**llama.TRAINING.get(model, {}), **knobs}
    opened = start(model, texts or texts_of(found), prompt_format, seed, **(load_options or {}))
    rows: Rows = opened.port.rows("retain", found, str(data) if isinstance(data, (str, Path)) else "training")
    settings = {**knobs, "seed": seed}
    plans = resolve.plan("finetune", settings)
    key = digest(
        [receipt.hash_weights(opened.model), opened.port.about(), rows.ids, rows["prompt"], rows["answer"], receipt.describe(plans)]
    )
    kept = (cache or cache_home()) / "models" / key
    if not (kept / "receipt.json").exists():
        begun = (kept / "checkpoint").exists()
        unlearn("finetune", opened, retain=rows, out=kept, resume=begun, overwrite=kept.exists() and not begun, hooks=hooks, **settings)
    place = Path(out) if out else kept
    if out:
        whole = place.with_name(place.name + ".tmp")
        folders.remove(whole)
        shutil.copytree(kept, whole)
        folders.remove(place)
        whole.rename(place)
    again = load(place, prompt_format, **(load_options or {}))
    return Result(again.model, again.port, json.loads((kept / "receipt.json").read_text()), place)
