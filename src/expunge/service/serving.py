"""Starting the guarded endpoint: which model, which guards, who may ask, and on which address."""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette

from expunge.core.errors import UserError
from expunge.engine.guarding import is_guarded
from expunge.io.models import load
from expunge.service.api_keys import ApiKeys
from expunge.service.endpoint import application
from expunge.service.interactive import Interactive
from expunge.service.ledger import Ledger
from expunge.service.models import FollowedModel, LocalModel, ServedModel, Upstream
from expunge.service.text_guards import RunGuard, TextGuard, names_in
from expunge.service.watchdog import Turn

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


def guarded_endpoint(
    *,
    model: str = "",
    upstream: str = "",
    upstream_model: str = "",
    name: str = "",
    guards: Sequence[str] = (),
    names: str = "",
    keys: str = "",
    host: str = "127.0.0.1",
    hosts: Sequence[str] = (),
    unguarded: bool = False,
    chats: Interactive | None = None,
    follow: Ledger | None = None,
    load_options: Mapping[str, Any] | None = None,
) -> Starlette:
    """The application of an endpoint, with everything loaded: what cannot be guarded does not start.

    Args:
        model: a folder or run that is served by this process, with the guard of its run; or
        upstream, upstream_model: the address of a server behind, and its one model.
        name: under which clients know the model; default: that of the model behind, or of its folder.
        guards: folders of runs that made a guard which looks at prompts.
        names: a file of names and other phrases, one in each line, that are neither asked about nor said.
        keys: the file with the keys of clients.
        host: the address; another than this machine's own needs keys.
        hosts: names by which clients call this server, besides those of this machine.
        unguarded: start without any guard.
        chats: in which clients can ask to be forgotten: the label of a key says who its client is. It brings the guard of open requests.
        follow: a ledger: `model` is served until a run is done, and then the model of that run, without a new start.
        load_options: of `load`.

    Raises:
        UserError: where these do not fit together.
    """
    if follow is not None and upstream:
        raise UserError(
            "a server behind has a model of its own, which no ledger can swap: serve it here with --model, or leave --follow out"
        )
    if bool(model) is bool(upstream) and follow is None:
        raise UserError("name what is served: --model for a model that runs here, or --upstream with --upstream-model for a server behind")
    if not is_loopback(host) and not keys:
        raise UserError(
            f"{host} can be reached from elsewhere, so clients need keys: --api-keys FILE (expunge api-key FILE LABEL makes one)"
        )
    known_keys = ApiKeys(keys) if keys else None
    if known_keys is not None and not known_keys.entries:
        raise UserError(f"there is no key in {keys}, so nobody could ask: expunge api-key {keys} LABEL makes one")
    text_guards: list[TextGuard] = [names_in(names)] if names else []
    if chats is not None and known_keys is None:
        raise UserError("who asks to be forgotten must be known: give clients keys with --api-keys, whose labels say who they are")
    text_guards += [chats.guard()] if chats is not None else []
    text_guards += [RunGuard(load(guard, **(load_options or {}))) for guard in guards]
    served: ServedModel
    if follow is not None:
        served = FollowedModel(follow, load(model, **(load_options or {})) if model else None, load_options)
        has_guard = bool(text_guards)
        name = name or (Path(model).name if model else follow.folder.name)
    elif model:
        opened = load(model, **(load_options or {}))
        served, has_guard = LocalModel(opened), bool(text_guards) or is_guarded(opened.modality)
        name = name or Path(model).name
    else:
        served, has_guard = Upstream(upstream, upstream_model), bool(text_guards)
        name = name or upstream_model
    if not has_guard and not unguarded:
        raise UserError("no guard stands before this model: name one with --guard or --names, or serve it so with --unguarded")
    hear = None
    if chats is not None and known_keys is not None:
        entries = known_keys.entries

        def hear(owner: str, dialogue: Sequence[Turn]) -> str:
            return chats.hear(str(entries[owner]["label"]), dialogue).reply

    return application(served, name, text_guards, known_keys, [*LOOPBACK, *([host] if host not in LOOPBACK else []), *hosts], hear)


def is_loopback(host: str) -> bool:
    """Whether an address is one that only this machine reaches."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def run(app: Starlette, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve until the process is stopped. The log has paths, ids of keys, statuses and seconds, and never a prompt."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    uvicorn.run(app, host=host, port=port, access_log=False, server_header=False, log_config=None, timeout_graceful_shutdown=10)
