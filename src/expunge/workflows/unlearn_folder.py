"""What a run leaves: its receipt, and the folder with the result and its card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from expunge import catalog
from expunge.core.errors import UserError
from expunge.core.modality import Modality
from expunge.core.parts import Guard
from expunge.core.plan import Plans
from expunge.engine import adapters, artifact, receipt
from expunge.engine.guarding import Guarded
from expunge.engine.run_state import RunState
from expunge.io import run_dirs
from expunge.report import model_card
from expunge.workflows.aftermath import unchanged


def receipt_of_run(
    description: Mapping[str, Any], run: RunState, plans: Plans, before: str, adapted: bool, notes: Sequence[str], failures: list[str]
) -> dict[str, Any]:
    """The receipt of a run.

    Args:
        description: what is known before the run: method, stages, model, request.
        before: the hash of the weights at the start.
        adapted: whether the model had an adapter at the start.
        notes: what loading the model showed.
        failures: what went wrong beside the run.

    Raises:
        UserError: where nothing changed and the method is no guard.
    """
    after = receipt.hash_weights(run.model)
    guarded = isinstance(plans[-1].action, Guard)
    # the weights of a new adapter have new names, and change nothing until one of these is not zero
    new_adapters = adapters.is_adapted(run.model) and not adapted
    changed = any(bool(p.any()) for n, p in run.model.named_parameters() if "lora_B" in n) if new_adapters else after != before
    forgotten = (
        run.store is not None and "forget" in description["request"]["sets"]
    )  # rows may leave a store without ever having moved a weight
    tokenizer = run.modality.about().get("tokenizer")
    retokenized = tokenizer != description["modality"].get("tokenizer")
    if not changed and not guarded and not forgotten and not retokenized:
        raise UserError(unchanged(run, plans))
    return {
        **description,
        "expunge": receipt.versions()["expunge"],
        "result": {
            "weights": after,
            "changed": changed,
            "kind": artifact.kind_of(plans, run.model),
            **({"guard": {"holds": run.modality.holds}} if isinstance(run.modality, Guarded) else {}),
            **({"tokenizer": tokenizer} if retokenized else {}),
            **({"store": True, "guarantee": dict(run.store.get("guarantee", {}))} if run.store is not None else {}),
        },
        "seed": run.seed,
        "cost": receipt.cost(run),
        "warnings": [*notes, *run.warnings, *failures],
        "shown": run.shown,
        "ended": [{"stage": r["stage"], "epoch": r["epoch"], "why": r["ended"]} for r in run.log if "ended" in r],
        "versions": receipt.versions(),
        "machine": receipt.machine(),
        "compute": receipt.compute(run.model),
    }


def _card(receipt_record: Mapping[str, Any], folder: Path) -> str:
    """The card of a result in a folder."""
    method, kind = str(receipt_record["method"]), str(receipt_record["result"]["kind"])
    summary = f"{catalog.card(method).headline}." if method in catalog.names() else ""
    files = (folder / "config.json", folder / "adapter_config.json")
    config, adapter = (json.loads(f.read_text(encoding="utf-8")) if f.exists() else {} for f in files)
    base = str(adapter.get("base_model_name_or_path") or "")
    return model_card.card(receipt_record, summary, base, model_card.loading(kind, config))


def write(folder: Path, model: nn.Module, modality: Modality, receipt_record: Mapping[str, Any], store: Mapping[str, Any] | None) -> None:
    """The model under a temporary name, then its own, then the receipt: a run folder with a receipt is complete."""
    kind = str(receipt_record["result"]["kind"])
    temporary = folder / f"{kind}.tmp"
    run_dirs.empty(temporary)
    artifact.write(temporary, kind, model, modality)
    if kind != "guard":
        (temporary / "README.md").write_text(_card(receipt_record, temporary), encoding="utf-8")
    run_dirs.remove(folder / kind)
    temporary.rename(folder / kind)
    if store is not None:
        artifact.write_store(folder, store)
    receipt.write(folder / "receipt.json", receipt_record)
    for path in folder.glob("checkpoint*"):
        run_dirs.remove(path)
