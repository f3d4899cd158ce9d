"""Taking back what can be taken back: a run whose parent is still there. And what cannot: deleted keys, destroyed parents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from expunge.core.errors import UserError
from expunge.io import run_dirs
from expunge.service.batch import running_alone
from expunge.service.files import digest_of_model, model_folder
from expunge.service.intake import still_in_source
from expunge.service.ledger import Event, Ledger
from expunge.service.removal import AUDITS, SUMMARY
from expunge.service.states import CLOSED


def undo(ledger: Ledger, request: int, why: str, by: str = "") -> int:
    """Serve the model before the run of a request again; all requests of that run are open anew.

    Args:
        ledger: of the request.
        request: its number.
        why: the reason, which the ledger keeps in plain.
        by: who takes it back.

    Returns:
        The number of the run that was undone.

    Raises:
        UserError: where the run is not the one whose model is served, or where its parent was destroyed or changed.
    """
    if not why.strip():
        raise UserError("give the reason with --why: it is kept in the ledger, in plain")
    with running_alone(ledger):
        row = ledger.request(request)
        if row["state"] not in ("done", "certified"):
            raise UserError(f"request {request} is {row['state']}: only a run that is done can be undone")
        run, (_, served) = ledger.run(row["run"]), ledger.serving()
        if served != run["id"]:
            raise UserError(f"the model of run {served} is served, which was made after run {run['id']}: undo that one first")
        if run["parent_destroyed"]:
            raise UserError(f"run {run['id']} cannot be undone: the model that it began with was destroyed")
        parent = ledger.place(run["parent"])
        if Path(parent).is_absolute() and not Path(parent).exists():
            raise UserError(f"run {run['id']} cannot be undone: the model that it began with, {parent}, is gone")
        if run["parent_weights"] and digest_of_model(parent) != run["parent_weights"]:
            raise UserError(f"run {run['id']} cannot be undone: the model that it began with, {parent}, was changed since")
        before = max((r["id"] for r in ledger.runs() if r["folder"] == run["parent"]), default=None)
        with ledger.writing() as writer:
            for i, number in enumerate(run["batch"]):
                serves = {"serves": {"source": run["parent"], "run": before}} if i == 0 else {}
                writer.append(number, "reopened", {"run": run["id"], "why": why.strip(), **serves}, by)
    return int(run["id"])


def destroy_parent(ledger: Ledger, run_number: int, by: str = "") -> Event:
    """Destroy the model that a run began with, which still holds the rows: after that, the run cannot be undone.

    A model of an earlier run is deleted. The original lies outside the ledger: it must be gone already.

    Raises:
        UserError: where the run is not done, or the original is still there.
    """
    with running_alone(ledger):
        run = ledger.run(run_number)
        if run["state"] != "done":
            raise UserError(f"run {run_number} is {run['state']}: the model that it began with is needed until a run is done")
        if ledger.serving()[0] == ledger.place(run["parent"]):
            raise UserError(f"run {run_number} was undone, so the model that it began with is served: it must stay")
        parent = Path(ledger.place(run["parent"]))
        if run["parent"].startswith("runs/"):
            if parent.exists():
                run_dirs.remove(model_folder(parent))
        elif parent.exists():
            raise UserError(f"{parent} is still there: delete it and its copies first, since it lies outside the ledger")
        elif not parent.is_absolute():
            raise UserError(f"{run['parent']} is a model of the hub, which nobody here can destroy")
        return ledger.append(run["batch"][0], "parent destroyed", {"run": run_number}, by)


def delete_key(ledger: Ledger, request: int, by: str = "", anyway: bool = False) -> Event:
    """Delete the key of a request, and with it its rows: the ledger stays whole, and says nothing of them any more.

    What audits of it wrote (questions, answers, reports) goes too, and the cache of the ledger; their numbers stay in `outcome.json`.

    Args:
        ledger: of the request.
        request: its number.
        by: who deletes it.
        anyway: also where the file of the data still holds the rows.

    Raises:
        UserError: where the request is still open, or where the file that it came from still holds its rows.
    """
    with running_alone(ledger):
        row = ledger.request(request)
        if not row["key"]:
            raise UserError(f"the key of request {request} was deleted already")
        if row["state"] not in CLOSED:
            raise UserError(f"request {request} is {row['state']}: its rows are needed until it is done, refused or withdrawn")
        if not anyway and row["state"] in ("done", "certified") and (count := still_in_source(ledger, request)):
            raise UserError(
                f"the file that request {request} came from still holds {count} of its rows, and a later run would keep them: delete them "
                "there first, or delete the key anyway with --anyway"
            )
        event = ledger.append(request, "key deleted", {}, by)  # first: after a crash, expunge request check finishes the deletion
        purge(ledger, request)
    return event


def purge(ledger: Ledger, request: int) -> None:
    """Delete all that the folder of the ledger holds of a request's rows."""
    for run in ledger.runs():
        concerned: list[Any] = [*run["batch"], *map(int, run["summary"].get("earlier", {}))]
        for folder in sorted(ledger.folder.glob(f"runs/{run['id']:04}*")) if request in concerned else ():
            run_dirs.remove(folder / "selected")
            for checkpoint in folder.glob("checkpoint*"):  # of a run that was killed
                run_dirs.remove(checkpoint)
            run_dirs.remove(folder / "guard")  # which may hold prompts; the request is closed, and needs none
            for path in (folder / AUDITS).iterdir() if (folder / AUDITS).exists() else ():
                if not path.match(SUMMARY.replace(".", "*.")):
                    run_dirs.remove(path)
    run_dirs.remove(ledger.folder / "cache")
    ledger.vault.delete(request)
