"""By-design stores as users meet them: which method made one, with which settings, and what it means to forget from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.core.hyperparameters import hyperparameters_of, named, override
from expunge.core.parts import ByDesign
from expunge.core.plan import Plans
from expunge.core.request import Request
from expunge.engine import artifact, identity
from expunge.engine.committee import Committee
from expunge.io.models import Opened, receipt_of

PROMISED = frozenset({"E0", "E1", "C"})  # levels of guarantees under which a row that is still predicted is predicted from other rows


def method_of(model: str | Path | Opened) -> str:
    """The method that made the by-design store in a folder.

    Raises:
        UserError: where the folder holds no store.
    """
    source = model.source if isinstance(model, Opened) else model
    receipt = receipt_of(source)
    if not receipt.get("result", {}).get("store"):
        raise UserError(f"{source} is not a by-design store, so name a method: expunge unlearn METHOD --model {source}")
    return str(receipt["method"])


def settled(plans: Plans, opened: Opened, method: str, request: Request, given: Mapping[str, Any]) -> tuple[Plans, dict[str, Any] | None]:
    """The plans and the store of a request to forget: a store is forgotten from with the settings that it was made with.

    Args:
        plans: of the method, with the settings that the user gave.
        given: these settings.

    Returns:
        The plans with the settings of the store, and the store. As they are, and None, for another method or for training.

    Raises:
        UserError: where the model has no store or one of another method, where another setting or rows to retain are given, and for an
            ensemble that another method shall change.
    """
    if not isinstance(plans[0].action, ByDesign):
        if isinstance(opened.model, Committee):
            raise UserError(
                f"{opened.source} is an ensemble of {len(opened.model)} models, and this method changes one: take rows out of the store "
                f"that it came from with expunge unlearn --model {opened.source}"
            )
        return plans, None
    if request.forget is None:
        return plans, None
    store = artifact.read_store(Path(opened.source))
    receipt = receipt_of(opened.source)
    maker = receipt.get("method", "")
    if store is None:
        raise UserError(f"{opened.source} holds no store to forget from: make one with expunge train --method {method}")
    if maker != method:
        raise UserError(f"the store in {opened.source} was made by {maker!r}, and not by {method!r}: forget with that method")
    kept = override(plans[0], receipt["stages"][0]["hyperparameters"])
    for name, value in given.items():
        if override(kept, {name: value}) != kept:
            option = name.replace("_", "-")
            was = next((h.value for h in named(hyperparameters_of(kept), name)), "another value")
            raise UserError(
                f"the store in {opened.source} was made with --{option} {was}, and rows are taken out with the same settings: leave "
                f"--{option} {value} out, or train another store with it"
            )
    return (kept,), store


def still_there(opened: Opened, store: Mapping[str, Any] | None) -> list[str]:
    """A warning that the store that rows were taken out of still holds them, since the result is another one."""
    if store is None:
        return []
    return [f"the store in {opened.source} still holds the rows that were taken out here: delete it, and every copy of it"]


def made_elsewhere(opened: Opened, store: Mapping[str, Any] | None) -> list[str]:
    """A warning that other versions of packages made the store than those that take rows out of it."""
    made_with, here = receipt_of(opened.source).get("versions", {}), identity.packages()
    changed = [f"{n} {made_with[n]} (here {v})" for n, v in here.items() if made_with.get(n, v) != v]
    if store is None or not changed:
        return []
    return [f"the store in {opened.source} was made with {', '.join(changed)}: a guarantee of equality bit for bit does not cover that"]


def promised(store: Mapping[str, Any] | None) -> bool:
    """Whether forgetting from a store is guaranteed, exactly or by a certificate."""
    return bool(store) and (store or {}).get("guarantee", {}).get("level") in PROMISED
