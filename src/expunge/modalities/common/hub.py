"""What can be said about a model or a data set by its name, before a library looks for it: quickly, with one question to the hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Literal

from expunge.core.errors import UserError
from expunge.core.suggest import did_you_mean

TIMEOUT = 10  # seconds until a hub that does not answer counts as out of reach
SIMILAR = 0.75  # how alike a file name must be to be suggested: a letter or two differ
Presence = Literal["there", "missing", "unreachable"]


def near(path: Path) -> str:
    """`; did you mean 'x'?` with names beside a missing path that differ from it by a letter or two, or an empty string."""
    try:
        beside = sorted(p.name for p in path.parent.iterdir())
    except OSError:  # no such folder, or one that may not be listed
        return ""
    return did_you_mean(path.name, beside, cutoff=SIMILAR)


def check_model(name: str) -> None:
    """Ask the hub once about a model that is no folder, before the libraries ask many times.

    Raises:
        UserError: for a name that is neither a folder nor on the hub.
    """
    import huggingface_hub

    suggestion = near(Path(name).expanduser())
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", name):
        raise UserError(f"there is no folder {name}{suggestion}")
    files = ("config.json", "adapter_config.json", "model_index.json")
    if any(isinstance(huggingface_hub.try_to_load_from_cache(name, file), str) for file in files):
        return
    match look_up(name, "model"):
        case "missing":
            raise UserError(f"there is no folder {name} here, and no model of that name that you may read on the hub{suggestion}")
        case "unreachable":
            raise UserError(f"there is no folder {name} here, and the hub cannot be reached to look for it there{suggestion}")


def check_data(name: str, advice: str = "") -> None:
    """Ask the hub once about a data set. advice: how to do without it, for the message.

    Raises:
        UserError: for a data set that is neither on the hub nor in the cache.
    """
    match look_up(name, "dataset"):
        case "missing":
            raise UserError(f"there is no '{name}' here, and the hub has no data set of that name that you may read{advice}")
        case "unreachable" if not _in_cache(name):
            raise UserError(f"there is no '{name}' here, and the hub cannot be reached to look for it there{advice}")


def _in_cache(name: str) -> bool:
    """Whether the caches have something of a data set; whether it is enough shows when it is read."""
    from huggingface_hub import constants

    prepared = Path(os.environ.get("HF_DATASETS_CACHE") or Path(constants.HF_HOME) / "datasets") / name.replace("/", "___").lower()
    downloaded = Path(constants.HF_HUB_CACHE) / f"datasets--{name.replace('/', '--')}"
    return any(p.exists() for p in (prepared, prepared.with_name(name.replace("/", "___")), downloaded))


def look_up(name: str, kind: Literal["model", "dataset"]) -> Presence:
    """Whether the hub has a model or a data set that the user may read; the answer is kept for this process."""
    from huggingface_hub import constants

    return "unreachable" if constants.HF_HUB_OFFLINE else _presence(name, kind)


@cache
def _presence(name: str, kind: Literal["model", "dataset"]) -> Presence:
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        getattr(huggingface_hub.HfApi(), f"{kind}_info")(name, timeout=TIMEOUT)
    except RepositoryNotFoundError:
        return "missing"
    except Exception:  # any other error means: no answer
        return "unreachable"
    return "there"


@contextmanager
def offline(unreachable: bool) -> Iterator[None]:
    """Let the libraries read their caches only, where the hub is out of reach; they would ask it again and again."""
    import datasets
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    if unreachable:
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before
