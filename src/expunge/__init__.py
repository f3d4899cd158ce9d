"""Remove the influence of chosen training data from a trained model, and give evidence that it is gone.

Everything here is imported when it is first used, so that `import expunge` is quick and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expunge.catalog import card as card
    from expunge.catalog import names as names
    from expunge.catalog import register as register
    from expunge.core.errors import Interrupted as Interrupted
    from expunge.core.errors import UserError as UserError
    from expunge.core.plan import Plan as Plan
    from expunge.core.plan import Train as Train
    from expunge.core.request import Request as Request
    from expunge.io.models import Opened as Opened
    from expunge.io.models import classifier as classifier
    from expunge.io.models import load as load
    from expunge.io.models import recommender as recommender
    from expunge.modalities.table.columns import table_rows as table_rows
    from expunge.workflows.attack import attack as attack
    from expunge.workflows.audit import audit as audit
    from expunge.workflows.audit_result import Audit as Audit
    from expunge.workflows.benchmark import bench as bench
    from expunge.workflows.build_plan import plan as plan
    from expunge.workflows.callbacks import Callback as Callback
    from expunge.workflows.merge import merge as merge
    from expunge.workflows.push import push_to_hub as push_to_hub
    from expunge.workflows.sequence import sequence as sequence
    from expunge.workflows.sweep import Sweep as Sweep
    from expunge.workflows.sweep import SweepResult as SweepResult
    from expunge.workflows.trackers import Tracker as Tracker
    from expunge.workflows.train import train as train
    from expunge.workflows.unlearn import Result as Result
    from expunge.workflows.unlearn import unlearn as unlearn
    from expunge.workflows.watch import Watch as Watch
    from expunge.workflows.watch import watching as watching

    __version__: str

__all__ = [
    "Audit",
    "Callback",
    "Interrupted",
    "Opened",
    "Plan",
    "Request",
    "Result",
    "Sweep",
    "SweepResult",
    "Tracker",
    "Train",
    "UserError",
    "Watch",
    "__version__",
    "attack",
    "audit",
    "bench",
    "card",
    "classifier",
    "load",
    "merge",
    "names",
    "plan",
    "push_to_hub",
    "recommender",
    "register",
    "sequence",
    "table_rows",
    "train",
    "unlearn",
    "watching",
]

_MODULES = {  # the module that a name comes from
    "unlearn": "workflows.unlearn",  # unlearn(method, model, forget, retain): a model that has forgotten, and its receipt
    "audit": "workflows.audit",  # audit(model, forget, retain, holdout): scores, verdict and report
    "sequence": "workflows.sequence",  # sequence(audits): scores of requests that came one after the other, from the audit after each
    "attack": "workflows.attack",  # attack(name, model, forget): an audit with one attack
    "train": "workflows.train",  # train(data, model): the original or the retrained model of a comparison
    "merge": "workflows.merge",  # merge(adapter, out): an adapter worked into the weights of its base
    "push_to_hub": "workflows.push",  # push_to_hub(run, repo): a model or an adapter with its card and receipt, on the hub
    "bench": "workflows.benchmark",  # bench(Sweep(suite, methods)): methods x seeds against four controls
    "watching": "workflows.watch",  # watching(forget, retain): scores after every epoch, for unlearn(watch=...)
    "load": "io.models",  # load(path): a model with its modality, from a folder, hub id or run
    "classifier": "io.models",  # classifier(module, labels): any torch module that returns logits for images
    "recommender": "io.models",  # recommender(module, users, items, interactions): any torch module that scores items for users
    "table_rows": "modalities.table.columns",  # table_rows(X, y): rows of a table from arrays, for all that takes rows
    "plan": "workflows.build_plan",  # plan(name, hyperparameters): what a method does, with some of its settings changed
    "names": "catalog",  # names(kind): what there is
    "register": "catalog",  # register(kind, name, module): one more of a kind, for this process
    "card": "catalog",  # card(name): what it is, from its docstring
    "Sweep": "workflows.sweep",  # what a benchmark run is asked to do
    "Plan": "core.plan",  # one stage: an objective with its updates, selectors and stops, or an edit, or a guard
    "Train": "core.plan",  # how a stage is trained
    "Request": "core.request",  # which rows to forget, and what may be used for it
    "Callback": "workflows.callbacks",  # what is told of a run while it runs
    "Tracker": "workflows.trackers",  # where the numbers of runs are kept
    "Opened": "io.models",  # what load returns
    "Result": "workflows.unlearn",  # what unlearn and train return
    "Audit": "workflows.audit_result",  # what audit and attack return
    "SweepResult": "workflows.sweep",  # what bench returns
    "Watch": "workflows.watch",  # what watching returns
    "UserError": "core.errors",  # a mistake that the user can correct, in one sentence
    "Interrupted": "core.errors",  # the user stopped a run, which can be resumed
}

if not TYPE_CHECKING:  # a type checker knows the names above, and no others

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            from importlib.metadata import version

            return version("expunge")
        if name not in _MODULES:
            raise AttributeError(f"module 'expunge' has no attribute {name!r}")
        return getattr(importlib.import_module(f"expunge.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
