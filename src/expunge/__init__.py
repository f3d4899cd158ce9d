"""Remove the influence of chosen training data from a trained model, and give evidence that it is gone.

Everything here is imported when it is first used, so that `import expunge` is quick and needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from . import bench as bench
    from .audit.auditing import audit as audit
    from .core.catalog import card as card
    from .core.catalog import names as names
    from .core.parts import Plan as Plan
    from .core.parts import Train as Train
    from .core.request import Request as Request
    from .loading import classifier as classifier
    from .loading import load as load
    from .reproduction import reproduce as reproduce
    from .resolve import plan as plan
    from .training import train as train
    from .unlearning import unlearn as unlearn

    __version__: str

WHERE = {  # the module that a name comes from; "": it is a module itself
    "unlearn": "unlearning",  # unlearn(method, model, forget, retain): a model that has forgotten, and its receipt
    "audit": "",  # audit(model, forget, retain, holdout): scores, verdict and report; the package is callable
    "train": "training",  # train(data, model): the original or the retrained model of a comparison
    "bench": "",  # bench.bench(bench.Sweep(suite, methods)): methods x seeds against four controls
    "reproduce": "reproduction",  # reproduce(name): a paper's effect, beside the committed numbers
    "load": "loading",  # load(path): a model with its port, from a folder, hub id or run
    "classifier": "loading",  # classifier(module, labels): any torch module that returns logits for images
    "plan": "resolve",  # plan(name, knobs): what a method does, with some knobs changed
    "names": "core.catalog",  # names(kind): what there is
    "card": "core.catalog",  # card(name): what it is, from its docstring
    "Plan": "core.parts",  # one stage: an objective with its updates, selectors and stops, or an edit, or a guard
    "Train": "core.parts",  # how a stage is trained
    "Request": "core.request",  # which rows to forget, and what may be used for it
}
__all__ = [*WHERE, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("expunge")
    if name not in WHERE:
        raise AttributeError(f"module 'expunge' has no attribute {name!r}")
    module = importlib.import_module(f"expunge.{WHERE[name] or name}")
    return getattr(module, name) if WHERE[name] else module


def __dir__() -> list[str]:
    return sorted(__all__)
